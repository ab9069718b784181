"""Logging of every process: lines for people on a terminal, JSON otherwise, always to standard error.

structlog takes as long to import as a broker takes to be ready; it is imported with the first line that is logged.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

_context: dict[str, Any] = {}


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
    """Name this process; `process` and `context` stand in every line."""
    _context.update(process=process, **context)


def _structlog() -> Any:
    import structlog  # noqa: PLC0415 - see above

    people = sys.stderr.isatty()
    tail: list[Any] = [structlog.dev.ConsoleRenderer()]
    if not people:
        tail = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tail,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger().bind(**_context)
