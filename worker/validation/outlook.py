"""What a run of a model is expected to take on this device: as measured here, by its profile, or by a stated formula.

Where nothing was measured: operations = 2 x values of the denoiser x places of the latent picture x steps x share,
twice where the family is guided by a negative prompt; milliseconds = operations / (measured operations per second of
a large product x `EFFICIENCY`). The share is 1 for transformers, every weight of which meets every place, and less for
a UNet, whose inner blocks see smaller pictures: `UNET_SHARE` follows from published counts of Stable Diffusion 1.5
(0.34 T multiplications at 512 x 512) and XL (3 T at 1024 x 1024). The confidence of all that is `DERIVED`, that of n
measured runs n / (n + 1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelfiles.headers import DTYPE_BITS
from modelfiles.jsonfile import read_object
from modelfiles.model import ModelFile
from modelfiles.modes import family_of
from protocol.enums import ModelPrecision
from protocol.records import ModelPerformanceEstimation, Record
from worker import precision
from worker.engine import Engine
from worker.options import Resolved
from worker.resident import Resident
from worker.validation.fitness import Need
from worker.work import bytes_per_pixel

STEPS = 20
VALUE_BYTES = {ModelPrecision.Float32: 4}
UNET, UNET_SHARE = "unet", 0.08
EFFICIENCY = 0.4
DERIVED = 0.2
CATEGORIES = ((1_000.0, "interactive"), (10_000.0, "fast"), (60_000.0, "moderate"))
"""Milliseconds of a picture below which a device is called so; "slow" beyond."""


class Outlook(Record, frozen=True, kw_only=True):
    """The estimate, what it rests on, and the fields of it that have no figure."""

    estimation: ModelPerformanceEstimation
    basis: dict[str, Any]
    not_measured: dict[str, str]


def need_of(file: ModelFile, resident: Resident | None, resolved: Resolved) -> Need:
    """What the model takes on this device: measured where it is held and was run, else by its profile or family."""
    weights = resident.bytes if resident is not None else precision.estimate_bytes(file, resolved.precision)
    if resident is not None and resident.last_peak_bytes is not None:
        return Need(weights_bytes=weights, peak_bytes=resident.highest_bytes, basis="measured")
    if file.profile is not None:
        return Need(weights_bytes=weights, peak_bytes=max(weights, file.profile.peak_bytes), basis="profile")
    family = family_of(file)
    if family is None:
        return Need(weights_bytes=weights, peak_bytes=weights, basis="weights alone: it draws nothing by itself")
    side = min(file.native_side or family.native_side, family.greatest_default)
    vae = next((part for part in file.parts if part.name == "vae"), None)
    config = read_object(Path(vae.config)) if vae is not None and vae.config else {}
    each = bytes_per_pixel(family.working_bytes_per_pixel, VALUE_BYTES.get(resolved.compute, 2), config)
    peak = weights + int(side * side * each)
    return Need(weights_bytes=weights, peak_bytes=peak, basis=f"estimated for one picture of {side} x {side}")


def outlook(engine: Engine, file: ModelFile, resident: Resident | None, resolved: Resolved, need: Need) -> Outlook:
    """The estimate for one picture."""
    no_watts = {"performance_estimation.estimated_power_consumption": "nothing measured its power on this device"}
    if resident is not None and resident.run_ms:
        runs, total_ms = len(resident.run_ms), sum(resident.run_ms)
        basis = {"basis": "measured", "runs": runs, "images": resident.images}
        made = _made(total_ms / runs, resident.images / total_ms * 1000, need, runs / (runs + 1))
        return Outlook(estimation=made, basis=basis, not_measured=no_watts)
    if file.profile is not None:
        ms = STEPS * file.profile.step_ms
        return Outlook(
            estimation=_made(ms, 1000 / ms if ms else 0.0, need, 1.0),
            basis={"basis": "profile", "steps": STEPS, "step_ms": file.profile.step_ms},
            not_measured=no_watts,
        )
    derived = _derived(engine, file, resolved)
    if derived is None:
        reason = "nothing was run here, and a run of such a file is no picture"
        names = ("inference_time", "throughput")
        absent = {f"performance_estimation.estimated_{name}": reason for name in names} | no_watts
        return Outlook(estimation=_made(0.0, 0.0, need, 0.0), basis={"basis": "none"}, not_measured=absent)
    ms, basis = derived
    return Outlook(estimation=_made(ms, 1000 / ms, need, DERIVED), basis=basis, not_measured=no_watts)


def _derived(engine: Engine, file: ModelFile, resolved: Resolved) -> tuple[float, dict[str, Any]] | None:
    family, rate = family_of(file), engine.device.operations_per_second(resolved.compute)
    denoiser = next((part for part in file.parts if family is not None and part.name == family.denoiser.part), None)
    if family is None or denoiser is None or not rate:
        return None
    side = min(file.native_side or family.native_side, family.greatest_default)
    values = denoiser.tensor_bytes * 8 // DTYPE_BITS.get(file.dtype, 16)
    is_unet = denoiser.name == UNET
    places = (side // family.latent_factor) ** 2 // family.denoiser.packed
    passes = 2 if family.guidance.negative else 1
    operations = 2 * values * places * STEPS * passes * (UNET_SHARE if is_unet else 1.0)
    ms = max(operations / (rate * EFFICIENCY) * 1000, 1e-3)
    basis = {
        "basis": "estimated",
        "width": side,
        "height": side,
        "steps": STEPS,
        "operations": operations,
        "measured_operations_per_second": rate,
        "efficiency": EFFICIENCY,
    }
    return ms, basis


def _made(ms: float, throughput: float, need: Need, confidence: float) -> ModelPerformanceEstimation:
    category = next((name for most, name in CATEGORIES if ms < most), "slow") if ms else "unknown"
    return ModelPerformanceEstimation(
        estimated_inference_time=ms,
        estimated_throughput=throughput,
        estimated_memory_usage=need.peak_bytes,
        confidence_score=round(confidence, 4),
        performance_category=category,
    )
