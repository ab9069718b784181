"""Profiles of models for virtual devices: real sizes, no weights.

Decides the bytes and times of the profiles. Bytes are the published parameter counts at two bytes each; load times
follow from them at `DISK_BYTES_PER_MS`. Knows nothing of the devices that simulate them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from demo.place import placed

SUFFIX = ".vmodel.json"
DISK_BYTES_PER_MS = 2_000_000
BYTES_PER_PARAMETER = 2
MIB = 1 << 20

CLIP_L = 123_060_480
OPEN_CLIP_G = 694_659_840
T5_XXL = 4_762_310_656
VAE_4_CHANNELS = 83_653_863
VAE_16_CHANNELS = 83_819_683


class VirtualProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a `NAME.vmodel.json` holds. `components` add up to `bytes`; `peak_bytes` is weights and working memory."""

    family: str
    bytes: int
    load_ms: int
    step_ms: int
    peak_bytes: int
    components: dict[str, int]


class VirtualModel(msgspec.Struct, frozen=True, kw_only=True):
    """A profile's origin: parameter counts by component, and what one picture costs."""

    name: str
    family: str
    step_ms: int
    working_bytes: int
    parameters: dict[str, int]

    def profile(self) -> VirtualProfile:
        components = {part: count * BYTES_PER_PARAMETER for part, count in self.parameters.items()}
        total = sum(components.values())
        return VirtualProfile(
            family=self.family,
            bytes=total,
            load_ms=total // DISK_BYTES_PER_MS,
            step_ms=self.step_ms,
            peak_bytes=total + self.working_bytes,
            components=components,
        )


SDXL_PARAMETERS = {
    "unet": 2_567_463_684,
    "vae": VAE_4_CHANNELS,
    "text_encoder": CLIP_L,
    "text_encoder_2": OPEN_CLIP_G,
}
VIRTUAL_MODELS = [
    VirtualModel(
        name="virtual-sd15",
        family="SD15",
        step_ms=25,
        working_bytes=700 * MIB,
        parameters={"unet": 859_520_964, "vae": VAE_4_CHANNELS, "text_encoder": CLIP_L},
    ),
    VirtualModel(name="virtual-sdxl", family="SDXL", step_ms=80, working_bytes=2_500 * MIB, parameters=SDXL_PARAMETERS),
    VirtualModel(
        name="virtual-sdxl-tuned", family="SDXL", step_ms=80, working_bytes=2_500 * MIB, parameters=SDXL_PARAMETERS
    ),
    VirtualModel(
        name="virtual-flux",
        family="Flux",
        step_ms=350,
        working_bytes=3_000 * MIB,
        parameters={
            "transformer": 11_901_408_320,
            "vae": VAE_16_CHANNELS,
            "text_encoder": CLIP_L,
            "text_encoder_2": T5_XXL,
        },
    ),
]


def make_virtual_models(root: Path) -> list[Path]:
    """Write the profiles into `root` and answer their paths. What is there already, and complete, is kept."""
    return [make_virtual_model(root, model) for model in VIRTUAL_MODELS]


def make_virtual_model(root: Path, model: VirtualModel) -> Path:
    """Write one profile, unless it is there and says the same."""
    path = root / f"{model.name}{SUFFIX}"
    content = msgspec.json.format(msgspec.json.encode(model.profile()), indent=2) + b"\n"
    if not (path.is_file() and path.read_bytes() == content):
        with placed(path) as temporary:
            temporary.write_bytes(content)
    return path
