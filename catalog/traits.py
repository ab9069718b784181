"""What follows from a model's family and size: capabilities, requirements, compatibility.

Decides by tables and stated formulas; measures nothing. What only a device can say is left empty.

Requirements: `min_vram` is the bytes of the weight files that the pipeline uses, but for tensors that nothing uses:
with less, not even the weights fit in their own type. `recommended_vram` is the highest peak measured; before any run
the profile's peak, or the weights and the family's working bytes per pixel for one picture of the native side.
`min_ram` is the largest part: a load keeps at most one part outside its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from catalog.entry import Entry
from catalog.usage import Totals
from modelfiles.model import Kind
from modelfiles.modes import modes_of
from protocol.drawing import Mode
from protocol.enums import DeviceKind, DeviceType, PrecisionMode
from protocol.records import (
    BatchSizeLimits,
    ImageResolution,
    ModelCapabilities,
    ModelCompatibilityInfo,
    ModelRequirements,
)
from protocol.replies import Limits

PICTURE_PRECISIONS = [
    PrecisionMode.Float32,
    PrecisionMode.Float16,
    PrecisionMode.BFloat16,
    PrecisionMode.Float8,
    PrecisionMode.Int8,
    PrecisionMode.Int4,
]
FILE_PRECISIONS = {
    "F32": PrecisionMode.Float32,
    "F16": PrecisionMode.Float16,
    "BF16": PrecisionMode.BFloat16,
    "I8": PrecisionMode.Int8,
    "F8_E4M3": PrecisionMode.Float8,
    "F8_E5M2": PrecisionMode.Float8,
}


def capabilities(entry: Entry) -> ModelCapabilities:
    """What `generate` and the component commands can ask of the model; parts alone make no pictures."""
    family = entry.family
    if family is None:
        own = FILE_PRECISIONS.get(entry.file.dtype)
        return ModelCapabilities(supported_precisions=[own] if own else [])
    side, modes = entry.native_side, modes_of(entry.file)
    return ModelCapabilities(
        supported_inference_types=[mode.value for mode in modes],
        max_resolution=ImageResolution(width=side, height=side),
        supported_precisions=_own_first(entry.file.dtype),
        supports_lora=True,
        supports_control_net=family.has_control_nets,
        supports_inpainting=Mode.INPAINT in modes,
        supports_image2_image=Mode.IMAGE in modes,
        batch_limits=BatchSizeLimits(min=1, max=Limits().num_images, recommended=1),
    )


def _own_first(dtype: str) -> list[PrecisionMode]:
    """The precisions that picture models take, that of the file first."""
    own = FILE_PRECISIONS.get(dtype)
    return ([own] if own else []) + [precision for precision in PICTURE_PRECISIONS if precision is not own]


def device_types(entry: Entry) -> list[DeviceType]:
    """Profiles run on virtual devices, which are GPUs to the host; files on cuda and cpu devices."""
    return [DeviceType.GPU] if entry.file.kind is Kind.VIRTUAL else [DeviceType.GPU, DeviceType.CPU]


def runs_on(entry: Entry, kind: DeviceKind) -> bool:
    """Whether devices of a kind run the model: profiles on virtual devices, files on all others."""
    return (kind is DeviceKind.VIRTUAL) == (entry.file.kind is Kind.VIRTUAL)


def requirements(entry: Entry, totals: Sequence[Totals]) -> ModelRequirements:
    """See the module's formulas."""
    weights = entry.file.weights_bytes
    measured = max((t.peak_bytes for t in totals), default=0)
    profile = entry.file.profile
    estimated = profile.peak_bytes if profile else weights + entry.working_bytes
    return ModelRequirements(
        min_vram=weights,
        recommended_vram=max(measured or estimated, weights),
        min_ram=max((part.size_bytes for part in entry.file.parts), default=entry.file.size_bytes),
        supported_device_types=device_types(entry),
    )


def compatibility(entry: Entry) -> ModelCompatibilityInfo:
    """Where the model can run; `platform_compatibility` is keyed by the kind of device."""
    is_virtual = entry.file.kind is Kind.VIRTUAL
    return ModelCompatibilityInfo(
        compatible_devices=device_types(entry),
        supported_frameworks=[] if is_virtual else ["PyTorch", "diffusers"],
        platform_compatibility={kind.value: runs_on(entry, kind) for kind in DeviceKind},
    )
