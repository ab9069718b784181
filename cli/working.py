"""Commands that do something on a device: load, unload, pin, generate, cancel, scan."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from cli.screens import catalogue, residency
from cli.session import FAILED, USAGE, Session, fail, session
from cli.terminal import readable
from cli.units import duration, size
from client.answers import Answer, as_kind
from client.images import Picture, pictured, pictures
from protocol.commands import Cancel, Command, Generate, LoadModel, PinModel, ScanModels, UnloadModel, UnpinModel
from protocol.enums import CancelOutcome
from protocol.ids import short_id
from protocol.replies import (
    AcceptedReply,
    CancelReply,
    GenerateReply,
    LoadModelReply,
    PinModelReply,
    ProgressReply,
    Reply,
    ScanModelsReply,
    UnloadModelReply,
)
from settings.printable import printable


def load(endpoint: str | None, as_json: bool, command: LoadModel) -> None:
    """Load a model and show what was applied."""
    with session(endpoint, as_json) as this:
        answer = run(this, command, f"load {command.model_id}")
        if isinstance(answer.reply, AcceptedReply):
            this.answer(answer, residency.accepted_view(answer.reply))
        else:
            this.answer(answer, residency.load_view(as_kind(answer, LoadModelReply).reply))


def unload(endpoint: str | None, as_json: bool, command: UnloadModel) -> None:
    """Unload a model and show what was freed."""
    with session(endpoint, as_json) as this:
        answer = as_kind(run(this, command, f"unload {command.model_id}"), UnloadModelReply)
        this.answer(answer, residency.unload_view(answer.reply))


def pin(endpoint: str | None, as_json: bool, command: PinModel | UnpinModel) -> None:
    """Set or lift a pin."""
    with session(endpoint, as_json) as this:
        answer = as_kind(this.call(command), PinModelReply)
        this.answer(answer, residency.pin_view(answer.reply))


def cancel(endpoint: str | None, as_json: bool, command: Cancel) -> None:
    """Stop a command."""
    with session(endpoint, as_json) as this:
        answer = as_kind(this.call(command), CancelReply)
        outcome = answer.reply.outcome
        this.answer(answer, residency.headline(outcome.value.replace("_", " "), answer.reply.target_request_id))
    if outcome is CancelOutcome.UNKNOWN:
        raise SystemExit(FAILED)


def scan(endpoint: str | None, as_json: bool, command: ScanModels) -> None:
    """Look for models and show what changed."""
    with session(endpoint, as_json) as this:
        answer = as_kind(run(this, command, "scan"), ScanModelsReply)
        this.answer(answer, catalogue.scan_view(answer.reply))


def generate(
    endpoint: str | None, as_json: bool, command: Generate, *, image: Path | None, mask: Path | None, output: Path
) -> None:
    """Draw images into files; a file that is there is never replaced."""
    if mask is not None and image is None:
        fail("--mask needs --image: the picture that it lies on", USAGE)
    names, attachments = pictured(*(None if file is None else read_image(file) for file in (image, mask)))
    command = msgspec.structs.replace(command, attachments=names)
    with session(endpoint, as_json) as this:
        answer = as_kind(run(this, command, f"generate {command.model_id}", attachments), GenerateReply)
        files = write_pictures(output, answer.reply, pictures(answer))
        this.answer(answer, residency.generate_view(answer.reply, files))
        if as_json:
            for file in files:
                this.err.print(printable(str(file)), soft_wrap=True)


def run(this: Session, command: Command, title: str, attachments: tuple[bytes, ...] = ()) -> Answer[Reply]:
    """Execute a command that takes time, with its progress shown on a terminal; an interrupt cancels it.

    Its request id is told at once: `cancel`, `explain` and `result` take it, from another terminal too.
    """
    show = this.err.is_terminal and command.wait_for_completion
    command = msgspec.structs.replace(command, request_id=short_id(), stream_progress=show)
    this.err.print(Text.assemble(f"{title}: request ", (command.request_id or "", "bold")), style="dim")
    this.running = command.request_id if command.wait_for_completion else None
    try:
        if not show:
            return this.call(command, attachments)
        with advancing(this, title) as advance:
            return this.call(command, attachments, on_progress=advance.tell)
    finally:
        # An interrupt is handled by the session, which must still know what runs.
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            this.running = None


class Advance:
    """A progress bar that progress replies move: steps of a generation, bytes of a load."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def tell(self, reply: ProgressReply) -> None:
        """Move the bar to where the reply says that the command is."""
        reply = readable(reply)
        left = f", {duration(reply.eta_ms)} left" if reply.eta_ms else ""
        if reply.steps:
            self._set(reply.step or 0, reply.steps, f"step {reply.step}/{reply.steps}{left}")
        elif isinstance(reply.bytes_total, int) and isinstance(reply.bytes_done, int):
            stage = f"{reply.stage} " if isinstance(reply.stage, str) else ""
            done = f"{stage}{size(reply.bytes_done)} of {size(reply.bytes_total)}"
            self._set(reply.bytes_done, reply.bytes_total, done + left)

    def _set(self, done: int, total: int, text: str) -> None:
        self._progress.update(self._task, completed=done, total=total, at=text)


@contextmanager
def advancing(this: Session, title: str) -> Iterator[Advance]:
    """A progress bar on standard error, gone when the command ends."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[at]}", markup=False),
    )
    with Progress(*columns, TimeElapsedColumn(), console=this.err, transient=True) as progress:
        yield Advance(progress, progress.add_task(printable(title), total=None, at=""))


def read_image(path: Path) -> bytes:
    """The file to start from; one that cannot be read is a usage error."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}", USAGE)


def write_pictures(folder: Path, reply: GenerateReply, drawn: list[Picture]) -> list[Path]:
    """Write each picture as MODEL-SEED[-NUMBER] and answer the paths; names in the reply are not trusted."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, picture in enumerate(drawn):
        stem = f"{Path(reply.model_id).name or 'image'}-{reply.seed}" + (f"-{index}" if len(drawn) > 1 else "")
        files.append(write_new(folder, stem, picture))
    return files


def write_new(folder: Path, stem: str, picture: Picture) -> Path:
    """Write under the first name that is free, or that holds these bytes already."""
    number = 1
    while True:
        path = folder / f"{stem}{f'.{number}' if number > 1 else ''}{picture.suffix}"
        if not path.exists():
            path.write_bytes(picture.data)
            return path
        if path.read_bytes() == picture.data:
            return path
        number += 1
