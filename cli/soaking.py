"""`vrambroker soak` from its words to its verdict: a broker of its own, a live screen, files, the exit status."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.live import Live

from cli.screens.soak import standing_view, verdict_view
from cli.session import FAILED, USAGE, fail, print_json
from cli.terminal import Terminal, readable
from client.sync import Client
from modelfiles.profiles import SUFFIX
from protocol.drawing import Mode
from protocol.enums import ModelStatus
from protocol.records import ModelInfo
from settings.config import load
from settings.file import ConfigError
from soak.running import Served, Soak, SoakError, Standing
from soak.verdict import Verdict, junit

LEAST_MINUTES, MOST_MINUTES = 0.2, 7 * 24 * 60.0
READY_SECONDS = 120.0


def soak(
    config: Path | None, *, minutes: float, seed: int, every_seconds: float, output: Path | None, as_json: bool
) -> None:
    """Soak a broker of its own; ends the process with 1 where a promise was broken."""
    if not LEAST_MINUTES <= minutes <= MOST_MINUTES:
        fail(f"--minutes is {minutes:g}: expected {LEAST_MINUTES:g} to {MOST_MINUTES:g}", USAGE)
    _check(config)
    folder = Path(tempfile.mkdtemp(prefix="vrambroker-soak-"))
    out, err = Terminal(), Terminal(stderr=True)
    try:
        _made(output)
        served = Served(folder, config)
        try:
            models = _models(served.endpoints["commands"])
            with _live(err) as tell:
                pid, address = served.process.pid, served.endpoints["commands"]
                verdict = Soak(pid, address, models, seconds=minutes * 60, seed=seed).run(every_seconds, tell)
        finally:
            served.close()
        _finish(verdict, output, served.log, out, as_json=as_json)
    except (SoakError, OSError) as error:
        fail(str(error), FAILED)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(config: Path | None) -> None:
    """A configuration that cannot be obeyed, or has no models, is a usage error."""
    try:
        settings = load(config)
    except ConfigError as error:
        fail(str(error), USAGE)
    if not settings.models:
        fail("there is no model root: a soak needs models to work with", USAGE)


def _made(folder: Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)


def _models(address: str) -> list[tuple[str, bool]]:
    """The models to work with, once every device is ready, and whether each is a virtual profile. Raises SoakError."""
    from cli.watching import wait_until_ready  # noqa: PLC0415 - imports screens that only this needs here

    if not wait_until_ready(address, READY_SECONDS):
        raise SoakError(f"not every device was ready within {READY_SECONDS:g} s")
    with Client(address) as client:
        kinds = {device.kind.value for device in client.devices().devices}
        found = client.models(status=ModelStatus.Available, page_size=1000, include_details=True).models
    models = [(model.id, model.file_path.lower().endswith(SUFFIX)) for model in found if draws(model)]
    fitting = [(name, is_profile) for name, is_profile in models if _takes(kinds, is_profile=is_profile)]
    if not fitting:
        raise SoakError(f"there is no model that {', '.join(sorted(kinds))} devices can draw with from a text alone")
    return fitting


def _takes(kinds: set[str], *, is_profile: bool) -> bool:
    """Whether devices of these kinds take a profile, or a real model."""
    return "virtual" in kinds if is_profile else bool(kinds - {"virtual"})


def draws(model: ModelInfo) -> bool:
    """Whether a picture can be had of it from a text alone."""
    return Mode.TEXT.value in model.capabilities.supported_inference_types


def _finish(verdict: Verdict, folder: Path | None, log: Path, out: Terminal, *, as_json: bool) -> None:
    written = msgspec.json.encode(verdict)
    if folder is not None:
        (folder / "verdict.json").write_bytes(msgspec.json.format(written) + b"\n")
        (folder / "junit.xml").write_text(junit(verdict), encoding="utf-8")
        shutil.copyfile(log, folder / "serve.log")
    if as_json:
        print_json(written)
    else:
        out.print(verdict_view(readable(verdict), folder))
    if not verdict.passed:
        raise SystemExit(FAILED)


@contextmanager
def _live(terminal: Terminal) -> Iterator[Any]:
    if not terminal.is_terminal:
        yield None
        return
    with Live(console=terminal, auto_refresh=False, transient=True) as live:

        def tell(standing: Standing) -> None:
            live.update(standing_view(standing), refresh=True)

        yield tell
