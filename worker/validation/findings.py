"""What a validation has found so far: issues, details, and commands that would help. Decides nothing."""

from __future__ import annotations

from typing import Any

from protocol.enums import Severity
from protocol.errors import ErrorCode, Fault, Recovery
from protocol.recovery import command_line
from protocol.replies.work import ValidationIssue


class Findings:
    """Of one validation. `sound`: no issue of severity error was found."""

    def __init__(self) -> None:
        self.issues: list[ValidationIssue] = []
        self.details: dict[str, Any] = {}
        self.recommendations: list[str] = []

    @property
    def sound(self) -> bool:
        return all(issue.severity is not Severity.ERROR for issue in self.issues)

    def fault(self, fault: Fault, severity: Severity = Severity.ERROR) -> None:
        """What a check of a load would have raised."""
        info = fault.info
        field = info.details.get("field")
        self.add(severity, info.code, info.message, field if isinstance(field, str) else None, info.recovery)

    def add(
        self,
        severity: Severity,
        code: ErrorCode,
        message: str,
        field: str | None = None,
        recovery: list[Recovery] | None = None,
    ) -> None:
        """An issue; the command lines of what would help are recommendations."""
        recovery = recovery or []
        self.issues.append(
            ValidationIssue(severity=severity, code=code, message=message, field=field, recovery=recovery)
        )
        for one in recovery:
            line = command_line(one)
            if line and line not in self.recommendations:
                self.recommendations.append(line)
