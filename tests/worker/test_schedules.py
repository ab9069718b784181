"""A file is drawn as its weights say that they were trained, whatever its configuration says, and never in silence."""

from __future__ import annotations

import importlib.util
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelfiles import schedulers
from modelfiles.allowed import SCHEDULERS
from modelfiles.families import SchedulerKind
from protocol import commands as c
from protocol.errors import ErrorCode
from protocol.replies import GenerateReply, LoadModelReply
from tests.worker.bench import Bench, worker_spec
from worker import schedules

SINGLE = "tiny-sdxl-single"
V = {"prediction_type": "v_prediction"}
ZERO_SNR = {"rescale_betas_zero_snr": True}


class Shelf:
    """A root of single files with configurations beside them, and a device over it."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._source, self.root = source, folder / "models"
        self.root.mkdir()
        self._tensors = load_file(source / f"{SINGLE}.safetensors")
        self.bench = Bench(self.root, worker_spec(self.root))

    def add(
        self,
        name: str,
        tensors: dict[str, torch.Tensor] | None = None,
        metadata: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
    ) -> str:
        """A file with these tensors and metadata more, whose scheduler's configuration says this more; its name."""
        stated = {"format": "pt", **(metadata or {})}
        save_file({**self._tensors, **(tensors or {})}, self.root / f"{name}.safetensors", metadata=stated)
        shutil.copytree(self._source / SINGLE, self.root / name)
        path = self.root / name / "scheduler/scheduler_config.json"
        silent = {key: value for key, value in json.loads(path.read_text()).items() if key not in (*V, *ZERO_SNR)}
        path.write_text(json.dumps(silent | (config or {})))
        return f"{name}.safetensors"

    def load(self, name: str) -> LoadModelReply:
        return self.bench.reply(LoadModelReply, c.LoadModel(model_id=name), name)

    def draw(self, name: str, **fields: Any) -> bytes:
        command = c.Generate(model_id=name, prompt="a boat", steps=3, seed=7, width=64, height=64, **fields)
        outcome = self.bench.run(command, name)
        assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
        return outcome.attachments[0]


@pytest.fixture
def shelf(model_root: Path, tmp_path: Path) -> Shelf:
    torch.set_num_threads(1)
    return Shelf(model_root, tmp_path)


EMPTY = torch.zeros(0)


@pytest.mark.parametrize(
    ("tensors", "metadata", "meant"),
    [
        ({"v_pred": EMPTY}, {}, V),
        ({"v_pred": EMPTY, "ztsnr": EMPTY}, {}, V | ZERO_SNR),
        ({"ztsnr": EMPTY}, {}, ZERO_SNR),
        ({}, {"modelspec.prediction_type": "v"}, V),
        ({}, {"ss_v_parameterization": "True"}, V),
    ],
)
def test_the_picture_is_that_of_a_configuration_that_says_the_same(
    shelf: Shelf, tensors: dict[str, torch.Tensor], metadata: dict[str, str], meant: dict[str, Any]
) -> None:
    stated = shelf.add("stated", tensors, metadata)
    configured = shelf.add("configured", config=meant)
    plain = shelf.add("plain")
    assert shelf.load(stated).warnings == []
    picture = shelf.draw(stated)
    assert picture == shelf.draw(configured)
    assert picture != shelf.draw(plain)


def test_a_configuration_that_says_otherwise_is_named_in_a_warning(shelf: Shelf) -> None:
    stated = shelf.add("stated", {"v_pred": EMPTY}, config={"prediction_type": "epsilon"})
    (warning,) = shelf.load(stated).warnings
    assert "'epsilon'" in warning and "v_pred" in warning and "'v_prediction'" in warning
    assert shelf.draw(stated) == shelf.draw(shelf.add("configured", config=V))
    equal = shelf.add("equal", {"v_pred": EMPTY}, config=V)
    assert shelf.load(equal).warnings == []


def test_a_scheduler_that_knows_no_zero_terminal_snr_gives_way_and_is_not_to_be_had(shelf: Shelf) -> None:
    pndm = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    stated = shelf.add("stated", {"v_pred": EMPTY, "ztsnr": EMPTY}, config=pndm)
    index = shelf.root / "stated/model_index.json"
    index.write_text(index.read_text().replace("EulerDiscreteScheduler", "PNDMScheduler"))
    shelf.load(stated)
    assert shelf.draw(stated) == shelf.draw(stated, scheduler="euler")
    assert shelf.draw(stated, scheduler="ddim") != shelf.draw(stated)
    error = shelf.bench.error(
        c.Generate(model_id=stated, prompt="x", steps=1, width=64, height=64, scheduler="pndm"), stated
    )
    assert error.code is ErrorCode.INVALID_ARGUMENT and "Euler a" in error.message
    assert "PNDM" not in error.message.partition("one of")[2]


MOST_DRAWN_TWICE = 10
"""Steps of a picture that a test has the time to draw twice."""

TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("class_name", "config", "steps", "guidance"),
    [
        ("EulerAncestralDiscreteScheduler", TURBO, 4, 0.0),
        ("EulerAncestralDiscreteScheduler", {**TURBO, "timestep_spacing": "leading"}, 50, 5.0),
        ("EulerAncestralDiscreteScheduler", {**TURBO, **V}, 50, 5.0),
        ("EulerDiscreteScheduler", {**TURBO, "_class_name": "EulerDiscreteScheduler"}, 50, 5.0),
        ("LCMScheduler", {"_class_name": "LCMScheduler"}, 4, 5.0),
    ],
)
def test_a_model_distilled_for_few_steps_is_drawn_in_few_where_nobody_asks(
    shelf: Shelf, class_name: str, config: dict[str, Any], steps: int, guidance: float
) -> None:
    name = shelf.add("m", config=config)
    index = shelf.root / "m/model_index.json"
    index.write_text(index.read_text().replace("EulerDiscreteScheduler", class_name))
    command = c.Generate(model_id=name, prompt="a boat", seed=7, width=32, height=32)
    outcome = shelf.bench.run(command, name)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    assert outcome.reply.steps_done == steps
    if steps > MOST_DRAWN_TWICE:
        return  # the pipeline's own default: its guidance is not ours
    asked = c.Generate(
        model_id=name, prompt="a boat", seed=7, width=32, height=32, steps=steps, guidance_scale=guidance
    )
    assert shelf.bench.run(asked, name).attachments == outcome.attachments


def test_cosxl_is_drawn_with_its_own_range_of_noise(shelf: Shelf) -> None:
    sigmas = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    cosxl = shelf.add("cosxl", sigmas)
    other = shelf.add("other", {**sigmas, "edm_vpred.sigma_max": torch.tensor(40.0)})
    (warning,) = shelf.load(cosxl).warnings
    assert "EDMEulerScheduler" in warning and "edm_vpred.sigma_max" in warning
    pictures = {shelf.draw(name) for name in (cosxl, other, shelf.add("plain"))}
    assert len(pictures) == 3
    assert shelf.draw(cosxl, scheduler="euler") == shelf.draw(cosxl)
    command = c.Generate(model_id=cosxl, prompt="x", steps=1, width=64, height=64, scheduler="heun")
    error = shelf.bench.error(command, cosxl)
    assert error.code is ErrorCode.INVALID_ARGUMENT and "one of Euler, DPM++ 2M" in error.message


def test_what_no_scheduler_here_could_draw_is_refused_at_the_load(shelf: Shelf) -> None:
    playground = shelf.add("playground", {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)})
    error = shelf.bench.error(c.LoadModel(model_id=playground), playground)
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE and "edm_mean" in error.message


@pytest.mark.parametrize("ending", ["comfy_quant", "qweight", "quant_state.bitsandbytes__nf4"])
def test_packed_weights_are_refused_by_the_name_of_their_format_and_evict_nobody(shelf: Shelf, ending: str) -> None:
    plain = shelf.add("plain")
    shelf.load(plain)
    packed = shelf.add("packed", {f"model.diffusion_model.out.2.{ending}": torch.ones(1)})
    error = shelf.bench.error(c.LoadModel(model_id=packed), packed)
    assert error.code is ErrorCode.NOT_SUPPORTED
    assert error.details["format"] in error.message and ending in error.message
    assert shelf.bench.engine.cache.get(plain) is not None


@pytest.mark.parametrize("kind", SchedulerKind)
def test_the_table_names_classes_that_are_there_and_says_truly_what_each_takes(kind: SchedulerKind) -> None:
    for one in schedulers.TABLE[kind]:
        assert one.class_name in SCHEDULERS
        cls = getattr(diffusers, one.class_name)
        if importlib.util.find_spec(one.package or "diffusers") is None:
            continue
        taken = inspect.signature(cls).parameters
        assert one.zero_snr == ("rescale_betas_zero_snr" in taken) or kind is not SchedulerKind.NOISE
        assert set(one.settings) <= set(taken), one.name


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # numpy's, of diffusers' KDPM2 schedulers
@pytest.mark.parametrize("name", [one.name for one in schedulers.offered(SchedulerKind.NOISE)])
def test_every_scheduler_that_is_offered_draws(cpu: Bench, name: str) -> None:
    command = c.Generate(
        model_id="tiny-sd15", prompt="a boat", steps=4, seed=7, width=64, height=64, scheduler=name.upper()
    )
    outcome = cpu.run(command, "tiny-sd15")
    assert isinstance(outcome.reply, GenerateReply), (name, outcome.reply.error)


def test_karras_levels_are_another_picture_and_other_programs_words_the_same(cpu: Bench) -> None:
    def drawn(scheduler: str) -> bytes:
        command = c.Generate(
            model_id="tiny-sd15", prompt="a boat", steps=4, seed=7, width=64, height=64, scheduler=scheduler
        )
        outcome = cpu.run(command, "tiny-sd15")
        assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
        return outcome.attachments[0]

    plain = drawn("DPM++ 2M")
    assert plain == drawn("dpmpp_2m") == drawn("dpm++ 2m")
    assert drawn("DPM++ 2M Karras") == drawn("dpmpp_2m_k") != plain
    assert drawn("Euler a") == drawn("euler_ancestral") == drawn("EulerAncestralDiscreteScheduler")


@pytest.mark.parametrize("name", ["DDIM", "DDPMScheduler"])
def test_latents_are_not_clipped_unless_the_model_says_so(name: str) -> None:
    own = diffusers.EulerDiscreteScheduler(num_train_timesteps=1000)
    assert schedules.named(own, name).config.clip_sample is False
    stated = diffusers.DDIMScheduler(clip_sample=True)
    assert schedules.named(stated, name).config.clip_sample is True
