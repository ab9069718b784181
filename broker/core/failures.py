"""The log's lines about commands that ended here without a worker's word: refused, too late, cancelled as they waited.

A client that sends nothing but nonsense fills no disk: so many lines a second, and then how many there were more.
"""

from __future__ import annotations

from broker.core.context import Context
from broker.core.jobs import Job
from protocol.errors import ErrorCode, ErrorInfo

MOST_A_SECOND = 20


class Lines:
    """Counts by the second."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._second = 0
        self._count = 0

    def tell(self, job: Job, error: ErrorInfo) -> None:
        """One line, unless there were too many just now."""
        context, now = self._context, self._context.clock()
        if int(now) != self._second:
            left_out = self._count - MOST_A_SECOND
            if left_out > 0:
                context.log("warning", "more commands ended", count=left_out)
            self._second, self._count = int(now), 0
        self._count += 1
        if self._count > MOST_A_SECOND:
            return
        context.log(
            "info" if error.code is ErrorCode.CANCELLED else "warning",
            "command ended",
            request_id=job.wire_id,
            action=job.action.name,
            model=job.model_id,
            device=job.device_id,
            state="cancelled" if error.code is ErrorCode.CANCELLED else "failed",
            code=error.code.value,
            ms=round((now - job.arrived) * 1000, 1),
            text=error.message,
        )
