"""Virtual models: `NAME.vmodel.json` profiles of sizes and times, without weights.

Decides which profiles are sound. Knows nothing of the devices that simulate them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from modelfiles.jsonfile import corrupted, read_object
from protocol.enums import ModelType

SUFFIX = ".vmodel.json"
MAX_BYTES = 1 << 50
MAX_MS = 1e9


class VirtualProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile: `components` add up to `bytes`; `peak_bytes` is weights and working memory; times in milliseconds."""

    family: ModelType
    bytes: int
    load_ms: float
    step_ms: float
    peak_bytes: int
    components: dict[str, int]


def read_profile(path: Path) -> VirtualProfile:
    """The checked profile at `path`. Raises Fault MODEL_CORRUPTED with the numbers."""
    try:
        profile = msgspec.convert(read_object(path), VirtualProfile)
    except (msgspec.ValidationError, OverflowError) as error:
        raise corrupted(f"{path.name}: {error}") from None
    _check(profile, path.name)
    return profile


def _check(profile: VirtualProfile, what: str) -> None:
    total = sum(profile.components.values())
    if min(profile.components.values(), default=0) < 0 or not 0 < profile.bytes <= MAX_BYTES:
        raise corrupted(f"{what}: bytes is {profile.bytes}: expected sizes from 0 and a sum of 1 to {MAX_BYTES}")
    if total != profile.bytes:
        raise corrupted(
            f"{what}: the components add up to {total} bytes, not to {profile.bytes}",
            components_bytes=total,
            bytes=profile.bytes,
        )
    if profile.peak_bytes < profile.bytes:
        raise corrupted(f"{what}: peak_bytes is {profile.peak_bytes}, less than bytes, {profile.bytes}")
    if not (0 <= profile.load_ms <= MAX_MS and 0 <= profile.step_ms <= MAX_MS):
        raise corrupted(
            f"{what}: load_ms is {profile.load_ms:g}, step_ms {profile.step_ms:g}: expected 0 to {MAX_MS:g}"
        )
