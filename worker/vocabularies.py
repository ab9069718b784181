"""Tokenizers held to their text encoders: no token, and no text, beyond what an encoder has a row for.

An index past the end of an embedding ends the run on a cpu and the process on a GPU; a length of 10**30, which is how
tokenizers say that they know none, does so in the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelfiles.jsonfile import corrupted, incompatible

LONGEST_TEXT = 512
"""Tokens, where the encoder's positions have no end: what T5 was trained with."""

FEWEST_TOKENS = 3
"""A beginning, an end, and something to say."""


def bound_tokenizers(components: Mapping[str, Any], chat_template: str = "") -> None:
    """Let every tokenizer of a pipeline make no more than its encoder takes, and run no template but the family's.

    Raises Fault MODEL_INCOMPATIBLE where it knows tokens that the encoder has no embedding for, MODEL_CORRUPTED where
    it knows none.
    """
    for name, tokenizer in components.items():
        encoder = components.get(name.replace("tokenizer", "text_encoder"))
        if not name.startswith("tokenizer") or tokenizer is None or encoder is None:
            continue
        known = tokenizer.get_vocab()
        if len(known) < FEWEST_TOKENS:
            raise corrupted(f"{name} has a vocabulary of {len(known)} tokens", part=name)
        config = encoder.config.get_text_config()
        last, rows = max(known.values()), config.vocab_size
        if last >= rows:
            text = f"{name} has the token {last}, and the vocab_size of its text encoder is {rows}"
            raise incompatible(text, part=name, key="vocab_size")
        longest = getattr(config, "max_position_embeddings", LONGEST_TEXT)
        tokenizer.chat_template = chat_template or None
        tokenizer.model_max_length = int(min(tokenizer.model_max_length, longest))
