"""Tries one step after another on a model that is loaded, and keeps those that are worth what they cost.

Decides by measurements alone: a step is kept where it gains at least `GAIN` of what the target is about, and stays
within the level's bounds. Each is a load under a changed configuration; one that is not kept is undone by the load
before it, from the RAM tier, bit for bit. Whatever ends an optimisation half-way, the model is as it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from protocol.enums import LoadPriority, ModelPrecision
from protocol.enums import ModelOptimizationTarget as Target
from protocol.errors import ErrorCode, Fault
from protocol.records import ModelLoadConfiguration
from protocol.replies import OptionOutcome
from settings.logs import Logger
from worker import precision
from worker.engine import Engine
from worker.job import Job
from worker.loading import Wish, assigned_model, bring
from worker.optimizing.likeness import distance, psnr, ssim
from worker.optimizing.measuring import Measure, measure
from worker.optimizing.settings import Settings
from worker.optimizing.steps import BOUNDS, GAIN, PRECISIONS, Bounds, Step, changed, option_of, steps_of
from worker.resident import Resident

ENDS_IT = frozenset({ErrorCode.CANCELLED, ErrorCode.SUPERSEDED, ErrorCode.TIMEOUT, ErrorCode.INTERNAL_ERROR})
"""Faults that end the whole; any other says why one step cannot be had."""

LIKER = 0.0001
"""What a Quality step must be nearer to the pictures in Float32, as SSIM."""

log = Logger()


class Likeness(msgspec.Struct, frozen=True, kw_only=True):
    """Means over the prompts."""

    ssim: float
    psnr: float
    latent_distance: float


class Optimizer:
    """One optimisation; `before` and `now` are measured, `options` what became of each step, `reference` what pictures
    are held against: those before, of a Quality target those in Float32.
    """

    def __init__(self, engine: Engine, job: Job, resident: Resident, settings: Settings) -> None:
        self._engine = engine
        self._job = job
        self._settings = settings
        self._model_id = resident.model_id
        self._began = time.perf_counter()
        self._found = self._configuration = resident.configuration
        self._found_original = resident.original
        self._steps = steps_of(settings.target, settings.level)
        self._bounds: Bounds | None = BOUNDS.get(settings.level)
        self.options: list[OptionOutcome] = []
        self.kept: list[Step] = []
        self.before = self.now = self.reference = self._measured()
        job.phases["before_ms"] = self.before.seconds * 1000

    @property
    def resident(self) -> Resident:
        """The model as it is now. Raises Fault where others needed its room meanwhile."""
        found = self._engine.cache.get(self._model_id)
        if found is None:
            text = f"{self._model_id} had to leave {self._engine.spec.device_id} in the middle of its optimisation"
            raise Fault(ErrorCode.INSUFFICIENT_MEMORY, text)
        return found

    def run(self) -> None:
        """Try every step of the level. Raises Fault; the model is as it was then."""
        began = time.perf_counter()
        try:
            for done, step in enumerate(self._steps):
                self._job.check()
                self._try(step)
                self._job.step(done + 1, len(self._steps), None)
        except BaseException:
            self.undo()
            raise
        # Every load on the way was one under a configuration, after which nothing is to be restored.
        self.resident.original = self._found_original or (self._found if self.kept else None)
        self._job.phases["steps_ms"] = (time.perf_counter() - began) * 1000

    def undo(self) -> None:
        """The model under the configuration that it had; a command that was stopped does this all the same."""
        held = self._engine.cache.get(self._model_id)
        if held is None:
            return
        if held.configuration == self._found:
            held.original = self._found_original
            return
        assign = msgspec.structs.replace(self._job.assign, deadline_ms=None)
        try:
            self._load(Job(assign, self._job.body), self._found)
            self.resident.original = self._found_original
        except Fault as fault:
            log.warning("an optimisation could not be undone", model_id=self._model_id, reason=fault.info.message)

    # one step

    def _try(self, step: Step) -> None:
        wanted = changed(step, self._configuration, self._sixteen())
        reason = self._not_to_be_tried(step)
        if reason:
            self._tell(step, wanted, reason)
            return
        try:
            self._load(self._job, wanted)
            candidate = self._measured()
        except Fault as fault:
            if fault.code in ENDS_IT:
                raise
            self._tell(step, wanted, fault.info.message)
            self._back()
            return
        reason = self._not_applied(step) or self._not_worth_it(candidate)
        self._tell(step, wanted, reason, candidate)
        if reason:
            self._back()
            return
        self._configuration, self.now = wanted, candidate
        self.kept.append(step)

    def _back(self) -> None:
        self._load(self._job, self._configuration)

    def _load(self, job: Job, configuration: ModelLoadConfiguration) -> None:
        held = self._engine.cache.get(self._model_id)
        wish = Wish(
            configuration=configuration,
            priority=held.priority if held is not None else LoadPriority.Normal,
            host_holds_file=held is not None and not held.keeps_ram_copy,
            pin=held is not None and held.pinned,
        )
        with job.quiet():
            bring(self._engine, job, assigned_model(job, self._model_id), wish)

    def _measured(self) -> Measure:
        return measure(self._engine, self._job, self.resident, self._settings)

    def _sixteen(self) -> ModelPrecision:
        """The type of 16 bits that the device computes well in, the file's own first."""
        own, well = precision.own(self.resident.file), self._engine.device.computes_well
        return next(
            (one for one in (own, *precision.WHOLE) if one in precision.WHOLE and one in well), precision.WHOLE[0]
        )

    def _not_to_be_tried(self, step: Step) -> str:
        """Why a step cannot be had here, or not in time; "" where it is tried."""
        device, resident = self._engine.device, self.resident
        if option_of(step) == "precision":
            wanted = PRECISIONS.get(step, self._sixteen())
            if wanted not in device.precisions:
                return f"{device.identity().device_id} cannot hold a model in {wanted.value}"
            if step is Step.SIXTEEN and wanted not in device.computes_well:
                return f"{device.identity().device_id} only emulates {wanted.value}"
            if resident.built.precision is wanted:
                return f"it is in {wanted.value} already"
        else:
            refused = device.refuses(step.value)
            if refused:
                return refused
            if step.value in resident.resolved.chosen:
                return "it is applied already"
        if resident.built.replaced or resident.built.loras:
            return "parts or adapters were loaded into it, which a load under another configuration would lose"
        left = self._settings.budget_seconds - (time.perf_counter() - self._began)
        expected = self.now.seconds + (resident.load_ms[-1] / 1000 if resident.load_ms else 0.0)
        if expected > left:
            return f"it is expected to take {expected:.1f} s: {max(0.0, left):.1f} s of the budget are left"
        return ""

    def _not_applied(self, step: Step) -> str:
        """Why a flag does not act on the model although it was loaded with it; "" where it acts."""
        found = next((one for one in self.resident.options if one.option == option_of(step)), None)
        return "" if found is None or found.applied else found.reason or "it does not act on this model"

    def _not_worth_it(self, candidate: Measure) -> str:
        """Why a step is undone; "" where it is kept."""
        target, now = self._settings.target, self.now
        if target is Target.Quality:
            return self._not_truer(candidate)
        assert self._bounds is not None
        like = likeness(self.reference, candidate).ssim
        if like < self._bounds.least_likeness:
            least = self._bounds.least_likeness
            return f"its pictures are others: SSIM {like:.3f}, and {self._settings.level.value} allows {least:g}"
        slower = _ratio(candidate.step_ms, self.before.step_ms)
        if target is not Target.Speed and slower > self._bounds.most_slowdown:
            level, allowed = self._settings.level.value, self._bounds.most_slowdown
            return f"a step takes {slower:.2f} times as long as before, and {level} allows {allowed:g}"
        time_share, room_share = _ratio(candidate.step_ms, now.step_ms), _ratio(candidate.peak_bytes, now.peak_bytes)
        shares = {Target.Speed: time_share, Target.Memory: room_share}
        share = shares.get(target, time_share * room_share)
        if share > 1 - GAIN:
            what = {Target.Speed: "time", Target.Memory: "memory"}.get(target, "time and memory together")
            return f"it takes {share:.2f} of the {what} of before: less than {GAIN:.0%} is gained"
        return ""

    def _not_truer(self, candidate: Measure) -> str:
        # Pictures in Float32 are what all others are held against from here on.
        gained = 1.0 - likeness(candidate, self.now).ssim
        if gained <= LIKER:
            return "its pictures are those of Float32 as it is"
        self.reference = candidate
        return ""

    def _tell(self, step: Step, wanted: ModelLoadConfiguration, reason: str, candidate: Measure | None = None) -> None:
        requested = wanted.precision if option_of(step) == "precision" else True
        evidence: dict[str, Any] | None = None
        if candidate is not None:
            like = likeness(self.reference, candidate)
            evidence = {
                "step_ms_before": self.now.step_ms,
                "step_ms_after": candidate.step_ms,
                "peak_bytes_before": self.now.peak_bytes,
                "peak_bytes_after": candidate.peak_bytes,
                "bytes_before": self.now.weights_bytes,
                "bytes_after": candidate.weights_bytes,
                "ssim": like.ssim,
                "psnr": like.psnr,
                "latent_distance": like.latent_distance,
            }
        outcome = OptionOutcome(
            option=option_of(step), requested=requested, applied=not reason, reason=reason or None, evidence=evidence
        )
        self.options.append(outcome)


def likeness(one: Measure, other: Measure) -> Likeness:
    """How alike what two measurements drew is."""
    pairs = list(zip(one.pictures, other.pictures, strict=True))
    latents = [(a, b) for a, b in zip(one.latents, other.latents, strict=True) if a is not None and b is not None]
    return Likeness(
        ssim=_mean([ssim(a, b) for a, b in pairs]),
        psnr=_mean([psnr(a, b) for a, b in pairs]),
        latent_distance=_mean([distance(a, b) for a, b in latents]) if latents else 0.0,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ratio(above: float, below: float) -> float:
    return above / below if below else 1.0
