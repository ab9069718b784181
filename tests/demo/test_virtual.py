"""The profiles for virtual devices add up and stay as they are."""

from __future__ import annotations

from pathlib import Path

import msgspec

from demo.virtual import SUFFIX, VirtualProfile, make_virtual_models


def test_components_add_up_to_bytes_and_the_peak_is_above(tmp_path: Path) -> None:
    paths = make_virtual_models(tmp_path)
    assert {path.name for path in paths} >= {f"virtual-{family}{SUFFIX}" for family in ("sd15", "sdxl", "flux")}
    for path in paths:
        profile = msgspec.json.decode(path.read_bytes(), type=VirtualProfile)
        assert sum(profile.components.values()) == profile.bytes
        assert profile.peak_bytes > profile.bytes
        assert min(profile.load_ms, profile.step_ms) > 0


def test_writing_again_keeps_what_is_right_and_mends_what_is_not(tmp_path: Path) -> None:
    kept, mended, *_ = make_virtual_models(tmp_path)
    stamp, content = kept.stat().st_mtime_ns, mended.read_bytes()
    mended.write_bytes(content[:10])
    make_virtual_models(tmp_path)
    assert kept.stat().st_mtime_ns == stamp
    assert mended.read_bytes() == content
