"""Single files in the original layout: their tensors under the names that a part's class has, and which it lacks.

Decides by the family's record, by the library's own conversions, and by whether a part's tensors have their class's own
names already. Works on tensors with memory and without. Where a file is of no known layout, nothing is said here: the
loader tells it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from diffusers.loaders import single_file_utils
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

from modelfiles.complete import MOST_LACKING
from modelfiles.families import Family
from modelfiles.families.record import CLIP_CLASSES, Key
from modelfiles.headers import Tensor
from settings.logs import Logger

log = Logger()

Names = dict[str, torch.Tensor]
Convert = Callable[[Names, Any], Names]

WRAPPER = "text_model."
INNER = ("", "transformer.", "model.", "transformer.model.", "model.transformer.")
"""What may stand between a part's beginning and its tensors' own names."""

LAST = "{last}"
OPEN_CLIP_MARK = "transformer.resblocks."
SOME = 16
"""Names of a part by which a beginning is tried: of a file in its class's own names most are there."""

COMPUTED = ("position_ids",)
"""Endings of tensors that are made, not read."""

CLIP = frozenset(name for library, name in CLIP_CLASSES if library == "transformers" and "Text" in name)


def converted(
    family: Family, class_name: str, module: torch.nn.Module, prefixes: Iterable[str], held: Names
) -> Names | None:
    """The tensors of a part by the names that its module has; None for a layout that is not known.

    `prefixes` begin the part's names in the file. Raises KeyError for a tensor that a conversion cannot do without.
    """
    asked = module.state_dict(keep_vars=True).keys()
    some = list(asked)[:: max(1, len(asked) // SOME)]
    best: Names = {}
    unmet: KeyError | None = None
    for convert in (
        *(
            _stripped(prefix + inner)
            for prefix in (*prefixes, "")
            for inner in INNER
            if any(prefix + inner + wrapped + name in held for name in some for wrapped in ("", WRAPPER))
        ),
        *_conversions(family, class_name, tuple(prefixes), held),
    ):
        try:
            # Some conversions look tensors up without asking whether they are there, and hand on nothing.
            found = {name: tensor for name, tensor in convert(held, module).items() if tensor is not None}
        except KeyError as error:
            unmet = error
            continue
        if len(found.keys() & asked) > len(best.keys() & asked):
            best = found
    if len(best.keys() & asked) >= MOST_LACKING * len(asked):
        return best
    if unmet is not None:
        raise unmet
    return None


def own_places(module: torch.nn.Module, tensors: Iterable[Tensor]) -> dict[str, str] | None:
    """The names that a module asks for, each with the tensor of the files that stands there; None where one is absent.

    Only the names of the class itself are known here, with or without what its library puts before them.
    """
    held = {tensor.name: torch.empty(tensor.shape, device="meta") for tensor in tensors}
    names = {id(tensor): name for name, tensor in held.items()}
    asked = module.state_dict(keep_vars=True)
    tied = _tied(module)
    for inner in INNER:
        found = _stripped(inner)(held, module)
        absent = [
            name
            for name, tensor in asked.items()
            if name not in found and not name.endswith(COMPUTED) and not tied[id(tensor)] & found.keys()
        ]
        if not absent:
            return {name: names[id(found[name])] for name in asked if name in found}
    return None


def lacking(
    family: Family, class_name: str, module: torch.nn.Module, prefixes: Iterable[str], tensors: Iterable[Tensor]
) -> list[str]:
    """The tensors that a part's module asks for and its file lacks; empty where there is no telling.

    A name is the original one where a sibling shows how it would be written, else the module's own.
    """
    held = {tensor.name: torch.empty(tensor.shape, device="meta") for tensor in tensors}
    try:
        found = converted(family, class_name, module, prefixes, dict(held))
    except KeyError as error:
        # The conversion looks a tensor up by its original name, without what begins those of its part.
        name = str(error.args[0])
        return [name] if "." in name else []
    except Exception as error:
        log.warning(
            "a part's names are not the library's", part=class_name, error=f"{type(error).__name__}: {error}"[:500]
        )
        return []
    if found is None:
        return []
    tied = _tied(module)
    absent = [
        name
        for name, tensor in module.state_dict(keep_vars=True).items()
        if name not in found and not name.endswith(COMPUTED) and not tied.get(id(tensor), {name}) & found.keys()
    ]
    by_object = {id(tensor): name for name, tensor in held.items()}
    originals = {name: by_object[id(tensor)] for name, tensor in found.items() if id(tensor) in by_object}
    return [_by_keys(family.layout, name, held) or _original(name, originals) or name for name in absent]


def _tied(module: torch.nn.Module) -> dict[int, set[str]]:
    """The names of each tensor: one that stands in several places is read once."""
    names: dict[int, set[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), set()).add(name)
    return names


def _stripped(beginning: str) -> Convert:
    """Names that are the class's own behind a beginning. Some versions of transformers wrap CLIP's layers once more."""

    def convert(held: Names, module: Any) -> Names:
        own = {name.removeprefix(beginning): tensor for name, tensor in held.items() if name.startswith(beginning)}
        return _unwrapped(own, module)

    return convert


def _unwrapped(own: Names, module: Any) -> Names:
    if hasattr(module, WRAPPER.removesuffix(".")):
        return own
    return {name.removeprefix(WRAPPER): tensor for name, tensor in own.items()}


def _conversions(family: Family, class_name: str, prefixes: tuple[str, ...], held: Names) -> list[Convert]:
    """What may bring a part's names in the original layout to its class's own."""
    if class_name in CLIP:
        return [_open_clip(name[: name.index(OPEN_CLIP_MARK)]) for name in held if OPEN_CLIP_MARK in name][:1]
    function = family.conversions.get(class_name)
    if function is not None:
        convert = getattr(single_file_utils, function)
        return [lambda held, module: cast(Names, convert(dict(held), config=module.config))]
    return [_by_layout(family.layout, prefix) for prefix in (*prefixes, "")] if family.layout else []


def _open_clip(prefix: str) -> Convert:
    def convert(held: Names, module: Any) -> Names:
        return _unwrapped(convert_open_clip_checkpoint(module, held, prefix=prefix), module)

    return convert


def _by_layout(keys: tuple[Key, ...], prefix: str) -> Convert:
    def convert(held: Names, module: Any) -> Names:
        names = {name.removeprefix(prefix): tensor for name, tensor in held.items() if name.startswith(prefix)}
        rows = {name: tensor.shape[0] for name, tensor in module.state_dict(keep_vars=True).items() if tensor.ndim}
        patterns = [(key, pattern_of(key.original)) for key in keys]
        last = last_block(keys, names)
        found: Names = {}
        for name, tensor in names.items():
            for key, pattern in patterns:
                match = pattern.fullmatch(name)
                if match is not None and (LAST not in key.original or match["block"] == last):
                    found |= _own(key, match, tensor, rows)
                    break
        return found

    return convert


def pattern_of(name: str) -> re.Pattern[str]:
    """What a key's name stands for: its block's number and, where it ends with a dot, what follows are the groups."""
    numbered = re.sub(r"\\\{(last)?\\\}", r"(?P<block>\\d+)", re.escape(name))
    return re.compile(numbered + ("(?P<rest>.+)" if name.endswith(".") or not name else "(?P<rest>)"))


def last_block(keys: Iterable[Key], names: Iterable[str]) -> str:
    """The greatest number among the blocks of which the last one is another."""
    patterns = [pattern_of(key.original) for key in keys if LAST in key.original]
    matches = (pattern.fullmatch(name) for pattern in patterns for name in names)
    return str(max((int(match["block"]) for match in matches if match is not None), default=-1))


def _own(key: Key, match: re.Match[str], tensor: torch.Tensor, rows: Mapping[str, int]) -> Names:
    """A tensor of the original layout as its class's own; one of unknown rows has an equal share of them."""
    block = match.groupdict().get("block") or ""
    names = [own.replace(LAST, block).replace("{}", block) + match["rest"] for own in key.own]
    if key.swapped:
        first, second = tensor.chunk(2)
        return {names[0]: torch.cat([second, first])}
    if len(names) == 1:
        return {names[0]: tensor}
    shares = [rows.get(name, 0) for name in names]
    if sum(shares) != tensor.shape[0]:
        shares = [tensor.shape[0] // len(names)] * len(names)
    return dict(zip(names, torch.split(tensor, shares), strict=True)) if sum(shares) == tensor.shape[0] else {}


def _by_keys(keys: Iterable[Key], absent: str, held: Iterable[str]) -> str:
    """How a tensor is written in the original layout, where the file is in that; "" where it is not, or has no key."""
    for key in keys:
        for own in key.own:
            match = pattern_of(own).fullmatch(absent)
            if match is None or not own:
                continue
            block = match.groupdict().get("block") or ""
            name = key.original.replace(LAST, block).replace("{}", block) + match["rest"]
            first = name.partition(".")[0] + "."
            sibling = next((one for one in held if first in one), "")
            return sibling[: sibling.index(first)] + name if sibling else ""
    return ""


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
