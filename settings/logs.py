"""Logging of every process: lines for people on a terminal, JSON otherwise, always to standard error."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure(process: str, **context: Any) -> None:
    """Set structlog up for this process; `process` and `context` stand in every line."""
    people = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info if not people else _unchanged,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process, **context)


def _unchanged(_: Any, __: str, event: Any) -> Any:
    return event
