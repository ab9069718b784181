"""One use of the client by one command: connecting, what goes to which stream, and how failures end the process.

Exit status: 0 well, 1 the broker answered an error, 2 usage, 3 no broker answered, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import msgspec
import zmq
from msgspec import structs
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from cli.streams import write_json
from cli.terminal import Terminal, readable
from client.answers import Answer, CommandFailed, NoAnswer, UnexpectedReply
from client.sync import Client
from protocol.commands import Cancel, Command, Ping
from protocol.errors import ErrorInfo
from protocol.recovery import command_line
from protocol.replies import ProgressReply, Reply
from settings import addresses
from settings.config import DEFAULT_COMMANDS
from settings.file import ConfigError
from settings.keys import holders
from settings.printable import printable

FAILED = 1
USAGE = 2
NO_BROKER = 3
INTERRUPTED = 128 + signal.SIGINT
FIRST_ANSWER_SECONDS = 5.0
CANCEL_SECONDS = 2.0


class Session:
    """A connected client with the two consoles; `as_json` sends replies to standard output as they are."""

    def __init__(self, client: Client, as_json: bool) -> None:
        self.client = client
        self.as_json = as_json
        self.out = Terminal()
        self.err = Terminal(stderr=True)
        self.running: str | None = None

    def call(
        self,
        command: Command,
        attachments: Sequence[bytes] = (),
        *,
        on_progress: Callable[[ProgressReply], None] | None = None,
    ) -> Answer[Reply]:
        """Execute a command. The reply's text is as it may be shown; its payload and attachments are as received."""
        answer = self.client.call(command, attachments, on_progress=on_progress)
        return structs.replace(answer, reply=readable(answer.reply))

    def answer(self, answer: Answer[Reply], view: RenderableType) -> None:
        """Show a reply: the view for people, or the reply's JSON."""
        if self.as_json:
            print_json(answer.payload)
        else:
            self.out.print(view, crop=False)  # a path that may go beyond the edge is not cut
            self.warn(answer.reply)

    def warn(self, reply: Reply) -> None:
        """The reply's warnings, on standard error."""
        for warning in reply.warnings:
            self.err.print(Text("warning: ", style="yellow") + Text(warning))


def print_json(payload: bytes) -> None:
    """One JSON document on standard output, indented."""
    write_json(msgspec.json.format(payload, indent=2))


@contextmanager
def session(endpoint: str | None, as_json: bool) -> Iterator[Session]:
    """A session with a broker that answers; whatever goes wrong in it ends the process with its exit status."""
    with orderly(as_json), connect(endpoint) as client:
        client.call(Ping(), timeout=FIRST_ANSWER_SECONDS)
        this = Session(client, as_json)
        try:
            yield this
        except KeyboardInterrupt:
            _cancel(this)
            raise


def connect(endpoint: str | None) -> Client:
    """A client; a malformed endpoint is a usage error."""
    try:
        return Client(endpoint and checked_endpoint(endpoint, DEFAULT_COMMANDS))
    except zmq.ZMQError as error:
        fail(f"'{endpoint}' is no endpoint to connect to: {error}", USAGE)
    except ConfigError as error:
        fail(str(error), USAGE)


def checked_endpoint(endpoint: str, default: str) -> str:
    """An endpoint as it was typed, where it is one; else a usage error that says what was probably meant."""
    try:
        return addresses.checked(endpoint, default_port=int(default.rpartition(":")[2]))
    except ValueError as error:
        fail(f"'{endpoint}' is no endpoint to connect to: {error}", USAGE)


def _cancel(session: Session) -> None:
    """What runs for this command is stopped when the person who asked for it goes."""
    if session.running is None:
        return
    with suppress(CommandFailed, NoAnswer, KeyboardInterrupt):
        session.client.call(Cancel(target_request_id=session.running), timeout=CANCEL_SECONDS)
        session.err.print(f"cancelled {session.running}")


@contextmanager
def orderly(as_json: bool = False) -> Iterator[None]:
    """Failures as exit statuses with a text on standard error, never as a traceback."""
    try:
        yield
    except CommandFailed as failure:
        if as_json:
            print_json(failure.answer.payload)
        Terminal(stderr=True).print(failure_panel(readable(failure.info)))
        raise SystemExit(FAILED) from None
    except NoAnswer as silence:
        fail(f"{silence}{_hint(silence)}", NO_BROKER)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of standard output went away; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (OSError, UnexpectedReply) as error:
        fail(str(error), FAILED)


def _hint(silence: NoAnswer) -> str:
    """What to do about a broker that does not answer."""
    if silence.connected:
        return ""
    if not silence.refusal:
        return "; start one with `vrambroker serve`, or say where it is with --endpoint or --config"
    with suppress(ConfigError):
        folder, names = holders()
        known = f"those there: {', '.join(names)}" if names else "none is there that this user may read"
        return f"; choose one with --key NAME or --key FILE. Names are looked for in {folder}: {known}"
    return "; choose one with --key FILE"


def fail(text: str, status: int) -> NoReturn:
    """End the process with a line on standard error."""
    shown = Text.assemble(("error: ", "bold red"), printable(text))
    Terminal(stderr=True).print(shown, soft_wrap=True)
    raise SystemExit(status)


def failure_panel(info: ErrorInfo) -> Panel:
    """An error as people read it: code, message, numbers, and the commands that would help."""
    lines: list[RenderableType] = [Text(info.message)]
    numbers = {key: value for key, value in info.details.items() if value not in (None, "", [], {})}
    if numbers:
        lines.append(Text("  ".join(f"{key}={value}" for key, value in numbers.items()), style="dim"))
    if info.retryable:
        after = f" after {info.retry_after_ms} ms" if info.retry_after_ms else ""
        lines.append(Text(f"may be tried again{after}", style="dim"))
    for step in info.recovery:
        command = command_line(step) or command_text(step.action, step.parameters)
        lines.append(Text.assemble(("try: ", "green"), step.description, (f"  {command}", "dim")))
    return Panel(
        Group(*lines),
        title=Text(info.code.value, style="bold red"),
        title_align="left",
        border_style="red",
        expand=False,
    )


def command_text(action: str, parameters: dict[str, object]) -> str:
    """A recovery's command as JSON that can be sent, where no command line says it."""
    return msgspec.json.encode({"action": action, **parameters}).decode()
