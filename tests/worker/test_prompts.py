"""Prompts as people write them: long ones, weighted ones, and a word on what an encoder left out."""

from __future__ import annotations

import numpy as np
import pytest

from demo.inventory import DemoModel
from protocol.errors import ErrorCode
from protocol.replies import GenerateReply
from tests.worker.bench import Bench, Outcome
from tests.worker.test_cpu import SD15, SDXL, draw, drawn
from worker import prompts
from worker.prompts import is_weighted, weighed

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


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a boat", [("a boat", 1)]),
        ("a (red:2) boat", [("a ", 1), ("red", 2), (" boat", 1)]),
        ("a (red)2 boat", [("a ", 1), ("red", 2), (" boat", 1)]),
        ("a ((red:2) boat:0.5), (b:2)", [("a ", 1), ("red", 1), (" boat", 0.5), (", ", 1), ("b", 2)]),
        ("(a (b) c:2)", [("a (b) c", 2)]),
        (r"\(a:2) (b:2)", [("(a:2) ", 1), ("b", 2)]),
        ("((a:2", [("((a:2", 1)]),
        ("a) b:2) c", [("a) b:2) c", 1)]),
        ("C++ (x:2)", [("C++ ", 1), ("x", 2)]),
        ("", []),
    ],
)
def test_the_parts_of_a_prompt(text: str, parts: list[tuple[str, float]]) -> None:
    found = weighed(text)
    assert [(words, weight) for words, weight in found if words] == _joined(parts)


def _joined(parts: list[tuple[str, float]]) -> list[tuple[str, float]]:
    made: list[tuple[str, float]] = []
    for words, weight in parts:
        if made and made[-1][1] == weight:
            made[-1] = (made[-1][0] + words, weight)
        else:
            made.append((words, weight))
    return made


HARD = {
    "open": "(a)1.2 " + "(" * 8000,
    "nested": "(" * 3000 + "a" + ")1.1" * 3000,
    "words in each": "(a " * 2000 + ":1.1)" * 2000,
    "colons": "(" + ":" * 8000,
    "numbers": "(a:" + "1" * 8000,
    "quotes": "(a)1.2 " + "'\"" * 4000,
}


@pytest.mark.parametrize("kind", list(HARD))
def test_no_text_takes_long_to_read(kind: str) -> None:
    """Each took a reader by recursion for ever."""
    assert "".join(words for words, _ in weighed(HARD[kind]))


def test_too_many_weights_are_refused_and_as_many_as_there_may_be_are_drawn(cpu: Bench) -> None:
    most = prompts.MOST_PARTS // 2
    picture(cpu, SD15, " ".join(f"(w{index}:1.{index % 9 + 1})" for index in range(most)))
    error = cpu.error(draw(SD15, prompt=" ".join(f"(w{index}:1.{index % 9 + 1})" for index in range(most + 1))), SD15)
    assert error.code is ErrorCode.INVALID_ARGUMENT and "64" in error.message


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
