"""Textual inversions: vectors that a word calls, in the place of what a text encoder would look up for it.

Decides which vectors are which encoder's, by name or by width (Gal et al., 2022; the files of A1111 and of diffusers).
A model's tokenizer is a copy that knows the words; its encoder, which other models may share, is not changed: while a
run lasts, ids beyond its table are looked up here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelfiles.headers import Tensor, read_header
from modelfiles.jsonfile import corrupted, incompatible
from modelfiles.model import ModelFile
from modelfiles.recognition import MOST_VECTORS
from protocol.checks import unsupported
from protocol.errors import invalid
from worker.pipelines import Pipelines
from worker.reader import Reader

ENCODERS = ("text_encoder", "text_encoder_2")
NAMED = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
"""What files for two encoders call the vectors of each."""

UNNAMED = ("emb_params", *NAMED)
"""Names that are no word."""

LONGEST_WORD = 64


class WordVectors(nn.Module):
    """The vectors of one word, [vectors, width] for each encoder that has some."""

    def __init__(self, word: str, vectors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.word = word
        self.encoders = list(vectors)
        self.config = {"word": word, "encoders": self.encoders}
        for name, tensor in vectors.items():
            self.register_buffer(name, tensor)

    @property
    def tokens(self) -> list[str]:
        """The word, and what diffusers puts behind it for each further vector."""
        count = max(len(getattr(self, name)) for name in self.encoders)
        return [self.word, *(f"{self.word}_{index}" for index in range(1, count))]


def read(word: str, file: ModelFile, pipelines: Pipelines, dtype: torch.dtype, reader: Reader) -> WordVectors:
    """The vectors of a file in host memory; `word` "" takes the file's own, else its stem.

    Raises Fault MODEL_INCOMPATIBLE, MODEL_CORRUPTED, INVALID_ARGUMENT (a word that cannot be one), NOT_SUPPORTED.
    """
    path = Path(file.path)
    encoders = {name: pipelines.components.get(name) for name in ENCODERS}
    held = {name: one for name, one in encoders.items() if one is not None and "CLIP" in type(one).__name__}
    if pipelines.family.denoiser.part != "unet" or not held:
        raise unsupported("component", f"{pipelines.family.name} takes no textual inversions here")
    header = read_header(path)
    if not _are_vectors(header.tensors):
        raise incompatible(f"{path.name} is no textual inversion: it is a {file.type.value}", type=file.type.value)
    places = _places(path.name, header.tensors, held)
    tensors = reader.read([(path, header, header.tensors)], lambda _, source: source)
    own = next((name for name in tensors if name not in UNNAMED), path.stem)
    vectors = {part: _vectors(path.name, key, tensors[key], dtype) for key, part in places}
    return WordVectors(_checked(word or own), vectors)


def _are_vectors(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors are a word's vectors: few of them, [width] or [vectors, width]."""
    small = all(len(one.shape) == 1 or (len(one.shape) == 2 and one.shape[0] <= MOST_VECTORS) for one in tensors)
    return small and 1 <= len(tensors) <= len(NAMED)


def extended(tokenizer: Any, words: Mapping[str, WordVectors]) -> Any:
    """A tokenizer that knows these words; the same where there are none."""
    if not words:
        return tokenizer
    made = copy.deepcopy(tokenizer)
    for one in words.values():
        made.add_tokens(one.tokens)
    return made


@contextmanager
def known(pipelines: Pipelines, words: Mapping[str, WordVectors]) -> Iterator[None]:
    """While it lasts, encoders look these words' tokens up here."""
    patched: list[Any] = []
    try:
        for name in ENCODERS if words else ():
            encoder, tokenizer = pipelines.components.get(name), pipelines.components.get(_tokenizer(name))
            if encoder is None or tokenizer is None:
                continue
            layer = encoder.get_input_embeddings()
            vars(layer)["forward"] = _lookup(layer, _table(name, tokenizer, words))
            patched.append(layer)
        yield
    finally:
        for layer in patched:
            del vars(layer)["forward"]


def _lookup(layer: Any, table: Mapping[int, torch.Tensor]) -> Any:
    inner, rows = layer.forward, int(layer.num_embeddings)

    def forward(ids: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = inner(torch.where(ids < rows, ids, 0))
        for number, vector in table.items():
            found = ids == number
            if found.any():
                made = torch.where(found.unsqueeze(-1), vector.to(made.device, made.dtype), made)
        return made

    return forward


def _table(name: str, tokenizer: Any, words: Mapping[str, WordVectors]) -> dict[int, torch.Tensor]:
    """The vector of each token's id; of a word that has none for this encoder, zeros stand in the tokenizer's place."""
    table: dict[int, torch.Tensor] = {}
    for one in words.values():
        vectors = getattr(one, name, None)
        for index, token in enumerate(one.tokens):
            if vectors is not None and index < len(vectors):
                table[int(tokenizer.convert_tokens_to_ids(token))] = vectors[index]
    return table


def _places(file: str, tensors: Sequence[Tensor], encoders: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which tensor is which encoder's. Raises Fault MODEL_INCOMPATIBLE."""
    widths = {name: int(one.get_input_embeddings().embedding_dim) for name, one in encoders.items()}
    found: list[tuple[str, str]] = []
    for tensor in tensors:
        key, width = tensor.name, tensor.shape[-1] if tensor.shape else 0
        wanted = [NAMED[key]] if key in NAMED and NAMED[key] in widths else list(widths)
        taken = {part for _, part in found}
        place = next((name for name in wanted if widths[name] == width and name not in taken), None)
        if place is None:
            text = f"{file}: {key[:80]} is {width} wide, and this model's text encoders are {sorted(widths.values())}"
            raise incompatible(text, key=key[:80], found=width, expected=sorted(widths.values()))
        found.append((key, place))
    return found


def _vectors(file: str, key: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not torch.isfinite(tensor.float()).all():
        raise corrupted(f"{file}: {key[:80]} has values that are not finite", tensor=key[:80])
    return tensor.reshape(-1, tensor.shape[-1]).to(dtype).contiguous()


def _checked(word: str) -> str:
    if not word or len(word) > LONGEST_WORD or any(letter.isspace() or not letter.isprintable() for letter in word):
        raise invalid("name", word, f"a word of at most {LONGEST_WORD} letters without spaces")
    return word


def _tokenizer(encoder: str) -> str:
    return encoder.replace("text_encoder", "tokenizer")
