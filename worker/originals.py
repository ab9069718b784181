"""Single files in the original layout: which of a part's tensors a file lacks, by the names that it would have there.

Decides by the library's own conversion of names, run on tensors without memory. Where that does not fit a file at all,
nothing is said here: the file is of another layout, which the loader tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from diffusers.loaders import single_file_utils
from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

from modelfiles.families import Family
from modelfiles.families.record import CLIP_CLASSES
from modelfiles.headers import Tensor
from settings.logs import Logger

log = Logger()

Names = dict[str, torch.Tensor]

WRAPPER = "text_model."
CLIP_PREFIXES = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP_PREFIXES = ("cond_stage_model.model.", "conditioner.embedders.1.model.")
MOST_LACKING = 0.5
"""Of a part's tensors: a file that lacks more of them has another layout."""

COMPUTED = ("position_ids",)
"""Endings of tensors that are made, not read."""


def _text_encoder(held: Names, module: Any) -> Names:
    """CLIP as transformers or as OpenCLIP writes it. Some versions of transformers wrap its layers once more."""
    prefix = next((prefix for prefix in OPEN_CLIP_PREFIXES if any(name.startswith(prefix) for name in held)), "")
    converted: Names
    if prefix:
        converted = convert_open_clip_checkpoint(module, held, prefix=prefix)
    else:
        known = next((prefix for prefix in CLIP_PREFIXES if any(name.startswith(prefix) for name in held)), None)
        converted = convert_ldm_clip_checkpoint(held, remove_prefix=known)
    if hasattr(module, "text_model"):
        return converted
    return {name.removeprefix(WRAPPER): tensor for name, tensor in converted.items()}


CLIP = frozenset(name for library, name in CLIP_CLASSES if library == "transformers" and "Text" in name)


def _conversion(family: Family, class_name: str) -> Callable[[Names, Any], Names] | None:
    """What brings a part's names in the original layout to its class's own; None where nothing is known."""
    if class_name in CLIP:
        return _text_encoder
    function = family.conversions.get(class_name)
    if function is None:
        return None
    convert = getattr(single_file_utils, function)
    return lambda held, module: cast(Names, convert(held, config=module.config))


def lacking(family: Family, class_name: str, module: torch.nn.Module, tensors: Iterable[Tensor]) -> list[str]:
    """The tensors that a part's module asks for and its file lacks; empty where there is no telling.

    A name is the original one where a sibling shows how it would be written, else the module's own.
    """
    convert = _conversion(family, class_name)
    if convert is None:
        return []
    held = {tensor.name: torch.empty(tensor.shape, device="meta") for tensor in tensors}
    try:
        converted = convert(held, module)
    except KeyError as error:
        # The conversion looks a tensor up by its original name, without what begins those of its part.
        name = str(error.args[0])
        return [name] if "." in name else []
    except Exception as error:
        log.warning(
            "a part's names are not the library's", part=class_name, error=f"{type(error).__name__}: {error}"[:500]
        )
        return []
    asked = [name for name in module.state_dict(keep_vars=True) if not name.endswith(COMPUTED)]
    # Some conversions look tensors up without asking whether they are there, and hand on nothing.
    absent = [name for name in asked if converted.get(name) is None]
    if len(absent) > MOST_LACKING * len(asked):
        return []
    by_object = {id(tensor): name for name, tensor in held.items()}
    originals = {name: by_object[id(tensor)] for name, tensor in converted.items() if id(tensor) in by_object}
    return [_original(name, originals) or name for name in absent]


def _original(absent: str, originals: Mapping[str, str]) -> str:
    """How a tensor would be written, by the present one whose name begins most like its own; "" where none shows it."""
    best = ""
    for name in originals:
        if len(_common(name, absent)) > len(_common(best, absent)):
            best = name
    common = _common(best, absent)
    ending = best[len(common) :]
    if not best or not originals[best].endswith(ending) or "." not in common:
        return ""
    written = originals[best]
    return written[: len(written) - len(ending)] + absent[len(common) :]


def _common(one: str, other: str) -> str:
    """The beginning that two names have in common, up to a dot."""
    count = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[: one.rfind(".", 0, count) + 1]
