"""How structs are spelled: snake_case, camelCase or PascalCase, enums as names or as numbers.

Keys of a dict are data and keep their spelling. A map keyed by an enum has names in JSON and follows the enum form in
MessagePack. In the host's two dialects a load's `MemoryUsage` is the record, not the seed's number.
"""

from __future__ import annotations

import enum
from functools import cache
from typing import Any

from msgspec import UNSET, Struct

from protocol.enums import Encoding, EnumForm, Naming, WireEnum
from protocol.replies import LoadModelReply

HOST_SPELLINGS = {
    "enable_tensor_rt": "EnableTensorRT",
    "enable_onnx": "EnableONNX",
    "is_cached_in_ram": "IsCachedInRAM",
    "is_loaded_in_vram": "IsLoadedInVRAM",
    "supports_lora": "SupportsLoRA",
    "min_vram": "MinVRAM",
    "recommended_vram": "RecommendedVRAM",
    "min_ram": "MinRAM",
    "ram_usage": "RAMUsage",
    "vram_usage": "VRAMUsage",
}
"""Wire names whose host spelling is not each word capitalised."""

HOST_FIELDS: dict[type[Struct], dict[str, str | None]] = {
    LoadModelReply: {"memory_usage": None, "memory": "memory_usage"},
}
"""Fields that the host's dialects leave out (None) or know under another wire name."""


@cache
def pascal(wire_name: str) -> str:
    """The host's property name of a wire name."""
    known = HOST_SPELLINGS.get(wire_name)
    return known or "".join(word[:1].upper() + word[1:] for word in wire_name.split("_"))


@cache
def camel(wire_name: str) -> str:
    """The property name as .NET's camel case policy writes it: leading capitals lowered."""
    name = pascal(wire_name)
    for index, letter in enumerate(name):
        if index == 1 and not letter.isupper():
            break
        if index > 0 and index + 1 < len(name) and not name[index + 1].isupper():
            break
        name = name[:index] + letter.lower() + name[index + 1 :]
    return name


def spell(wire_name: str, naming: Naming) -> str:
    """A wire name in a naming."""
    if naming is Naming.SNAKE:
        return wire_name
    return pascal(wire_name) if naming is Naming.PASCAL else camel(wire_name)


@cache
def _spellings(cls: type[Struct], naming: Naming) -> tuple[tuple[str, str], ...]:
    renamed = {} if naming is Naming.SNAKE else HOST_FIELDS.get(cls, {})
    names = ((name, renamed.get(name, name)) for name in cls.__struct_fields__)
    return tuple((name, spell(wire_name, naming)) for name, wire_name in names if wire_name is not None)


def render(value: Any, encoding: Encoding, naming: Naming, enums: EnumForm) -> Any:
    """A value as the builtins that an encoder writes in this dialect; datetimes are left to the encoder."""
    if isinstance(value, Struct):
        out: dict[str, Any] = {}
        config = value.__struct_config__
        if config.tag_field is not None:
            out[spell(config.tag_field, naming)] = config.tag
        for name, spelled in _spellings(type(value), naming):
            item = getattr(value, name)
            if item is not UNSET:
                out[spelled] = render(item, encoding, naming, enums)
        return out
    if isinstance(value, WireEnum):
        return value.value if enums is EnumForm.NAME else value.ordinal
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        key_form = EnumForm.NAME if encoding is Encoding.JSON else enums
        return {
            render(key, encoding, naming, key_form): render(item, encoding, naming, enums)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [render(item, encoding, naming, enums) for item in value]
    return value
