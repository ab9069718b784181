"""Tokenizers without a network: CLIP's real vocabulary, and a small unigram vocabulary for T5 made from it.

Decides where the vocabulary is found and which files a tokenizer folder holds. Knows nothing of models or pipelines.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
from pathlib import Path

import msgspec
from transformers import CLIPTokenizer, Qwen2Tokenizer, T5Tokenizer

from modelfiles.families.record import QWEN_CHAT

VOCABULARY_PACKAGE = "open_clip"
VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
CLIP_VOCAB_SIZE = 49_408
CLIP_MAX_TOKENS = 77
T5_VOCAB_SIZE = 2_048
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BYTE_VOCAB_SIZE = 256 + len(CHAT_TOKENS)
WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


class ClipVocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """CLIP's byte-pair encoding: token → id (49,408 of them) and the merges in order of rank."""

    tokens: dict[str, int]
    merges: list[tuple[str, str]]


class ClipTokenizerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`tokenizer_config.json` of a CLIP tokenizer. SDXL's second one pads with `!`."""

    add_prefix_space: bool = False
    bos_token: str = START
    eos_token: str = END
    unk_token: str = END
    pad_token: str = END
    do_lower_case: bool = True
    errors: str = "replace"
    model_max_length: int = CLIP_MAX_TOKENS
    tokenizer_class: str = "CLIPTokenizer"


def vocabulary_path() -> Path:
    """Where the package with CLIP's vocabulary keeps it. The package itself is not imported: that would cost seconds.

    Raises FileNotFoundError when the package or its file is not installed.
    """
    spec = importlib.util.find_spec(VOCABULARY_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / VOCABULARY_FILE
        if path.is_file():
            return path
    raise FileNotFoundError(f"{VOCABULARY_FILE} not found: install the package open_clip_torch")


def byte_letters() -> list[str]:
    """The 256 letters that stand for bytes, in CLIP's order (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(others)]


def clip_vocabulary(size: int = CLIP_VOCAB_SIZE) -> ClipVocabulary:
    """Read CLIP's vocabulary, of `size` tokens: letters, letters that end a word, merges by rank, start, end."""
    lines = gzip.decompress(vocabulary_path().read_bytes()).decode("utf-8").split("\n")
    letters = byte_letters()
    merge_count = size - 2 * len(letters) - 2
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : merge_count + 1])]
    words = [left + right for left, right in merges]
    ordered = [*letters, *(letter + WORD_END for letter in letters), *words, START, END]
    return ClipVocabulary(tokens={token: index for index, token in enumerate(ordered)}, merges=merges)


def clip_tokenizer(pad_token: str = END, size: int = CLIP_VOCAB_SIZE) -> CLIPTokenizer:
    """A CLIP tokenizer with the real vocabulary, or its first `size` tokens."""
    vocabulary = clip_vocabulary(size)
    return CLIPTokenizer(
        vocab=vocabulary.tokens, merges=vocabulary.merges, pad_token=pad_token, model_max_length=CLIP_MAX_TOKENS
    )


def write_clip_tokenizer(folder: Path, pad_token: str = END, size: int = CLIP_VOCAB_SIZE) -> None:
    """Write `vocab.json` and `merges.txt`, as published models have them: they load in an eighth of the time that one
    `tokenizer.json` takes."""
    vocabulary = clip_vocabulary(size)
    folder.mkdir(parents=True, exist_ok=True)
    merges = "\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in vocabulary.merges), ""])
    (folder / "vocab.json").write_text(json.dumps(vocabulary.tokens, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    config = msgspec.json.encode(ClipTokenizerConfig(pad_token=pad_token))
    (folder / "tokenizer_config.json").write_bytes(msgspec.json.format(config, indent=2))
    special = json.dumps({"bos_token": START, "eos_token": END, "pad_token": pad_token, "unk_token": END}, indent=2)
    (folder / "special_tokens_map.json").write_text(special, encoding="utf-8")


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer of `T5_VOCAB_SIZE` pieces: every printable ASCII letter and CLIP's commonest words.

    A piece's score is minus the logarithm of its rank, so that whole words win over their letters.
    """
    special = ["<pad>", "</s>", "<unk>"]
    letters = ["▁", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    merged = [left + right for left, right in clip_vocabulary().merges]
    words = ["▁" + word.removesuffix(WORD_END) for word in merged if word.endswith(WORD_END) and word.isascii()]
    common = words[: T5_VOCAB_SIZE - len(special) - len(letters)]
    scored = [(piece, 0.0) for piece in special]
    scored += [(piece, -math.log(rank)) for rank, piece in enumerate(common, start=2)]
    scored += [(letter, -2 * math.log(T5_VOCAB_SIZE)) for letter in letters]
    return T5Tokenizer(vocab=scored, extra_ids=0, model_max_length=512)


def byte_tokenizer() -> Qwen2Tokenizer:
    """A tokenizer of Qwen's kind without merges: a token for each byte, and those that chats are marked with."""
    tokens = [*byte_letters(), *CHAT_TOKENS]
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        additional_special_tokens=list(CHAT_TOKENS[1:]),
        chat_template=QWEN_CHAT,
        model_max_length=1024,
    )
