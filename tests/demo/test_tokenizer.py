"""The tokenizers are CLIP's own and a T5 that knows words."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import CLIPTokenizer

from demo.tokenizer import CLIP_VOCAB_SIZE, clip_tokenizer, clip_vocabulary, t5_tokenizer, write_clip_tokenizer


def test_clip_ids_are_those_of_the_published_tokenizer() -> None:
    assert len(clip_vocabulary().tokens) == CLIP_VOCAB_SIZE
    # The ids that CLIP is known to give this sentence.
    assert clip_tokenizer()("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_the_vocabulary_is_found_without_importing_its_package() -> None:
    clip_vocabulary()
    assert "open_clip" not in sys.modules


def test_a_written_clip_tokenizer_reads_back_alike(tmp_path: Path) -> None:
    write_clip_tokenizer(tmp_path, "!")
    read, built = CLIPTokenizer.from_pretrained(tmp_path), clip_tokenizer("!")
    text = "Ünïcode 漢字 12345, don't :)"
    assert read(text).input_ids == built(text).input_ids
    assert (read.pad_token_id, read.model_max_length) == (0, 77)


def test_t5_knows_whole_words_and_spells_the_rest() -> None:
    tokenizer = t5_tokenizer()
    assert tokenizer.tokenize("photo") == ["▁photo"]
    assert tokenizer.decode(tokenizer("photo zqxj").input_ids, skip_special_tokens=True) == "photo zqxj"
    assert tokenizer("photo").input_ids[-1] == tokenizer.eos_token_id
