"""`make demo`: the whole system on this machine's devices, with models made on the spot, from start to clean stop.

Decides what is shown and in which order, and fails where something is not as promised. It talks to the broker as any
client does and knows nothing of its insides.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cli.screens import devices as device_screens
from cli.screens import residency
from cli.session import failure_panel
from cli.terminal import Terminal
from cli.units import duration, size
from client import Answer, Client, CommandFailed, NoAnswer, pictures
from demo.digits.reading import MODEL as DIGITS_FOLDER
from demo.digits.reading import NAMES, prompt_of
from demo.digits.sheet import draw_sheet
from demo.inventory import FOLDERS, FROM_PICTURES, WITHIN_MASKS, DemoModel
from demo.models import make_models
from protocol.drawing import Mode
from protocol.enums import DeviceState
from protocol.errors import Fault
from protocol.replies import DeviceInfo, GenerateReply, ProgressReply
from settings.endpoints import read
from worker.devices.base import Raster
from worker.pictures import plain_png

LOADED = (DemoModel.SD15, DemoModel.SDXL)
"""What is loaded by name, before anything is drawn; all others are loaded by drawing with them."""

READY_SECONDS = 120.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.1
SEED = 7
STEPS = 8
SIDE = 64
LOG_LINES = 20
DIGITS = "digits"
DIGITS_RIGHT = 8
"""Of ten: fewer are no digits any more."""

ENDINGS = {Mode.TEXT: "", Mode.IMAGE: "-from-image", Mode.INPAINT: "-within-mask"}
"""Of a picture's file, by how it was drawn."""

_ROW = bytes([255] * 3 * (SIDE // 2) + [0] * 3 * (SIDE // 2))
LEFT_HALF = plain_png(Raster(width=SIDE, height=SIDE, rgb=_ROW * SIDE))
"""A mask that is white over the left half."""

console = Terminal()


class Broken(Exception):
    """Something is not as the project promises."""


class Served:
    """A broker of this demonstration alone: its own runtime folder, free ports, its log in a file."""

    def __init__(self, runtime: Path, models: Path) -> None:
        self.runtime = runtime
        self.log = runtime / "serve.log"
        environment = {
            **{name: value for name, value in os.environ.items() if name != "VRAMBROKER_CONFIG"},
            "VRAMBROKER_RUNTIME": str(runtime),
            "VRAMBROKER_COMMANDS": "tcp://127.0.0.1:0",
            "VRAMBROKER_EVENTS": "tcp://127.0.0.1:0",
            "VRAMBROKER_WEB": "127.0.0.1:0",
            "VRAMBROKER_MODELS": str(models),
            "VRAMBROKER_DEVICES": os.environ.get("VRAMBROKER_DEVICES", "auto"),
        }
        with self.log.open("wb") as log:
            words = [sys.executable, "-P", "-m", "cli", "serve"]
            self.process = psutil.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def connect(self) -> Client:
        """A client, once the broker takes commands. Raises Broken."""
        until = time.monotonic() + READY_SECONDS
        while (endpoints := read(self.runtime)) is None:
            if self.process.poll() is not None:
                raise Broken(f"the broker ended with {self.process.returncode} before it took commands")
            if time.monotonic() > until:
                raise Broken(f"the broker took no commands within {READY_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        return Client(endpoints.commands)

    def stop(self) -> tuple[int, float]:
        """Ask the broker to stop; its exit status and the seconds that it took. Raises Broken for what is left."""
        family = self.process.children(recursive=True)
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            raise Broken(f"the broker did not stop within {STOP_SECONDS:g} s") from None
        took = time.monotonic() - began
        _, left = psutil.wait_procs(family, timeout=1.0)
        if left:
            raise Broken(f"processes are left: {', '.join(str(child.pid) for child in left)}")
        return int(status), took

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.process.is_running() and self.process.poll() is None:
            family = self.process.children(recursive=True)
            self.process.kill()
            self.process.wait()
            for child in family:
                if child.is_running():
                    child.kill()

    def tell(self) -> None:
        """The last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        console.print(Rule("the broker's log", style="red"), Text("\n".join(lines), style="dim"))


def demonstrate(models: Path, output: Path) -> None:
    """Every part of the demonstration. Raises Broken, CommandFailed, NoAnswer."""
    _make(models)
    with tempfile.TemporaryDirectory(prefix="vrambroker-demo-") as folder:
        served = Served(Path(folder), models)
        try:
            with served.connect() as client:
                devices = _ready(client)
                ids = _found(client)
                _load(client, ids, devices)
                _show(client)
                _generate(client, ids, output)
                _digits(client, output)
                _unload(client)
            _stop(served)
        except (Broken, Fault, NoAnswer):
            served.tell()
            raise
        finally:
            served.end()


def _make(root: Path) -> None:
    console.print(Rule("models, made on this machine"))
    with _progress() as progress:
        task = progress.add_task("making tiny models", total=len(FOLDERS))
        make_models(root, only=FOLDERS, on_progress=lambda name: progress.update(task, advance=1))
    shutil.copytree(DIGITS_FOLDER, root / DIGITS, dirs_exist_ok=True)


def _ready(client: Client) -> list[DeviceInfo]:
    console.print(Rule("the broker and its workers"))
    until = time.monotonic() + READY_SECONDS
    with console.status("waiting for every worker"):
        while not all(map(device_screens.is_ready, devices := client.devices().devices)) or not devices:
            disabled = [device.device_id for device in devices if device.state is DeviceState.DISABLED]
            if disabled or time.monotonic() > until:
                raise Broken(f"not every worker became ready; given up: {', '.join(disabled) or 'none'}")
            time.sleep(POLL_SECONDS)
    console.print(device_screens.devices_view(client.devices()))
    return devices


def _found(client: Client) -> dict[DemoModel, str]:
    """The ids that the catalogue gave to the models, by their folders."""
    client.scan()
    by_name = {Path(model.file_path).name: model.id for model in client.models(page_size=100).models}
    missing = [model for model in FOLDERS if model not in by_name]
    if missing:
        raise Broken(f"the catalogue has no {', '.join(missing)}")
    return {model: by_name[model] for model in FOLDERS}


def _load(client: Client, ids: dict[DemoModel, str], devices: list[DeviceInfo]) -> None:
    console.print(Rule("loading"))
    for index, model in enumerate(LOADED):
        device = devices[index % len(devices)]
        console.print(residency.load_view(client.load(ids[model], device_id=device.device_id)), Text())


def _show(client: Client) -> None:
    console.print(Rule("vrambroker ps"))
    console.print(device_screens.ps_view(client.devices()))


def _generate(client: Client, ids: dict[DemoModel, str], output: Path) -> None:
    console.print(Rule("pictures"))
    output.mkdir(parents=True, exist_ok=True)
    timings = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("PICTURE", "MODEL", "DEVICE", "SEED", "LOADED IN", "DENOISE", "TOTAL"):
        timings.add_column(column, justify="left" if column in ("PICTURE", "MODEL", "DEVICE") else "right")
    first: bytes | None = None
    for model, given in _pictures():
        answer = _draw(client, ids[model], given, first)
        picture = pictures(answer)[0]
        first = first or picture.data
        file = output / f"{model}{ENDINGS[given]}{picture.suffix}"
        file.write_bytes(picture.data)
        timings.add_row(Text(file.name), *_figures(answer.reply))
    console.print(timings, Text(f"in {output}"))


def _digits(client: Client, output: Path) -> None:
    """The one model here that knows what it draws: ten digits, and what a reader takes them for."""
    console.print(Rule("a model that means something"))
    file = output / "digits.png"
    with console.status("drawing ten digits"):
        drawn = draw_sheet(client, DIGITS, file)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("ASKED FOR", "READ AS", "SURE"):
        table.add_column(column)
    for one in drawn:
        colour = "green" if one.digit == one.read else "yellow"
        table.add_row(Text(prompt_of(one.digit)), Text(NAMES[one.read], style=colour), Text(f"{one.share:.0%}"))
    console.print(table, Text(f"in {file}"))
    right = sum(one.digit == one.read for one in drawn)
    if right < DIGITS_RIGHT:
        raise Broken(f"{right} of {len(drawn)} digits are what was asked for")


def _pictures() -> Iterator[tuple[DemoModel, Mode]]:
    """A picture by each model, from text where it draws that, and one by the first in every other way."""
    for model in FOLDERS:
        if model in WITHIN_MASKS:
            yield model, Mode.INPAINT
        else:
            yield model, Mode.IMAGE if model in FROM_PICTURES else Mode.TEXT
    yield FOLDERS[0], Mode.IMAGE
    yield FOLDERS[0], Mode.INPAINT


def _figures(reply: GenerateReply) -> tuple[str, ...]:
    timing = reply.timing
    load = sum(ms for ms in (timing.read_ms, timing.build_ms, timing.promote_ms) if isinstance(ms, float))
    denoise = duration(timing.denoise_ms) if isinstance(timing.denoise_ms, float) else "-"
    loaded = duration(load) if load else "-"
    return reply.model_id, reply.device_id, str(reply.seed), loaded, denoise, duration(timing.total_ms)


def _draw(client: Client, model_id: str, given: Mode, first: bytes | None) -> Answer[GenerateReply]:
    """One picture; from `first`, within a mask over its left half, where that is how."""
    from_text = given is Mode.TEXT
    with _progress() as progress:
        task = progress.add_task(f"{model_id}, {given.value}", total=STEPS)

        def step(reply: ProgressReply) -> None:
            progress.update(task, completed=reply.step or 0, total=reply.steps or STEPS)

        answer = client.generate(
            model_id,
            "a lighthouse at dusk, oil on canvas",
            image=None if from_text else first,
            mask=LEFT_HALF if given is Mode.INPAINT else None,
            strength=0.6 if given is Mode.IMAGE else None,
            width=SIDE if from_text else None,
            height=SIDE if from_text else None,
            steps=STEPS,
            seed=SEED,
            on_progress=step,
        )
        progress.update(task, completed=progress.tasks[0].total)
        return answer


def _unload(client: Client) -> None:
    console.print(Rule("unloading"))
    for entry in client.status().models:
        reply = client.unload(entry.model_id, device_id=entry.device_id or "", clear_cache=True)
        console.print(residency.unload_view(reply), Text())
        if not reply.memory_freed and not reply.ram_freed:
            raise Broken(f"unloading {entry.model_id} freed nothing")
    status = client.status()
    console.print(f"{size(status.used_vram)} of {size(status.total_vram)} in use afterwards")
    if status.models:
        raise Broken(f"still held: {', '.join(entry.model_id for entry in status.models)}")


def _stop(served: Served) -> None:
    console.print(Rule("stopping"))
    status, seconds = served.stop()
    if status != 0:
        raise Broken(f"the broker exited with {status}")
    console.print(f"the broker exited with 0 after {duration(seconds * 1000)}; no process is left")


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield progress


def main(
    models: Annotated[Path, typer.Option(help="Where the demonstration models are kept.")] = Path("demo-models"),
    output: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("demo-output"),
) -> None:
    """Make models, serve, load, draw, unload, stop; exit 1 where something is not as promised."""
    try:
        demonstrate(models.absolute(), output)
    except CommandFailed as failure:
        console.print(failure_panel(failure.info))
        raise typer.Exit(1) from None
    except (Broken, NoAnswer) as problem:
        console.print(Text(f"failed: {problem}", style="bold red"))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    console.print(Text("all as promised", style="bold green"))


if __name__ == "__main__":
    typer.run(main)
