"""Number formats: what a file is in, what `Auto` means on a device, what a model then weighs. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelfiles.headers import DTYPE_BITS
from modelfiles.model import Kind, ModelFile
from modelfiles.statements import SCALED_FP8
from protocol.enums import ModelPrecision
from protocol.errors import ErrorCode, Fault, Recovery

FILE_TYPES = {
    "F32": ModelPrecision.Float32,
    "F16": ModelPrecision.Float16,
    "BF16": ModelPrecision.BFloat16,
    "F8_E4M3": ModelPrecision.Float8,
    "F8_E5M2": ModelPrecision.Float8,
}
"""safetensors' names."""

SAME_WIDTH = {
    ModelPrecision.Float16: ModelPrecision.BFloat16,
    ModelPrecision.BFloat16: ModelPrecision.Float16,
}
BITS = {
    ModelPrecision.Float32: 32,
    ModelPrecision.Float16: 16,
    ModelPrecision.BFloat16: 16,
}
QUANTIZED = {
    ModelPrecision.Int8: 8.1,
    ModelPrecision.Float8: 8.1,
    ModelPrecision.Int4: 4.6,
}
"""Weights in fewer than 16 bits, and what one takes with its share of the scales."""

WHOLE = (ModelPrecision.BFloat16, ModelPrecision.Float16)
"""What weights that are held in fewer bits are widened to, the better one first."""

_FLOATS = tuple(name for name in DTYPE_BITS if name.startswith(("F", "BF")))


def own(file: ModelFile) -> ModelPrecision | None:
    """The type that most of the file's floating-point bytes have; a profile counts as Float16."""
    if file.profile is not None:
        return ModelPrecision.Float16
    floats = {dtype: size for dtype, size in file.dtype_bytes.items() if dtype in _FLOATS}
    return FILE_TYPES.get(max(floats, key=lambda dtype: floats[dtype])) if floats else None


def automatic(file: ModelFile, computes_well: Sequence[ModelPrecision]) -> ModelPrecision:
    """What `Auto` means: the file's own type where the device computes in it well, else one of the same width that it
    does, of fp8 one of the next, else Float32 (on a virtual device, the one type that it has)."""
    found = own(file)
    choices = [found, SAME_WIDTH.get(found)] if found is not None else []
    choices += [ModelPrecision.BFloat16, ModelPrecision.Float16] if found is ModelPrecision.Float8 else []
    for choice in (*choices, ModelPrecision.Float32):
        if choice is not None and choice in computes_well:
            return choice
    return computes_well[0]


def computed_in(wanted: ModelPrecision, file: ModelFile, computes_well: Sequence[ModelPrecision]) -> ModelPrecision:
    """The type that a model of this precision is computed in: its own, or for a quantized one a type of 16 bits."""
    if wanted not in QUANTIZED:
        return wanted
    return next((one for one in (own(file), *WHOLE) if one in WHOLE and one in computes_well), WHOLE[0])


def estimate_bytes(file: ModelFile, precision: ModelPrecision) -> int:
    """What the file's tensors take on a device: floating-point ones at the precision's width, others as they are."""
    bits = BITS.get(precision) or QUANTIZED.get(precision)
    if file.profile is not None or bits is None:
        return file.tensor_bytes
    return sum(
        int(size * bits / DTYPE_BITS[dtype]) if dtype in _FLOATS else size for dtype, size in file.dtype_bytes.items()
    )


def smaller(
    file: ModelFile, own: ModelPrecision, precisions: Sequence[ModelPrecision], most_bytes: int, where: tuple[str, str]
) -> list[Recovery]:
    """The load in fewer bits than `own`, as many as take at most so many bytes; `where`: ids of model and device."""
    model_id, device_id = where
    for choice in (*WHOLE, ModelPrecision.Int8, ModelPrecision.Int4):
        size = estimate_bytes(file, choice)
        if choice in precisions and size < estimate_bytes(file, own) and size <= most_bytes:
            configuration = {"precision": choice.value}
            parameters = {"model_id": model_id, "device_id": device_id, "configuration": configuration}
            return [Recovery(action="load_model", description=f"load in {choice.value}", parameters=parameters)]
    return []


def refuse_packed(file: ModelFile) -> None:
    """Raise Fault NOT_SUPPORTED for numbers that mean nothing by themselves; a single file's scaled fp8 is unscaled."""
    if file.packed and not (file.kind is Kind.SINGLE and file.packed.startswith(SCALED_FP8)):
        name = Path(file.path).name
        text = f"{name} holds weights packed as {file.packed}: this version takes plain numbers alone"
        raise Fault(ErrorCode.NOT_SUPPORTED, text, details={"format": file.packed.partition(" (")[0]})


def refuse(wanted: ModelPrecision, precisions: Sequence[ModelPrecision], model_id: str, device_id: str) -> Fault:
    """The Fault of a precision that the device cannot have, naming those it has."""
    names = [precision.value for precision in precisions]
    recovery = [
        Recovery(
            action="load_model",
            description=f"load in {name}",
            parameters={"model_id": model_id, "device_id": device_id, "configuration": {"precision": name}},
        )
        for name in names
    ]
    return Fault(
        ErrorCode.NOT_SUPPORTED,
        f"configuration.precision is {wanted.value}: {device_id} has {', '.join(names)}",
        details={"field": "configuration.precision", "precisions": names},
        recovery=recovery,
    )
