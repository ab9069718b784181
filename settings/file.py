"""The TOML file: which keys it may have, and what it says. What the environment says stands above it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from protocol.replies import Limits
from protocol.supervision import Preload, ProgressBudgets, Quota
from settings.nearest import unknown_keys


class ConfigError(Exception):
    """A setting that cannot be obeyed; the text names it and its value."""


class RestartLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a child's crash-loop breaker opens: after `failures` deaths without served work within the window."""

    failures: int = 8
    window_seconds: float = 600.0
    longest_wait_seconds: float = 30.0


class QuotaTable(Quota, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every key may ask for; `keys` says, by name, what some may instead."""

    keys: dict[str, dict[str, Any]] = {}


class File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The TOML file; every key optional, sizes as numbers or text such as `512MiB`."""

    runtime: str | None = None
    data: str | None = None
    outputs: str | None = None
    commands: str | None = None
    events: str | None = None
    web: str | None = None
    workers: str | None = None
    models: list[str] | None = None
    devices: str | None = None
    vram: str | int | None = None
    ram: str | int | None = None
    reserve: str | int | None = None
    drain_seconds: float | None = None
    heartbeat_ms: int | None = None
    silence_ms: int | None = None
    results_seconds: float | None = None
    telemetry_ms: int | None = None
    admin: bool | None = None
    broker_memory: str | int | None = None
    worker_memory: str | int | None = None
    worker_threads: int | None = None
    restarts: RestartLimits | None = None
    progress: ProgressBudgets | None = None
    limits: Limits | None = None
    curve: bool | None = None
    quotas: QuotaTable | None = None
    preload: list[str | Preload] | None = None


def read(path: Path | None) -> File:
    """What a file says; of none nothing. Raises ConfigError."""
    if path is None:
        return File()
    written = tables(path)
    if unknown := list(unknown_keys(written, File)):
        raise ConfigError(f"configuration {path}: {'; '.join(unknown)}")
    try:
        return msgspec.convert(written, File)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration {path}: {error}") from None


def tables(path: Path) -> dict[str, Any]:
    """A TOML file's keys as they stand there. Raises ConfigError."""
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"configuration {path}: {error}") from None
