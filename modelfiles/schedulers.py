"""Schedulers by the names that people know, and what each needs.

The one table of them: the worker makes them by it, the catalogue says which a model takes. Names are those of the web
UI (https://huggingface.co/docs/diffusers/api/schedulers/overview says which class each is); a class's own serves too.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from modelfiles.families import SchedulerKind
from modelfiles.model import ModelFile
from modelfiles.modes import family_of
from modelfiles.statements import V_PREDICTION

KARRAS = "use_karras_sigmas"
ALGORITHM = "algorithm_type"


class Scheduler(NamedTuple):
    """One choice: diffusers' class and what of its configuration the name decides.

    `zero_snr`: it can draw models of zero terminal SNR. `package` is one that it needs beside diffusers. `aliases` are
    what other programs call it. `unless_stated` are defaults of the class that suit no latent picture.
    """

    name: str
    class_name: str
    settings: Mapping[str, Any] = {}
    zero_snr: bool = False
    package: str = ""
    aliases: tuple[str, ...] = ()
    unless_stated: Mapping[str, Any] = {}


def _both(name: str, class_name: str, *aliases: str, zero_snr: bool = False, **settings: Any) -> tuple[Scheduler, ...]:
    """A scheduler as it is, and with the noise levels of Karras et al. (2022), equation 5."""
    karras = tuple(f"{alias} karras" for alias in aliases) + tuple(f"{alias}_k" for alias in aliases)
    return (
        Scheduler(name, class_name, {**settings, KARRAS: False}, zero_snr, aliases=aliases),
        Scheduler(f"{name} Karras", class_name, {**settings, KARRAS: True}, zero_snr, aliases=karras),
    )


_UNCLIPPED = {"clip_sample": False}
_SDE = {ALGORITHM: "sde-dpmsolver++"}
_DPM = "DPMSolverMultistepScheduler"
NOISE = (
    Scheduler("DDIM", "DDIMScheduler", zero_snr=True, unless_stated=_UNCLIPPED),
    Scheduler("DDPM", "DDPMScheduler", zero_snr=True, unless_stated=_UNCLIPPED),
    *_both("DEIS", "DEISMultistepScheduler", "deis"),
    *_both("DPM++ 2M", _DPM, "dpmpp_2m", zero_snr=True, algorithm_type="dpmsolver++"),
    *_both("DPM++ 2M SDE", _DPM, "dpmpp_2m_sde", zero_snr=True, **_SDE),
    *_both("DPM++ SDE", "DPMSolverSinglestepScheduler", "dpmpp_sde"),
    *_both("DPM2", "KDPM2DiscreteScheduler", "dpm_2"),
    *_both("DPM2 a", "KDPM2AncestralDiscreteScheduler", "dpm_2_ancestral"),
    *_both("Euler", "EulerDiscreteScheduler", "euler", zero_snr=True),
    Scheduler("Euler a", "EulerAncestralDiscreteScheduler", zero_snr=True, aliases=("euler_ancestral",)),
    *_both("Heun", "HeunDiscreteScheduler", "heun"),
    Scheduler("LCM", "LCMScheduler", zero_snr=True),
    Scheduler("LMS", "LMSDiscreteScheduler", {KARRAS: False}, package="scipy"),
    Scheduler("LMS Karras", "LMSDiscreteScheduler", {KARRAS: True}, package="scipy", aliases=("lms_k",)),
    Scheduler("PNDM", "PNDMScheduler", aliases=("plms",)),
    Scheduler("TCD", "TCDScheduler", zero_snr=True),
    *_both("UniPC", "UniPCMultistepScheduler", "uni_pc", zero_snr=True),
)
FLOW = (Scheduler("Euler", "FlowMatchEulerDiscreteScheduler"),)
EDM = (
    Scheduler("Euler", "EDMEulerScheduler"),
    Scheduler("DPM++ 2M", "EDMDPMSolverMultistepScheduler", aliases=("dpmpp_2m",)),
)
TABLE: Mapping[SchedulerKind, tuple[Scheduler, ...]] = {
    SchedulerKind.NOISE: NOISE,
    SchedulerKind.FLOW: FLOW,
    SchedulerKind.EDM: EDM,
}


class Distilled(NamedTuple):
    """How a model that was distilled for few steps is drawn where nobody asks; guidance None is its pipeline's own."""

    steps: int
    guidance: float | None


def distilled(class_name: str, config: Mapping[str, Any]) -> Distilled | None:
    """What a model's own scheduler says of that; None for one that takes its pipeline's usual number of steps.

    The published turbo models have ancestral Euler steps that trail, of a model that predicts noise, and are drawn
    without guidance (https://huggingface.co/stabilityai/sdxl-turbo); latent consistency models have a class of their
    own (https://arxiv.org/abs/2310.04378).
    """
    if class_name == "LCMScheduler":
        return Distilled(steps=4, guidance=None)
    trails = config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")
    if class_name == "EulerAncestralDiscreteScheduler" and trails and config.get("prediction_type") != V_PREDICTION:
        return Distilled(steps=4, guidance=0.0)
    return None


def offered(kind: SchedulerKind, *, zero_snr: bool = False) -> list[Scheduler]:
    """The schedulers of a kind that can be had here, of a model of zero terminal SNR those that know it."""
    return [one for one in TABLE[kind] if (one.zero_snr or not zero_snr) and _is_there(one.package)]


def of_model(file: ModelFile) -> list[str]:
    """The names of the schedulers that a model takes; empty for what makes no pictures by them."""
    family = family_of(file)
    if family is None or file.profile is not None:
        return []
    kind = family.scheduler
    if file.says.edm and file.says.prediction == V_PREDICTION:
        kind = SchedulerKind.EDM
    return [one.name for one in offered(kind, zero_snr=file.says.zero_snr)]


def find(name: str, choices: list[Scheduler]) -> Scheduler | None:
    """The choice that a name means, in any spelling: a known one, another program's, or a class's; None for no choice.

    A class's name decides the class alone, and leaves the rest to the model's own configuration.
    """
    wanted = folded(name)
    for one in choices:
        if wanted in {folded(word) for word in (one.name, *one.aliases)}:
            return one
    for one in choices:
        if wanted in _class_words(one.class_name):
            return one._replace(settings={})
    return None


def folded(name: str) -> str:
    """A name without case, spaces and signs; a plus is a p, as `dpmpp_2m` has it."""
    return re.sub(r"[^a-z0-9]", "", name.casefold().replace("+", "p"))


def _class_words(class_name: str) -> set[str]:
    short = class_name.removesuffix("Scheduler")
    plain = short.removesuffix("Discrete").removesuffix("Multistep")
    return {folded(word) for word in (class_name, short, plain)}


@cache
def _is_there(package: str) -> bool:
    return not package or importlib.util.find_spec(package) is not None
