"""What several commands share: option types, and words of the command line as values.

Nothing here talks to a broker.
"""

# ruff: noqa: PLC0415 - what only a running command needs is imported when it runs

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cli import completing
from protocol.enums import LoadPriority, ModelPrecision

if TYPE_CHECKING:
    from protocol.records import ModelLoadConfiguration

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print the reply's JSON on standard output.")]
ModelId = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="The model's id; `vrambroker models` lists them.", autocompletion=completing.models
    ),
]
OneModel = Annotated[str, typer.Argument(metavar="[MODEL]", help="Only this model.", autocompletion=completing.models)]
Device = Annotated[
    str,
    typer.Option(
        "--device", "-d", help="Such as cuda:0; without it the broker chooses.", autocompletion=completing.devices
    ),
]
OneDevice = Annotated[
    str, typer.Argument(metavar="[DEVICE]", help="Only this device.", autocompletion=completing.devices)
]
RequestId = Annotated[
    str,
    typer.Argument(
        metavar="REQUEST_ID",
        help="A command's request id, or its beginning, as `ps` shows it.",
        autocompletion=completing.requests,
    ),
]
Priority = Annotated[LoadPriority, typer.Option("--priority", case_sensitive=False, help="Order of service.")]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0, help="Deadline in seconds.")]
Slo = Annotated[float, typer.Option("--slo", help="Seconds within which an answer is good.")]
Processes = Annotated[int, typer.Option("--processes", "-p", help="That send.")]
Patience = Annotated[float, typer.Option("--patience", help="Seconds until a command has timed out.")]
Thresholds = Annotated[
    list[str] | None, typer.Option("--threshold", help="Such as p99<500ms or failed<1%; a broken one exits 1.")
]
ReportFolder = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for report.json and report.html.", file_okay=False)
]
ReportJson = Annotated[bool, typer.Option("--json", help="Print the report's JSON.")]


def parsed(parse: Callable[[str], T], text: str, option: str) -> T:
    """An option's value; one that cannot be read is a usage error."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def load_configuration(
    precision: ModelPrecision | None, memory: dict[str, Any], performance: dict[str, Any], parameters: dict[str, Any]
) -> ModelLoadConfiguration | None:
    """The configuration that the options ask for; None, content with the model as it is, where they ask for nothing."""
    from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization, ModelPerformanceOptimization

    if precision is None and not any([*memory.values(), *performance.values(), *parameters]):
        return None
    return ModelLoadConfiguration(
        precision=precision or ModelPrecision.Auto,
        memory_optimization=ModelMemoryOptimization(**memory),
        performance_optimization=ModelPerformanceOptimization(**performance),
        parameters=parameters,
    )


def key_and_value(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`, the value as JSON where it is some, else as text. Raises ValueError."""
    import msgspec

    key, separator, value = text.partition("=")
    if not key or not separator:
        raise ValueError(f"'{text}' is no KEY=VALUE")
    try:
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value
