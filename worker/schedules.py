"""The scheduler that a model is drawn with: its configuration's, made to say what the weights say of themselves.

Decides what stands where a file and its configuration differ: the file, which was trained that way; and which
schedulers can draw such a model at all.
"""

from __future__ import annotations

import inspect
import os
import struct
from pathlib import Path
from typing import Any

import diffusers

from modelfiles import schedulers
from modelfiles.families import SchedulerKind
from modelfiles.headers import Header, Tensor
from modelfiles.jsonfile import JsonObject, incompatible
from modelfiles.statements import EDM_V, V_PREDICTION, Statement
from protocol.errors import invalid

ZERO_SNR = "rescale_betas_zero_snr"
PREDICTION = "prediction_type"
SPACING = "timestep_spacing"
EDM_SIGMAS = {"sigma_min": 0.002, "sigma_max": 120.0}
"""Of CosXL, where a file names none."""

FLOATS = {"F32": "<f", "F64": "<d", "F16": "<e"}


def stated(own: Any, says: Statement, config: JsonObject | None, sigmas: dict[str, float]) -> tuple[Any, list[str]]:
    """The scheduler of a single file, and a warning for each word of its configuration that the file contradicts.

    `config` is what somebody wrote of the scheduler, None for a configuration of the project's own, which knows nothing
    of this file. Raises Fault MODEL_INCOMPATIBLE where no scheduler could draw it.
    """
    if says.edm:
        return _preconditioned(own, says, config, sigmas)
    changes: dict[str, Any] = {}
    if says.prediction and own.config.get(PREDICTION) != says.prediction:
        changes[PREDICTION] = says.prediction
    if says.zero_snr and not own.config.get(ZERO_SNR):
        changes[ZERO_SNR] = True
    if not changes:
        return own, []
    cls = type(own)
    if kind_of(own) is not SchedulerKind.NOISE:
        raise incompatible(
            f"{says.source} says that it predicts {says.prediction or 'noise'} and its configuration has {cls.__name__}"
        )
    if ZERO_SNR in changes and not _takes_zero_snr(cls):
        cls = diffusers.EulerDiscreteScheduler
    warnings = [
        f"{key} is {config[key]!r} in the configuration; {says.source} says {value!r}, which is used"
        for key, value in changes.items()
        if config and key in config
    ]
    if ZERO_SNR in changes and SPACING not in (config or {}):
        # Its last step is pure noise, from which a picture has to begin (Lin et al., 2023, section 3.3).
        changes[SPACING] = "trailing"
    return cls.from_config(own.config, **changes), warnings


def _preconditioned(
    own: Any, says: Statement, config: JsonObject | None, sigmas: dict[str, float]
) -> tuple[Any, list[str]]:
    if kind_of(own) is SchedulerKind.EDM:
        return own, []
    if says.prediction != V_PREDICTION:
        raise incompatible(
            f"{says.source} says that it was trained with EDM's noise and a mean of its own: it needs a configuration "
            f"with EDMEulerScheduler, and has {type(own).__name__}"
        )
    made = diffusers.EDMEulerScheduler(
        **EDM_SIGMAS | sigmas, sigma_data=1.0, prediction_type=says.prediction, sigma_schedule="exponential"
    )
    named = f"the configuration has {type(own).__name__}" if config else ""
    return made, [f"{named}; {says.source} asks for {type(made).__name__}, which is used"] if named else []


def _takes_zero_snr(cls: type) -> bool:
    return ZERO_SNR in inspect.signature(cls).parameters


def named(own: Any, name: str) -> Any:
    """A fresh scheduler like a model's own, or the one that a name means. Raises Fault INVALID_ARGUMENT."""
    if not name:
        return type(own).from_config(own.config)
    choices = schedulers.offered(kind_of(own), zero_snr=bool(own.config.get(ZERO_SNR)))
    found = schedulers.find(name, choices)
    if found is None:
        raise invalid("scheduler", name, f"one of {', '.join(choice.name for choice in choices)}")
    defaults = {key: value for key, value in found.unless_stated.items() if key not in own.config}
    return getattr(diffusers, found.class_name).from_config(own.config, **defaults, **found.settings)


def kind_of(own: Any) -> SchedulerKind:
    """What models a scheduler is for."""
    name = type(own).__name__
    if name.startswith("FlowMatch") or own.config.get("use_flow_sigmas"):
        return SchedulerKind.FLOW
    return SchedulerKind.EDM if name.startswith("EDM") else SchedulerKind.NOISE


def edm_sigmas(path: str, header: Header) -> dict[str, float]:
    """The range of noise that a CosXL file states in tensors of one number each. Raises OSError."""
    beginning = EDM_V.removesuffix("sigma_max")
    stated = {tensor.name: tensor for tensor in header.tensors if tensor.name.startswith(beginning)}
    found: dict[str, float] = {}
    with Path(path).open("rb") as file:
        for key in EDM_SIGMAS:
            tensor = stated.get(beginning + key)
            value = _number(file.fileno(), header, tensor) if tensor is not None else None
            if value is not None and 0 < value < 1e6:
                found[key] = value
    return found


def _number(descriptor: int, header: Header, tensor: Tensor) -> float | None:
    form = FLOATS.get(tensor.dtype)
    if form is None or tensor.bytes != struct.calcsize(form):
        return None
    (value,) = struct.unpack(form, os.pread(descriptor, tensor.bytes, header.data_begin + tensor.begin))
    return float(value)
