"""Prompts as people write them: long ones, weighted ones, and a word on what an encoder left out."""

from __future__ import annotations

import numpy as np
import pytest

from demo.inventory import DemoModel
from protocol.replies import GenerateReply
from tests.worker.bench import Bench, Outcome
from tests.worker.test_cpu import SD15, SDXL, drawn
from worker import prompts
from worker.prompts import _for_compel, is_weighted

CLIP_FAMILIES = [SD15, SDXL, DemoModel.SD21]
OTHERS = [DemoModel.FLUX, DemoModel.SD3, DemoModel.Z_IMAGE, DemoModel.QWEN_IMAGE]
LONG = "a boat on a lake, " * 40


def picture(bench: Bench, model: str, prompt: str, **fields: object) -> Outcome:
    outcome = drawn(bench, model, prompt=prompt, **fields)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome


@pytest.mark.parametrize(
    ("text", "weighted"),
    [
        ("a boat", False),
        ("a (boat) on C++", False),
        ("a (boat:1.4)", True),
        ("a (boat:.5)", True),
        ("a (boat)1.4 here", True),
        (r"a \(boat:1.4\)", False),
        ("photo (taken: 1999 in May)", False),
        ("(a)1st", False),
        ("ratio 16:9", False),
    ],
)
def test_what_counts_as_a_weight(text: str, weighted: bool) -> None:
    assert is_weighted(text) is weighted


def test_weights_within_weights() -> None:
    assert _for_compel("a ((red:1.2) boat:0.5), (b:2)") == "a ((red)1.2 boat)0.5, (b)2"


@pytest.mark.parametrize("model", CLIP_FAMILIES)
def test_what_needs_nothing_is_left_to_the_pipeline_and_equal_to_it(
    cpu: Bench, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = picture(cpu, model, "a boat", negative_prompt="rain").attachments
    monkeypatch.setattr(prompts.Prompts, "need_more", True)
    through = picture(cpu, model, "a boat", negative_prompt="rain").attachments
    assert np.array_equal(first, through), "embeddings of a plain prompt are those of the pipeline"
    monkeypatch.undo()
    bare = picture(cpu, model, "a boat").attachments
    monkeypatch.setattr(prompts.Prompts, "need_more", True)
    assert picture(cpu, model, "a boat").attachments == bare


@pytest.mark.parametrize("model", CLIP_FAMILIES)
def test_weights_act_and_a_weight_of_one_does_not(cpu: Bench, model: str) -> None:
    first = picture(cpu, model, "a small boat on water").attachments
    assert picture(cpu, model, "a (small boat:1.5) on water").attachments != first
    assert picture(cpu, model, "a (small boat:1.0) on water").attachments == first
    assert picture(cpu, model, "a small boat on water", negative_prompt="(rain:1.5)").attachments != first


@pytest.mark.parametrize("model", CLIP_FAMILIES)
def test_the_end_of_a_long_prompt_counts(cpu: Bench, model: str) -> None:
    first = picture(cpu, model, LONG + "red")
    other = picture(cpu, model, LONG + "blue")
    assert first.attachments != other.attachments and not first.reply.warnings
    assert picture(cpu, model, "a boat", negative_prompt=LONG).attachments


@pytest.mark.parametrize("model", OTHERS)
def test_what_an_encoder_leaves_out_is_quoted(cpu: Bench, model: str) -> None:
    short = picture(cpu, model, "a boat")
    assert not short.reply.warnings
    long = picture(cpu, model, "a boat on a lake, " * 400 + "at the very end")
    (warning,) = long.reply.warnings
    assert warning.startswith("prompt is longer than this model takes") and "lake" in warning


def test_images_of_a_batch_and_adapters_go_with_it(cpu: Bench) -> None:
    outcome = picture(cpu, SD15, "a (boat:1.3), " + LONG, num_images=2)
    assert len(outcome.attachments) == 2 and outcome.attachments[0] != outcome.attachments[1]
