"""The account of a load's configuration: every flag that is not at its default is answered, applied or not.

Decides what a configuration means once resolved; knows nothing of how models are built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelfiles.model import ModelFile
from protocol.enums import ModelPrecision
from protocol.errors import Fault, invalid
from protocol.records import ModelLoadConfiguration, Record
from protocol.replies import OptionOutcome
from worker import precision
from worker.devices.base import Applied, BuiltModel, Device, Streaming

SLICING, OFFLOADING, SPLITTING = "enable_attention_slicing", "enable_cpu_offloading", "enable_model_splitting"
TENSOR_RT, ONNX, COMPILATION = "enable_tensor_rt", "enable_onnx", "enable_compilation"
FLASH = "enable_flash_attention"

FLAGS = (SLICING, OFFLOADING, SPLITTING, TENSOR_RT, ONNX, COMPILATION, FLASH)
"""The switches, in the order of the host's types."""

EXCLUSIVE = ((SLICING, FLASH), (OFFLOADING, SPLITTING), (TENSOR_RT, ONNX, COMPILATION))
"""Of each of these the first that can be had is applied."""

UNKNOWN_PARAMETER = "no parameter of this name is known"


class Resolved(Record, frozen=True, kw_only=True):
    """A configuration with its defaults filled in. `flags` are asked for; of those `chosen` can be had here, `refused`
    says why the others cannot.
    """

    precision: ModelPrecision
    compute: ModelPrecision
    memory_fraction: float
    flags: tuple[str, ...]
    chosen: tuple[str, ...]
    refused: dict[str, str]
    parameters: dict[str, Any]
    config_path: str

    def builds_as(self, other: Resolved) -> bool:
        """Would both build the same model? What cannot be had, or acts on a run alone, makes no difference."""
        mine, others = (
            (resolved.precision, resolved.memory_fraction, resolved.config_path, resolved.streaming)
            for resolved in (self, other)
        )
        return mine == others

    @property
    def streaming(self) -> Streaming:
        """Which weights wait in host memory."""
        if OFFLOADING in self.chosen:
            return Streaming.PARTS
        return Streaming.BLOCKS if SPLITTING in self.chosen else Streaming.NONE


def resolve(
    configuration: ModelLoadConfiguration, file: ModelFile, device: Device, model_id: str, config_path: str = ""
) -> Resolved:
    """What the configuration asks of this device for this file.

    Raises Fault NOT_SUPPORTED (a precision that the device cannot have), INVALID_ARGUMENT (contradicting values).
    """
    _check_values(configuration)
    wanted = configuration.precision
    if wanted is ModelPrecision.Auto:
        wanted = precision.automatic(file, device.computes_well)
    elif wanted not in device.precisions:
        raise precision.refuse(wanted, device.precisions, model_id, device.identity().device_id)
    flags = tuple(name for name in FLAGS if _fields(configuration)[name])
    refused = _refused(flags, device)
    return Resolved(
        precision=wanted,
        compute=precision.computed_in(wanted, file, device.computes_well),
        memory_fraction=configuration.memory_optimization.memory_fraction,
        flags=flags,
        chosen=tuple(name for name in flags if name not in refused),
        refused=refused,
        parameters=configuration.parameters,
        config_path=config_path,
    )


def outcomes(
    requested: ModelLoadConfiguration, resolved: Resolved, file: ModelFile, built: BuiltModel, total_bytes: int
) -> list[OptionOutcome]:
    """The account after the load, in the order of the host's types."""
    found = [_precision_outcome(requested, resolved, file, built)]
    if resolved.memory_fraction:
        found.append(_fraction_outcome(resolved.memory_fraction, built.bytes, total_bytes))
    applied = built.apply(resolved.chosen)
    found += [_flag_outcome(name, applied.get(name), resolved.refused) for name in resolved.flags]
    fields = _fields(requested)
    for key, value in resolved.parameters.items():
        reason = f"{key} is a field of the configuration, answered as {key}" if key in fields else UNKNOWN_PARAMETER
        found.append(OptionOutcome(option=f"parameters.{key}", requested=value, applied=False, reason=reason))
    return found


def _refused(flags: Sequence[str], device: Device) -> dict[str, str]:
    """Why flags cannot be had: the device has none, or another that excludes them is applied."""
    refused: dict[str, str] = {}
    for name in flags:
        rivals = next((group for group in EXCLUSIVE if name in group), ())
        first = next((one for one in rivals if one in flags and one not in refused), name)
        reason = device.refuses(name)
        if reason:
            refused[name] = reason
        elif first != name:
            refused[name] = f"{first} is applied, which excludes it"
    return refused


def _flag_outcome(name: str, applied: Applied | None, refused: Mapping[str, str]) -> OptionOutcome:
    reason = refused.get(name) if applied is None else applied.reason
    evidence = None if applied is None else applied.evidence
    return OptionOutcome(option=name, requested=True, applied=evidence is not None, reason=reason, evidence=evidence)


def _precision_outcome(
    requested: ModelLoadConfiguration, resolved: Resolved, file: ModelFile, built: BuiltModel
) -> OptionOutcome:
    own = precision.own(file)
    reason = None
    if requested.precision is ModelPrecision.Auto:
        stored = own.value if own else file.dtype or "an unknown type"
        reason = f"Auto is {resolved.precision.value} here: the file is in {stored}"
    return OptionOutcome(
        option="precision",
        requested=requested.precision,
        applied=True,
        reason=reason,
        evidence={
            "precision": resolved.precision.value,
            "file_precision": own.value if own else file.dtype,
            "bytes_before": file.tensor_bytes,
            "bytes_after": built.bytes,
            "compute": resolved.compute.value,
            "layers": built.layers_by_type(),
        },
    )


def _fraction_outcome(fraction: float, model_bytes: int, total_bytes: int) -> OptionOutcome:
    return OptionOutcome(
        option="memory_fraction",
        requested=fraction,
        applied=True,
        evidence={"limit_bytes": int(fraction * total_bytes), "bytes_after": model_bytes},
    )


def _fields(configuration: ModelLoadConfiguration) -> dict[str, Any]:
    """Every field of the configuration by its wire name."""
    return {
        "precision": configuration.precision.value,
        **msgspec.structs.asdict(configuration.memory_optimization),
        **msgspec.structs.asdict(configuration.performance_optimization),
    }


def _check_values(configuration: ModelLoadConfiguration) -> None:
    fraction = configuration.memory_optimization.memory_fraction
    if not 0 <= fraction <= 1:
        raise invalid("configuration.memory_optimization.memory_fraction", fraction, "0 to 1")
    fields = _fields(configuration)
    for key, value in configuration.parameters.items():
        if key in fields and value != fields[key]:
            raise _contradiction(key, value, fields[key])


def _contradiction(key: str, value: object, field_value: object) -> Fault:
    return invalid(f"configuration.parameters.{key}", value, f"{field_value!r}, as the field {key} says")
