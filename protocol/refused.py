"""What is said of a model whose file was found and refused: the same by whoever is asked."""

from __future__ import annotations

from protocol.errors import ErrorCode, Fault, Recovery
from protocol.replies import RefusedFile


def refused_fault(file: RefusedFile, field: str = "model_id") -> Fault:
    """The fault of a command that names a refused file's id: why it was refused, and what to do once it is mended."""
    return Fault(
        ErrorCode.MODEL_CORRUPTED if file.code is ErrorCode.MODEL_NOT_FOUND else file.code,
        f"{field} is '{file.model_id}': a file of that name was found and refused: {file.reason}",
        details={"field": field, "model_id": file.model_id, "path": file.path},
        recovery=[Recovery(action="scan_models", description="scan again once the file is mended", parameters={})],
    )
