"""Whether a model's files suit this device: memory, arithmetic, driver, platform, and each option of a load.

Scores are 0-1. `compatibility_score` is 0 for files with an error, else the mean of the scores of the parts that were
asked for, by `WEIGHTS`. Memory: 1 where weights and the expected peak fit what is free once evictable models have left,
the share of the peak that fits where the weights alone do, 0 where they do not; on a cpu device, whose budget does not
count work, the weights alone decide. Arithmetic: 1 where the device computes well in the file's own type, `SUBSTITUTE`
where it takes another one for it. Platform and driver: 1 where they serve.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

from modelfiles.model import Kind, ModelFile
from modelfiles.modes import modes_of
from protocol.drawing import Mode
from protocol.enums import DeviceKind, ModelPrecision, Severity, Tier
from protocol.errors import ErrorCode, Recovery
from protocol.records import ModelValidationResults, Record, ValidationResult
from worker import precision
from worker.engine import Engine
from worker.options import FLAGS, Resolved
from worker.validation.findings import Findings

WEIGHTS = {"memory": 0.4, "compute": 0.3, "platform": 0.2, "driver": 0.1}
SUBSTITUTE = 0.9
NOT_ASKED = ValidationResult(passed=True, score=1.0, message="not asked for")


class Need(Record, frozen=True, kw_only=True):
    """Bytes: of the weights on the device, and of weights and work at the peak; where the peak comes from."""

    weights_bytes: int
    peak_bytes: int
    basis: str


class Fitness:
    """The checks of one model on one device; `model_id` is what commands call it, "" for a file without an id."""

    def __init__(self, engine: Engine, file: ModelFile, model_id: str, resolved: Resolved, need: Need) -> None:
        self._engine = engine
        self._file = file
        self._model_id = model_id
        self._resolved = resolved
        self._need = need

    def memory(self, findings: Findings) -> ValidationResult:
        """What is needed against what there is, now and once evictable models have left."""
        need, room = self._need, self._engine.keeper.room()
        resident = self._engine.cache.get(self._model_id)
        there = resident.device_bytes if resident is not None and resident.tier is Tier.VRAM else 0
        evictable = self._engine.cache.reclaimable_bytes(but=self._model_id)
        could = room.free + there + evictable
        counted = self._engine.device.counts_work
        fits_now, fits = need.weights_bytes <= room.free + there, need.weights_bytes <= could
        details = {
            "weights_bytes": need.weights_bytes,
            "peak_bytes": need.peak_bytes,
            "peak_basis": need.basis,
            "total_bytes": room.total,
            "free_bytes": room.free,
            "held_bytes": there,
            "evictable_bytes": evictable,
            "pinned_bytes": max(0, room.total - room.free - there - evictable),
            "fits_now": fits_now,
            "fits_after_eviction": fits,
            "peak_is_of_the_device": counted,
            "peak_fits_after_eviction": not counted or need.peak_bytes <= could,
        }
        if not fits:
            text = f"it needs {need.weights_bytes} bytes: {could} can be had here, of {room.total}"
            findings.add(Severity.WARNING, ErrorCode.INSUFFICIENT_MEMORY, text, recovery=self._smaller(could))
            return ValidationResult(passed=False, score=0.0, message=text, details=details)
        if counted and need.peak_bytes > could:
            text = (
                f"its weights fit, and its peak of {need.peak_bytes} bytes ({need.basis}) does not: {could} can be had"
            )
            again = {"model_id": self._model_id, "allow_degraded": True}
            recovery = [Recovery(action="generate", description="let it draw with less memory", parameters=again)]
            findings.add(
                Severity.WARNING, ErrorCode.INSUFFICIENT_MEMORY, text, recovery=recovery + self._smaller(could)
            )
            return ValidationResult(passed=True, score=could / need.peak_bytes, message=text, details=details)
        text = "it fits" if fits_now else "it fits once evictable models have left"
        return ValidationResult(passed=True, score=1.0, message=text, details=details)

    def _smaller(self, could_bytes: int) -> list[Recovery]:
        """Loads that take less: in fewer bits, as many as fit, or in parts that wait in host memory."""
        own, where = self._resolved.precision, (self._model_id, self._engine.spec.device_id)
        found = precision.smaller(self._file, own, self._engine.device.precisions, could_bytes, where)
        for flag in ("enable_cpu_offloading", "enable_model_splitting"):
            if not self._engine.device.refuses(flag):
                words = flag.removeprefix("enable_").replace("_", " ")
                found.append(self._load(f"load with {words}", memory_optimization={flag: True}))
        return found

    def _load(self, description: str, **configuration: Any) -> Recovery:
        device_id = self._engine.spec.device_id
        parameters = {"model_id": self._model_id, "device_id": device_id, "configuration": configuration}
        return Recovery(action="load_model", description=description, parameters=parameters)

    def compute(self) -> ValidationResult:
        """The types that the device was seen to compute in, and what the file's own becomes here."""
        device, wanted = self._engine.device, self._resolved.precision
        own, tried = precision.own(self._file), device.computes()
        failed = tried.get(self._resolved.compute, "")
        details = {
            "file_precision": own.value if own else self._file.dtype,
            "precision": wanted.value,
            "computed_in": self._resolved.compute.value,
            "precisions": [one.value for one in device.precisions],
            "computes_well": [one.value for one in device.computes_well],
            "tried": {one.value: reason or "computes" for one, reason in tried.items()},
            **device.capability(),
        }
        if failed:
            return ValidationResult(
                passed=False, message=f"{wanted.value} does not compute here: {failed}", details=details
            )
        if wanted is own:
            text = f"the device computes well in its own {wanted.value}"
            return ValidationResult(passed=True, score=1.0, message=text, details=details)
        text = f"its own {own.value if own else self._file.dtype} becomes {wanted.value} here"
        return ValidationResult(passed=True, score=SUBSTITUTE, message=text, details=details)

    def driver(self) -> ValidationResult:
        """The versions of what stands between the model and the device."""
        found = self._engine.device.software()
        kind = self._engine.device.identity().kind
        text = f"{found['driver']}" if "driver" in found else f"a {kind.value} device needs no driver"
        return ValidationResult(passed=True, score=1.0, message=text, details=found)

    def platform(self) -> ValidationResult:
        """Whether this kind of device takes this kind of file at all."""
        identity = self._engine.device.identity()
        is_profile, is_virtual = self._file.kind is Kind.VIRTUAL, identity.kind is DeviceKind.VIRTUAL
        details = {
            "device_kind": identity.kind.value,
            "device_name": identity.name,
            "system": platform.system(),
            "machine": platform.machine(),
            "python": sys.version.partition(" ")[0],
        }
        if is_profile is not is_virtual:
            kind = "a virtual profile" if is_profile else "a real model"
            takers = "virtual devices alone" if is_profile else "cuda and cpu devices alone"
            return ValidationResult(passed=False, message=f"it is {kind}, which runs on {takers}", details=details)
        return ValidationResult(
            passed=True, score=1.0, message=f"runs on {identity.kind.value} devices", details=details
        )

    def features(self) -> dict[str, ValidationResult]:
        """Each option of a load, and each way to draw: whether it could be had here."""
        device = self._engine.device
        found = {flag: _feature(device.refuses(flag)) for flag in FLAGS}
        for choice in ModelPrecision:
            if choice is not ModelPrecision.Auto:
                here = choice in device.precisions
                reason = "" if here else f"{device.identity().device_id} cannot hold a model in it"
                size = precision.estimate_bytes(self._file, choice)
                found[f"precision.{choice.value}"] = _feature(reason, {"weights_bytes": size} if here else {})
        modes = modes_of(self._file)
        for mode in Mode:
            found[mode.value] = _feature("" if mode in modes else "the model does not draw so")
        return found


def _feature(reason: str, details: dict[str, Any] | None = None) -> ValidationResult:
    message = reason or "can be had"
    return ValidationResult(passed=not reason, score=0.0 if reason else 1.0, message=message, details=details or {})


def score(results: ModelValidationResults, asked: set[str], *, sound: bool) -> float:
    """`compatibility_score`, as the module's text defines it."""
    if not sound:
        return 0.0
    parts = {name: getattr(results, f"{name}_validation") for name in WEIGHTS if name in asked}
    whole = sum(WEIGHTS[name] for name in parts)
    return round(sum(WEIGHTS[name] * part.score for name, part in parts.items()) / whole, 4) if whole else 1.0
