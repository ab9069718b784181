"""Faults: every way in which a command can fail, as a value on the wire and an exception inside.

Raise `Fault` anywhere; it is rendered once, at the edge, as the reply's `error`.
"""

from __future__ import annotations

import enum
from typing import Any

from protocol.records import Record


class ErrorCode(enum.Enum):
    """The codes of the wire."""

    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"
    UNKNOWN_ACTION = "UNKNOWN_ACTION"
    MISSING_PARAMETER = "MISSING_PARAMETER"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    UNAUTHORIZED = "UNAUTHORIZED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_INCOMPATIBLE = "MODEL_INCOMPATIBLE"
    MODEL_CORRUPTED = "MODEL_CORRUPTED"
    UNSAFE_MODEL = "UNSAFE_MODEL"
    MODEL_LOADING_FAILED = "MODEL_LOADING_FAILED"
    MODEL_IN_USE = "MODEL_IN_USE"
    INSUFFICIENT_MEMORY = "INSUFFICIENT_MEMORY"
    DEVICE_NOT_FOUND = "DEVICE_NOT_FOUND"
    DEVICE_UNAVAILABLE = "DEVICE_UNAVAILABLE"
    WORKER_LOST = "WORKER_LOST"
    QUEUE_FULL = "QUEUE_FULL"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    SUPERSEDED = "SUPERSEDED"
    INFERENCE_FAILED = "INFERENCE_FAILED"
    DUPLICATE_REQUEST = "DUPLICATE_REQUEST"
    DRAINING = "DRAINING"
    INTERNAL_ERROR = "INTERNAL_ERROR"


RETRYABLE = frozenset(
    {
        ErrorCode.MODEL_IN_USE,
        ErrorCode.INSUFFICIENT_MEMORY,
        ErrorCode.DEVICE_UNAVAILABLE,
        ErrorCode.WORKER_LOST,
        ErrorCode.QUEUE_FULL,
        ErrorCode.TIMEOUT,
        ErrorCode.DRAINING,
    }
)
"""Codes for which the same command may succeed later, where the fault itself does not say otherwise."""


class Recovery(Record, frozen=True, kw_only=True):
    """A command that would help; `parameters` can be sent as they are."""

    action: str
    description: str
    parameters: dict[str, Any] = {}


class ErrorInfo(Record, frozen=True, kw_only=True):
    """A fault as it stands in a reply."""

    code: ErrorCode
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    details: dict[str, Any] = {}
    recovery: list[Recovery] = []


class Fault(Exception):
    """A command failed for a reason that its sender should know.

    `details` carries the numbers behind the message; its keys are snake_case data in every dialect.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
        details: dict[str, Any] | None = None,
        recovery: list[Recovery] | None = None,
    ) -> None:
        super().__init__(message)
        self.info = ErrorInfo(
            code=code,
            message=message,
            retryable=code in RETRYABLE if retryable is None else retryable,
            retry_after_ms=retry_after_ms,
            details=details or {},
            recovery=recovery or [],
        )

    @classmethod
    def of(cls, info: ErrorInfo) -> Fault:
        """A fault that was a value before."""
        fault = cls(info.code, info.message)
        fault.info = info
        return fault

    @property
    def code(self) -> ErrorCode:
        return self.info.code


def in_use(model_id: str, device_ids: list[str]) -> Fault:
    """A model that cannot be unregistered while these devices hold it, or are about to."""
    text = f"{model_id} is in use on {', '.join(device_ids[:8])}: unload it first"
    parameters = {"model_id": model_id, "device_id": "auto", "clear_cache": True}
    recovery = [
        Recovery(action="unload_model", description="let it leave every device, RAM too", parameters=parameters)
    ]
    details = {"field": "model_id", "device_ids": device_ids[:64]}
    return Fault(ErrorCode.MODEL_IN_USE, text, details=details, recovery=recovery)


def missing(field: str, why: str = "") -> Fault:
    """The field that a command cannot do without."""
    return Fault(ErrorCode.MISSING_PARAMETER, f"{field} is required{why}", details={"field": field})


def invalid(field: str, value: object, expected: str) -> Fault:
    """A field whose value cannot be obeyed; the value is shown, cut to 80 characters."""
    text = f"{field} is {brief(value)}: expected {expected}"
    return Fault(ErrorCode.INVALID_ARGUMENT, text, details={"field": field})


def brief(value: object) -> str:
    """A value as an error shows it, in at most 80 characters."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
