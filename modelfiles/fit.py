"""Whether the parts of a folder belong together: classes of its family, widths that meet, a scheduler of its kind.

Decides by configurations alone, before any weight is read: what would load and could never draw is told here.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfiles.families import Family, SchedulerKind, flat
from modelfiles.jsonfile import JsonObject, corrupted, incompatible

FLOW_SIGMAS = "use_flow_sigmas"
"""Of a scheduler for noise that can be told to follow a flow."""

TEXT = "text_config"
"""Where a model of several senses keeps what its text has."""


def check_fit(family: Family, classes: Mapping[str, tuple[str, str]], configs: Mapping[str, JsonObject]) -> None:
    """Raise Fault MODEL_INCOMPATIBLE naming part, key, found and expected, MODEL_CORRUPTED for half of a pair.

    Classes and configurations are by the parts' names.
    """
    for name, (_, class_name) in classes.items():
        expected = family.slots.get(name, ())
        if expected and class_name not in expected:
            text = f"{name} is {class_name}: {family.name} needs {' or '.join(expected)}"
            raise incompatible(text, part=name, key=name, found=class_name, expected=list(expected))
        other = _other_half(name)
        if other and other not in classes:
            raise corrupted(f"its index names {name}, and no {other}", part=other, missing=other)
    _check_scheduler(family, classes, configs.get("scheduler", {}))
    denoiser = family.denoiser.part
    for key, sources in family.widths.items():
        found = _flat(configs.get(denoiser, {}).get(key))
        given = [_width(configs[part], name) for part, name in sources if part in configs]
        if found is None or len(given) < len(sources) or None in given:
            continue
        expected_width = sum(width for width in given if width is not None)
        if found != expected_width:
            parts = " and ".join(part for part, _ in sources)
            text = f"{denoiser}: {key} is {found}, and what {parts} gives is {expected_width} wide"
            raise incompatible(text, part=denoiser, key=key, found=found, expected=expected_width)


def _other_half(name: str) -> str:
    """The tokenizer of a text encoder, and the other way round; "" for any other part."""
    if name.startswith("text_encoder"):
        return name.replace("text_encoder", "tokenizer")
    return name.replace("tokenizer", "text_encoder") if name.startswith("tokenizer") else ""


def _check_scheduler(family: Family, classes: Mapping[str, tuple[str, str]], config: JsonObject) -> None:
    name = classes.get("scheduler", ("", ""))[1]
    flows = name.startswith("FlowMatch") or bool(config.get(FLOW_SIGMAS))
    if name and flows is not (family.scheduler is SchedulerKind.FLOW):
        kind = "one for flows" if flows else "one for noise"
        text = f"scheduler is {name}, {kind}: {family.name} needs one for {family.scheduler.value}"
        raise incompatible(text, part="scheduler", key="scheduler", found=name, expected=family.scheduler.value)


def _width(config: JsonObject, key: str) -> int | None:
    inner = config.get(TEXT)
    value = inner.get(key) if isinstance(inner, dict) and key in inner else config.get(key)
    return _flat(value)


def _flat(value: object) -> int | None:
    """A whole number, or the one that stands for every block; None for anything else."""
    one = flat(value)
    return one if type(one) is int else None
