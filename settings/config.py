"""What the operator asked for: the environment over the TOML file over the defaults. The only reader of both."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from protocol.enums import DeviceKind
from protocol.replies import Limits
from protocol.supervision import Preload, ProgressBudgets, Quota
from settings import addresses, host
from settings.file import ConfigError, File, QuotaTable, RestartLimits, read

DEFAULT_COMMANDS = "tcp://127.0.0.1:5555"
DEFAULT_EVENTS = "tcp://127.0.0.1:5556"
DEFAULT_WEB = "127.0.0.1:9555"
PREFIX = "VRAMBROKER_"
VARIABLES = (
    *("CONFIG", "RUNTIME", "DATA", "MODELS", "DEVICES", "PRELOAD", "VRAM", "RAM"),
    *("DRAIN", "COMMANDS", "EVENTS", "WEB", "WORKERS", "KEY"),
)
"""What the environment may say, without the prefix."""

_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")
_DEVICES = re.compile(r"^(cuda|cpu|virtual)(?::(.+))?$")
_PRELOAD = re.compile(r"(.+?)(?:@(all|(?:cuda|cpu|virtual):\d+))?")
_MAX_DEVICES = 4096
_RAM_SHARE = 4
"""One of so many parts of the host's memory is the RAM tier's, where nothing is configured."""


class DeviceRequest(Struct, frozen=True, kw_only=True):
    """One device to start a worker for; a cuda device's `index` is NVML's."""

    kind: DeviceKind
    index: int

    @property
    def device_id(self) -> str:
        return f"{self.kind.value}:{self.index}"


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that a `serve` obeys. Sizes in bytes, `devices` None for auto.

    `ram_bytes` is the RAM tier of all cpu and cuda workers together; each virtual one has as much for itself.

    `broker_memory_bytes` and `worker_memory_bytes` bound one process each; 0: derived from the host's memory. `curve`:
    keys are needed on loopback too. `quotas` are those of the keys that have their own, by name.
    """

    runtime: Path
    data: Path
    outputs: Path
    commands: str = DEFAULT_COMMANDS
    events: str = DEFAULT_EVENTS
    web: str = DEFAULT_WEB
    workers: str = ""
    models: tuple[Path, ...] = ()
    devices: tuple[DeviceRequest, ...] | None = None
    vram_bytes: int = 8 << 30
    ram_bytes: int = 2 << 30
    reserve_bytes: int = 512 << 20
    drain_seconds: float = 10.0
    heartbeat_ms: int = 500
    silence_ms: int = 15_000
    results_seconds: float = 600.0
    """How long final replies are kept for `get_result`, and request ids known for what they were."""
    telemetry_ms: int = 1000
    admin: bool = False
    broker_memory_bytes: int = 0
    worker_memory_bytes: int = 0
    worker_threads: int = 0
    """What each worker computes with on the processor; 0: its share of the cores."""
    restarts: RestartLimits = RestartLimits()
    progress: ProgressBudgets = ProgressBudgets()
    limits: Limits = msgspec.field(default_factory=Limits)
    curve: bool = False
    quota: Quota = Quota()
    quotas: dict[str, Quota] = {}
    preload: tuple[Preload, ...] = ()
    """The models to be loaded at the start and after their worker died, in this order."""
    cuda_visible: str | None = None
    """`CUDA_VISIBLE_DEVICES` as the operator set it; None where it is not set."""

    @property
    def keys(self) -> Path:
        """The folder of the CURVE keys."""
        return self.data / "keys"


Table = TypeVar("Table", RestartLimits, ProgressBudgets, Quota)


def load(config: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in force. Raises ConfigError."""
    env = os.environ if environment is None else environment
    file = read(config or named_file(env))

    def text(variable: str, written: str | int | float | None) -> str | None:
        value = env.get(PREFIX + variable)
        return value if value else None if written is None else str(written)

    runtime = _runtime(env, file)
    chosen: dict[str, Any] = {
        "runtime": runtime,
        "data": Path(text("DATA", file.data) or runtime / "data").absolute(),
        "outputs": Path(file.outputs or runtime / "outputs").absolute(),
        "commands": _address("commands", text("COMMANDS", file.commands)),
        "events": _address("events", text("EVENTS", file.events)),
        "web": _address("web", text("WEB", file.web)),
        "workers": _address("workers", text("WORKERS", file.workers)),
        "models": _roots(text("MODELS", ":".join(file.models) if file.models else None)),
        "devices": devices(text("DEVICES", file.devices) or "auto"),
        "vram_bytes": _size("VRAM", text("VRAM", file.vram)),
        "ram_bytes": _size("RAM", text("RAM", file.ram) or str(host.memory_bytes() // _RAM_SHARE)),
        "reserve_bytes": _file_size("reserve", file.reserve),
        "drain_seconds": _seconds("DRAIN", text("DRAIN", file.drain_seconds)),
        "heartbeat_ms": _at_least("heartbeat_ms", file.heartbeat_ms, 1),
        "results_seconds": _seconds_above("results_seconds", file.results_seconds, 1.0),
        "silence_ms": _at_least("silence_ms", file.silence_ms, 1),
        "telemetry_ms": _at_least("telemetry_ms", file.telemetry_ms, 1),
        "admin": file.admin,
        "broker_memory_bytes": _file_size("broker_memory", file.broker_memory),
        "worker_memory_bytes": _file_size("worker_memory", file.worker_memory),
        "worker_threads": _at_least("worker_threads", file.worker_threads, 1) or _openmp_threads(env),
        "restarts": _all_above_zero("restarts", file.restarts),
        "progress": _all_above_zero("progress", file.progress),
        "limits": _limits(file.limits),
        "curve": file.curve,
        "preload": _preload(text("PRELOAD", None), file.preload),
        "cuda_visible": env.get("CUDA_VISIBLE_DEVICES"),
        **_quotas(file.quotas),
    }
    return Settings(**{key: value for key, value in chosen.items() if value is not None})


class Place(Struct, frozen=True, kw_only=True):
    """What clients need of the settings: the runtime folder, whether somebody named it, and addresses that are fixed.

    An address is None where nothing fixes it.
    """

    runtime: Path
    is_named: bool
    commands: str | None = None
    events: str | None = None


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Where the broker of these settings is, by the same rules by which it is started. Raises ConfigError."""
    env = os.environ if environment is None else environment
    file = read(named_file(env))
    return Place(
        runtime=_runtime(env, file),
        is_named=bool(env.get(f"{PREFIX}RUNTIME") or file.runtime),
        commands=_address("commands", env.get(f"{PREFIX}COMMANDS") or file.commands),
        events=_address("events", env.get(f"{PREFIX}EVENTS") or file.events),
    )


def choose_file(path: Path) -> None:
    """Use this TOML file in this process, as if `VRAMBROKER_CONFIG` said so."""
    os.environ[f"{PREFIX}CONFIG"] = str(path)


def named_file(env: Mapping[str, str]) -> Path | None:
    """The file that `VRAMBROKER_CONFIG` names."""
    return Path(env[f"{PREFIX}CONFIG"]) if env.get(f"{PREFIX}CONFIG") else None


def _runtime(env: Mapping[str, str], file: File) -> Path:
    """`VRAMBROKER_RUNTIME`, else the file's, else the user's runtime folder, else one in the temporary folder."""
    named = env.get(f"{PREFIX}RUNTIME") or file.runtime
    if named:
        return Path(named).absolute()
    if env.get("XDG_RUNTIME_DIR"):
        return Path(env["XDG_RUNTIME_DIR"]) / "vrambroker"
    return Path(tempfile.gettempdir()) / f"vrambroker-{os.getuid()}"


def devices(text: str) -> tuple[DeviceRequest, ...] | None:
    """Devices named as `auto` (None), `cuda:0,1`, `cpu:2` (two of them), `virtual:64`; several with `;` between them.

    Raises ConfigError.
    """
    if text.strip().lower() == "auto":
        return None
    found = [one for part in text.split(";") for one in _of_one_kind(part)]
    if len({one.device_id for one in found}) != len(found):
        raise ConfigError(f"devices is '{text}': every device once")
    return tuple(found)


def _of_one_kind(text: str) -> tuple[DeviceRequest, ...]:
    match = _DEVICES.match(text.strip().lower())
    if match is None:
        raise ConfigError(f"devices is '{text}': expected auto, cuda:0,1, cpu:2 or virtual:64")
    kind, rest = DeviceKind(match[1]), match[2]
    try:
        numbers = [int(number) for number in rest.split(",")] if rest else None
    except ValueError:
        raise ConfigError(f"devices is '{text}': '{rest}' is no number") from None
    if kind is DeviceKind.CUDA:
        indices = numbers or [0]
    else:
        count = numbers[0] if numbers else 1
        if len(numbers or [1]) > 1 or not 1 <= count <= _MAX_DEVICES:
            raise ConfigError(f"devices is '{text}': expected a count of 1 to {_MAX_DEVICES}")
        indices = list(range(count))
    if len(set(indices)) != len(indices) or min(indices) < 0:
        raise ConfigError(f"devices is '{text}': every index once, none negative")
    return tuple(DeviceRequest(kind=kind, index=index) for index in indices)


def size(text: str) -> int:
    """Bytes of text such as `512MiB`, `2GB` or `1048576`. Raises ConfigError."""
    match = _SIZE.match(text)
    unit = match and _UNITS.get(match[2].upper())
    if match is None or unit is None:
        raise ConfigError(f"'{text}' is no size: write a number and B, KiB, MiB, GiB, KB, MB or GB")
    amount = float(match[1]) * unit
    if amount >= 2**63:
        raise ConfigError(f"'{text[:80]}' is no size: at most 8388607 TiB")
    return int(amount)


_PORTS = {"commands": 5555, "events": 5556, "workers": 5557, "web": 9555}


def _address(name: str, text: str | None) -> str | None:
    """An address that can be bound. Raises ConfigError."""
    if not text:
        return None
    try:
        check = addresses.checked_web if name == "web" else addresses.checked
        return check(text, default_port=_PORTS[name])
    except ValueError as error:
        raise ConfigError(f"{name} is '{text}': {error}") from None


def _size(name: str, text: str | None) -> int | None:
    try:
        return None if text is None else size(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _file_size(name: str, value: str | int | None) -> int | None:
    return _size(name, None if value is None else str(value))


def _seconds(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{name} is '{text}': expected seconds of at least 0")
    return value


def _at_least(name: str, value: int | None, low: int) -> int | None:
    if value is not None and value < low:
        raise ConfigError(f"{name} is {value}: expected at least {low}")
    return value


def _seconds_above(name: str, value: float | None, low: float) -> float | None:
    if value is not None and not low <= value < float("inf"):
        raise ConfigError(f"{name} is {value:g}: expected at least {low:g}")
    return value


def _openmp_threads(env: Mapping[str, str]) -> int | None:
    """`OMP_NUM_THREADS` where the operator set it to a number: every library would use as many."""
    text = env.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else None


def _all_above_zero(name: str, table: Table | None) -> Table | None:
    for key, value in msgspec.structs.asdict(table).items() if table else ():
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name}.{key} is {value}: expected more than 0")
    return table


def _limits(limits: Limits | None) -> Limits | None:
    for name, value in msgspec.structs.asdict(limits).items() if limits else ():
        _at_least(f"limits.{name}", value, 0 if name == "warmup_runs" else 1)
    return limits


def _quotas(table: QuotaTable | None) -> dict[str, Any]:
    """The settings `quota` and `quotas`; what a key's own table leaves out is as for every key."""
    if table is None:
        return {}
    common = {name: getattr(table, name) for name in Quota.__struct_fields__}
    quotas = {}
    for name, own in table.keys.items():
        try:
            quotas[name] = msgspec.convert(common | own, Quota)
        except msgspec.ValidationError as error:
            raise ConfigError(f"quotas.keys.{name}: {error}") from None
    quota = Quota(**common)
    for where, one in (("quotas", quota), *((f"quotas.keys.{name}", one) for name, one in quotas.items())):
        _all_above_zero(where, one)
    return {"quota": quota, "quotas": quotas}


def _preload(text: str | None, written: list[str | Preload] | None) -> tuple[Preload, ...] | None:
    """Models by id, or with their device as `id@cpu:0`; in the file each may be a table instead. Raises ConfigError."""
    found: list[Preload] = []
    for one in text.split(",") if text is not None else written or ():
        entry = one
        if isinstance(one, str):
            match = _PRELOAD.fullmatch(one.strip())
            entry = Preload(model=match[1], device=match[2] or "") if match else Preload(model="")
        assert isinstance(entry, Preload)
        if not entry.model:
            raise ConfigError(f"preload has the entry '{one}': it names no model")
        if not (entry.keep_alive == -1 or 0 <= entry.keep_alive < float("inf")):
            raise ConfigError(
                f"preload: keep_alive of {entry.model} is {entry.keep_alive:g}: expected seconds of at least 0, or -1"
            )
        found.append(entry)
    return tuple(found) if text is not None or written is not None else None


def _roots(text: str | None) -> tuple[Path, ...] | None:
    return None if text is None else tuple(Path(root).expanduser().absolute() for root in text.split(":") if root)
