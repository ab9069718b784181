"""Which value is in force, and who said so: the environment, the file, or nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from settings.config import PREFIX, DeviceRequest, Settings, load, named_file
from settings.file import tables

DEFAULT = "default"

_VARIABLES = {
    "runtime": "RUNTIME",
    "data": "DATA",
    "commands": "COMMANDS",
    "events": "EVENTS",
    "web": "WEB",
    "workers": "WORKERS",
    "models": "MODELS",
    "devices": "DEVICES",
    "vram": "VRAM",
    "ram": "RAM",
    "drain_seconds": "DRAIN",
    "preload": "PRELOAD",
}
"""The keys of the file that the environment can say too."""

_ATTRIBUTES = {
    "vram": "vram_bytes",
    "ram": "ram_bytes",
    "reserve": "reserve_bytes",
    "broker_memory": "broker_memory_bytes",
    "worker_memory": "worker_memory_bytes",
}
"""The keys of the file whose settings are called otherwise."""

_DERIVED = {
    "ram": "derived: a quarter of the memory that there is",
    "broker_memory": "derived: 4 GiB, or half of the memory that there is",
    "worker_memory": "derived: 90 % of the memory that there is, of all processes together",
    "worker_threads": "derived: the cores that there are, shared out",
    "data": "derived: beneath the runtime folder",
    "outputs": "derived: beneath the runtime folder",
    "workers": "derived: a Unix socket in the runtime folder",
    "devices": "derived: every CUDA device, or two cpu devices where there is none",
}
"""Of settings that nobody named: where they come from, where that is no constant."""

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_KEYS = (
    *("runtime", "data", "outputs", "models", "devices", "commands", "events", "web", "workers", "curve", "admin"),
    *("vram", "ram", "reserve", "broker_memory", "worker_memory", "worker_threads", "preload"),
    *("drain_seconds", "results_seconds", "heartbeat_ms", "silence_ms", "telemetry_ms"),
)
_TABLES = {"limits": "limits", "restarts": "restarts", "progress": "progress", "quotas": "quota"}


class Setting(Struct, frozen=True, kw_only=True):
    """One setting: its key in the file, its value as the file would have it, who said so."""

    key: str
    value: str
    origin: str


def explained(config: Path | None = None, environment: Mapping[str, str] | None = None) -> list[Setting]:
    """Every setting in force. Raises ConfigError."""
    env = os.environ if environment is None else environment
    settings = load(config, env)
    path = config or named_file(env)
    written = {} if path is None else tables(path)
    return [*_plain(settings, env, written, path), *_nested(settings, written, path)]


def _plain(
    settings: Settings, env: Mapping[str, str], written: Mapping[str, Any], path: Path | None
) -> Iterator[Setting]:
    for key in _KEYS:
        variable = _VARIABLES.get(key)
        value = getattr(settings, _ATTRIBUTES.get(key, key))
        if variable is not None and env.get(PREFIX + variable):
            origin = f"environment {PREFIX}{variable}"
        elif key in written:
            origin = f"file {path}"
        elif key == "worker_threads" and value:
            origin = "environment OMP_NUM_THREADS"
        elif key == "runtime":
            origin = "environment XDG_RUNTIME_DIR" if env.get("XDG_RUNTIME_DIR") else "derived: the temporary folder"
        else:
            origin = _DERIVED.get(key, DEFAULT)
        yield Setting(key=key, value=_shown(key, value), origin=origin)


def _nested(settings: Settings, written: Mapping[str, Any], path: Path | None) -> Iterator[Setting]:
    for table, attribute in _TABLES.items():
        said = written.get(table, {})
        for name, value in msgspec.structs.asdict(getattr(settings, attribute)).items():
            origin = f"file {path}" if name in said else DEFAULT
            yield Setting(key=f"{table}.{name}", value=_toml(value), origin=origin)
    for name, quota in settings.quotas.items():
        for field, value in msgspec.structs.asdict(quota).items():
            yield Setting(key=f"quotas.keys.{name}.{field}", value=_toml(value), origin=f"file {path}")


def _shown(key: str, value: Any) -> str:
    if key == "devices":
        return _toml(_devices(value))
    if key in _ATTRIBUTES:
        return _size(value)
    if key == "preload":
        return _toml([f"{one.model}@{one.device}" if one.device else one.model for one in value])
    return _toml([str(one) for one in value] if isinstance(value, tuple) else value)


def _devices(requests: tuple[DeviceRequest, ...] | None) -> str:
    if requests is None:
        return "auto"
    indices: dict[str, list[int]] = {}
    for one in requests:
        indices.setdefault(one.kind.value, []).append(one.index)
    return ";".join(
        f"{kind}:{','.join(map(str, own))}" if kind == "cuda" else f"{kind}:{len(own)}" for kind, own in indices.items()
    )


def _size(count: int) -> str:
    """Bytes in the largest unit that they fill without a rest."""
    unit = next(((size, name) for size, name in _UNITS if count and count % size == 0), None)
    return str(count) if unit is None else f'"{count // unit[0]}{unit[1]}"'


def _toml(value: Any) -> str:
    """A value as TOML has it; text and lists are written there as JSON has them."""
    if isinstance(value, Path):
        value = str(value)
    return msgspec.json.encode(value).decode()
