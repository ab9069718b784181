"""Logging of every process: lines for people on a terminal, JSON otherwise, always to standard error.

Nobody waits for a reader of the log (`settings.sink`); what libraries print goes the same way. structlog takes as long
to import as a broker takes to be ready; it is imported with the first line that is logged.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, NoReturn, TextIO

from settings.printable import printable, printable_lines
from settings.sink import Sink

_context: dict[str, Any] = {}
_sink: Sink | None = None


class Logger:
    """A logger that costs nothing until it is used."""

    def __init__(self) -> None:
        self._bound: Any = None

    def info(self, event: str, **fields: Any) -> None:
        self.log("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.log("warning", event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self.log("error", event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error with the traceback of the exception at hand."""
        self.log("exception", event, **fields)

    def log(self, level: str, event: str, **fields: Any) -> None:
        """A line of a level."""
        if self._bound is None:
            self._bound = _structlog()
        getattr(self._bound, level)(event, **fields)


def configure(process: str, **context: Any) -> None:
    """Name this process; `process` and `context` stand in every line. From here on nothing waits for the log's reader.

    A process whose standard output is not spoken for gives that away too.
    """
    global _sink  # noqa: PLW0603 - one log for a process
    _context.update(process=process, **context)
    if _sink is None:
        _sink = Sink()
        sys.stderr = _sink
        if process in ("worker", "catalog"):
            sys.stdout = _sink
        atexit.register(_sink.finish)


def leave(status: int) -> NoReturn:
    """End the process at once, without waiting for its threads, once the log is written."""
    if _sink is not None:
        _sink.finish()
    os._exit(status)


class _Lines:
    """Where structlog's lines end: whole ones, to whatever standard error is now."""

    def msg(self, message: str) -> None:
        if isinstance(sys.stderr, Sink):
            sys.stderr.put(message + "\n")
        else:
            sys.stderr.write(message + "\n")

    log = debug = info = warn = warning = error = exception = critical = fatal = failure = err = msg


def _printable_fields(_logger: Any, _level: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor: text of files and peers as a terminal may show it. What is no text is shown by its `repr`."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in fields.items()}


def _traceback(stream: TextIO, error: Any) -> None:
    """The plain traceback, without the values of variables: keys may be among them."""
    stream.write("\n" + printable_lines("".join(traceback.format_exception(*error)).rstrip("\n")))


def _structlog() -> Any:
    import structlog  # noqa: PLC0415 - see above

    people = sys.stderr.isatty()
    tail: list[Any] = [_printable_fields, structlog.dev.ConsoleRenderer(exception_formatter=_traceback)]
    if not people:
        tail = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tail,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger().bind(**_context)
