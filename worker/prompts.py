"""Prompts as people write them: longer than an encoder takes, with parts that count for more or less.

Decides which prompts need more than the pipeline's own way, and what is told of what an encoder leaves out. Where a
family has CLIP encoders alone, a long prompt goes through them in pieces and `(words:1.3)`, as compel's `(words)1.3`,
weigh; a prompt that needs neither is the pipeline's own affair, bit for bit. Elsewhere what is cut is quoted.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from compel import Compel, ReturnedEmbeddingsType
from compel.prompt_parser import Conjunction, FlattenedPrompt, Fragment

from modelfiles.families import Family
from protocol.errors import invalid
from worker.pipelines import Pipelines

NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
END = re.compile(rf":\s*{NUMBER}\s*\)|\){NUMBER}(?![\w.])")
"""The end of `(words:1.3)` and of `(words)1.3`."""

MOST_NESTED = 16
MOST_PARTS = 64
"""Of their own weights: each that weighs less than 1 is another run of the encoder."""

SHOWN = 200
"""Letters of what was cut that a warning quotes."""


class Prompts:
    """A run's two prompts; `negative` None where none is given."""

    def __init__(
        self, pipelines: Pipelines, prompt: str, negative: str | None, device: torch.device, pipeline: Any
    ) -> None:
        self._pipelines = pipelines
        self._prompt = prompt
        self._negative = negative
        self._device = device
        self._pipeline = pipeline
        self._encoders = _clip_encoders(pipelines)

    @property
    def need_more(self) -> bool:
        """Whether they are more than what the pipeline makes of them."""
        return bool(self._encoders) and any(
            is_weighted(text) or self._length(text) > self._room for text in (self._prompt, self._negative or "")
        )

    def embedded(self) -> dict[str, Any]:
        """What the pipeline is given in the place of the two: embeddings [1, tokens, width], equally long."""
        pooled = "text_encoder_2" in self._names
        kind = ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED
        if pooled:
            kind = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
        texts = (self._prompt, self._negative or "")
        halves: list[list[torch.Tensor]] = []
        means: list[torch.Tensor] = []
        for tokenizer, encoder in self._encoders:
            compel = Compel(
                tokenizer=tokenizer,
                text_encoder=encoder,
                truncate_long_prompts=False,
                returned_embeddings_type=kind,
                device=str(self._device),
            )
            # A word of several vectors is as many tokens.
            spelled = [self._pipeline.maybe_convert_prompt(text, tokenizer) for text in texts]
            made = [compel.build_conditioning_tensor_for_conjunction(_conjunction(text))[0] for text in spelled]
            halves.append(compel.pad_conditioning_tensors_to_same_length(made))
            if pooled:
                # The last encoder's: of the words alone, as its pipeline has them.
                provider = compel.conditioning_provider
                means = [provider.get_pooled_embeddings([_words(text)], device=compel.device) for text in spelled]
        long, short = (torch.cat(tensors, dim=-1) for tensors in zip(*halves, strict=True))
        found: dict[str, Any] = {"prompt": None, "negative_prompt": None}
        found |= {"prompt_embeds": long, "negative_prompt_embeds": short}
        if pooled:
            found |= {"pooled_prompt_embeds": means[0], "negative_pooled_prompt_embeds": means[1]}
            if self._negative is None and self._pipelines.zeroes_empty:
                for name in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"):
                    found[name] = torch.zeros_like(found[name])
        return found

    @property
    def _names(self) -> list[str]:
        return [name for name in ("text_encoder", "text_encoder_2") if self._pipelines.components.get(name) is not None]

    @property
    def _room(self) -> int:
        return min(int(tokenizer.model_max_length) for tokenizer, _ in self._encoders)

    def _length(self, text: str) -> int:
        return max(len(_tokens(tokenizer, text)) for tokenizer, _ in self._encoders)

    def cuts(self) -> Iterator[str]:
        """A warning for each prompt of which the encoder that takes most takes only a part."""
        if self._encoders:
            return
        for field, text in (("prompt", self._prompt), ("negative_prompt", self._negative or "")):
            left = [self._left_out(one, text) for one in self._tokenizers()]
            if left and all(left):
                cut = min(left, key=len)
                shown = cut if len(cut) <= SHOWN else cut[:SHOWN] + "..."
                yield f"{field} is longer than this model takes, and was cut before: {shown!r}"

    def _tokenizers(self) -> Iterator[Any]:
        for name, one in self._pipelines.components.items():
            encoder = name.replace("tokenizer", "text_encoder")
            if name.startswith("tokenizer") and one is not None and self._pipelines.components.get(encoder) is not None:
                yield one

    def _left_out(self, tokenizer: Any, text: str) -> str:
        """The end of a text that an encoder does not take; "" where it takes all."""
        most = int(tokenizer.model_max_length)
        own = inspect.signature(self._pipeline.__call__).parameters.get("max_sequence_length")
        if own is not None and "CLIP" not in type(tokenizer).__name__:
            most = min(most, int(own.default))
        tokens = _tokens(tokenizer, text)
        specials = tokenizer.num_special_tokens_to_add()
        if len(tokens) <= most:
            return ""
        return str(tokenizer.decode(tokens[most - max(1, specials // 2) :], skip_special_tokens=True)).strip()


def is_weighted(text: str) -> bool:
    """Whether parts of a prompt count for more or less than others."""
    return _read(text)[1]


def weighed(text: str) -> list[tuple[str, float]]:
    """The parts of a prompt with their weights."""
    return _read(text)[0]


def _read(text: str) -> tuple[list[tuple[str, float]], bool]:
    """The parts of a prompt with their weights, in order, equal neighbours as one; and whether any weight is given.

    Nested weights multiply. Brackets without a weight, that are not closed, or deeper than `MOST_NESTED` are letters;
    so is one behind a backslash. In one pass, whatever the text is.
    """
    open_groups: list[list[tuple[str, float]]] = [[]]
    at, given = 0, False
    while at < len(text):
        letter = text[at]
        if letter == "\\" and text[at + 1 : at + 2] in ("(", ")", "\\"):
            _append(open_groups[-1], text[at + 1], 1.0)
            at += 2
            continue
        end = END.match(text, at) if len(open_groups) > 1 else None
        if letter == "(" and len(open_groups) <= MOST_NESTED:
            open_groups.append([])
        elif end is not None:
            group, weight = open_groups.pop(), float(end[1] or end[2])
            for words, own in group:
                _append(open_groups[-1], words, own * weight)
            at, given = end.end() - 1, True
        elif letter == ")" and len(open_groups) > 1:
            _close(open_groups, ")")
        else:
            _append(open_groups[-1], letter, 1.0)
        at += 1
    while len(open_groups) > 1:
        _close(open_groups, "")
    return open_groups[0], given


def _close(open_groups: list[list[tuple[str, float]]], end: str) -> None:
    """A group that has no weight: its brackets are letters."""
    group = open_groups.pop()
    _append(open_groups[-1], "(", 1.0)
    for words, own in group:
        _append(open_groups[-1], words, own)
    if end:
        _append(open_groups[-1], end, 1.0)


def _append(group: list[tuple[str, float]], words: str, weight: float) -> None:
    if group and group[-1][1] == weight:
        group[-1] = (group[-1][0] + words, weight)
    else:
        group.append((words, weight))


def _conjunction(text: str) -> Conjunction:
    """A prompt as compel has it; its own reader takes forever for some texts, and finds weights that none meant."""
    parts = weighed(text) or [("", 1.0)]
    if len(parts) > MOST_PARTS:
        raise invalid("prompt", f"{len(parts)} parts of their own weight", f"at most {MOST_PARTS}")
    return Conjunction([FlattenedPrompt([Fragment(words, weight) for words, weight in parts])])


def _words(text: str) -> str:
    """A prompt without its weights."""
    return "".join(words for words, _ in weighed(text))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, truncation=False, verbose=False).input_ids)


def _clip_encoders(pipelines: Pipelines) -> list[tuple[Any, Any]]:
    """The tokenizers and encoders of a family that has CLIP's alone; none of any other."""
    family: Family = pipelines.family
    if family.denoiser.part != "unet":
        return []
    pairs = [
        (pipelines.components.get(name.replace("text_encoder", "tokenizer")), pipelines.components.get(name))
        for name in ("text_encoder", "text_encoder_2")
    ]
    return [(tokenizer, encoder) for tokenizer, encoder in pairs if tokenizer is not None and encoder is not None]
