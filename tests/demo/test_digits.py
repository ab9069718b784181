"""The digits' model draws what it is asked for, also after it was optimised; and its reader reads."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from demo.digits.reading import MODEL, NAMES, prompt_of, read_digit
from modelfiles.model import inspect
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.enums import ModelOptimizationTarget, OptimizationLevel
from protocol.replies import GenerateReply, OptimizeModelReply, ValidateModelReply
from tests.worker.bench import Bench, worker_spec

DIGITS = "digits"
STEPS = 20


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    import torch  # noqa: PLC0415 - collected by the quick tests too

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("digits") / "models"
    shutil.copytree(MODEL, root / DIGITS)
    return Bench(root, worker_spec(root))


def read(bench: Bench) -> list[int]:
    """What the reader takes a picture of each digit for."""
    found = []
    for digit in range(10):
        command = c.Generate(model_id=DIGITS, prompt=prompt_of(digit), seed=digit, steps=STEPS)
        outcome = bench.run(command, DIGITS)
        assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
        found.append(read_digit(outcome.attachments[0])[0])
    return found


def test_the_model_is_whole_and_small(bench: Bench) -> None:
    reply = bench.reply(ValidateModelReply, c.ValidateModel(model_id=DIGITS), DIGITS)
    assert reply.is_valid and reply.is_compatible and not reply.issues
    file = inspect(bench.root / DIGITS, Roots([bench.root]))
    assert file.dtype == "F16" and file.size_bytes < 6 << 20
    assert (MODEL / "README.md").read_text().startswith("# Handwritten digits")


def test_digits_are_what_was_asked_for_before_and_after_an_optimisation(bench: Bench) -> None:
    assert sum(found == digit for digit, found in enumerate(read(bench))) >= 9
    command = c.OptimizeModel(
        model_id=DIGITS,
        target=ModelOptimizationTarget.Memory,
        level=OptimizationLevel.Aggressive,
        save_optimized=False,
        parameters={"prompts": [prompt_of(7), prompt_of(2)], "steps": 8, "budget_seconds": 60},
    )
    reply = bench.reply(OptimizeModelReply, command, DIGITS)
    assert "precision" in reply.results.optimizations_applied, reply.options
    assert sum(found == digit for digit, found in enumerate(read(bench))) >= 9


def test_the_reader_tells_an_empty_picture_from_nothing_and_a_bar_from_a_ring() -> None:
    def picture(values: np.ndarray) -> bytes:  # type: ignore[type-arg]
        file = io.BytesIO()
        Image.fromarray(values.astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    bar, ring = np.zeros((64, 64)), np.zeros((64, 64))
    bar[4:60, 28:38] = 255
    y, x = np.mgrid[0:64, 0:64]
    ring[(np.hypot((y - 32) / 1.3, x - 32) < 20) & (np.hypot((y - 32) / 1.3, x - 32) > 11)] = 255
    assert NAMES[read_digit(picture(bar))[0]] == "one"
    assert NAMES[read_digit(picture(ring))[0]] == "zero"
    assert 0 < read_digit(picture(np.zeros((64, 64))))[1] <= 1
