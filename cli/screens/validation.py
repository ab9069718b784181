"""A validation: the verdict, what each part found, every issue, and the commands that would help."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from cli.screens.grid import Grid, facts
from cli.screens.residency import brief, pressure_row, timing_text
from cli.units import duration, size
from protocol.enums import Severity
from protocol.records import ModelPerformanceEstimation, ValidationResult
from protocol.replies import ValidateModelReply

COLOURS = {Severity.INFO: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}
PARTS = ("memory", "compute", "driver", "platform")


def validation_view(reply: ValidateModelReply) -> RenderableType:
    """The whole answer on a screen."""
    what = reply.model_id or "the file"
    if reply.is_compatible:
        mark = Text("valid, and fits ", style="bold green")
    elif reply.is_valid:
        mark = Text("valid, and does not fit ", style="bold yellow")
    else:
        mark = Text("not valid ", style="bold red")
    view: list[RenderableType] = [Text.assemble(mark, (f"{what} on {reply.device_id}", "bold")), _facts(reply)]
    if reply.is_valid:
        view += [Text(), _parts(reply), Text(), _features(reply)]
    if reply.issues:
        view += [Text(), *(_issue(issue.severity, issue.code.value, issue.message) for issue in reply.issues)]
    if reply.recommendations:
        view += [
            Text(),
            Text("try", style="dim"),
            *(Text(f"  {line}", overflow="fold") for line in reply.recommendations),
        ]
    return Group(*view)


def _facts(reply: ValidateModelReply) -> RenderableType:
    file = reply.validation_details.get("file")
    rows: list[tuple[str, RenderableType]] = [("score", f"{reply.compatibility_score:.2f}")]
    if isinstance(file, dict) and "size_bytes" in file:
        kind = " ".join(str(file[key]) for key in ("family", "dtype") if file.get(key))
        rows.append(("file", f"{size(int(file['size_bytes']))} {kind}".strip()))
    hashes = reply.validation_details.get("hashes")
    if isinstance(hashes, dict):
        rows += [
            (brief(name), f"AutoV2 {one.get('auto_v2', '-')}") for name, one in hashes.items() if isinstance(one, dict)
        ]
    if reply.performance_estimation is not None:
        rows.append(("a picture", _estimate(reply.performance_estimation)))
    return facts(*rows, ("times", timing_text(reply.timing)), pressure_row(reply.memory_pressure))


def _estimate(estimation: ModelPerformanceEstimation) -> str:
    if not estimation.estimated_inference_time:
        return "no figure"
    took, peak = duration(estimation.estimated_inference_time), size(estimation.estimated_memory_usage)
    return f"about {took} ({estimation.performance_category}), {peak}; confidence {estimation.confidence_score:.0%}"


def _parts(reply: ValidateModelReply) -> RenderableType:
    made = Grid("PART", "PASSED", "SCORE", "WHY", loose=("WHY",))
    for name in PARTS:
        found: ValidationResult = getattr(reply.validation_results, f"{name}_validation")
        made.add_row(Text(name), _yes(found.passed), Text(f"{found.score:.2f}"), Text(found.message))
    return made


def _features(reply: ValidateModelReply) -> RenderableType:
    made = Grid("OPTION", "HERE", "WHY NOT", loose=("WHY NOT",))
    for name, found in reply.validation_results.feature_validations.items():
        made.add_row(Text(name), _yes(found.passed), Text("" if found.passed else found.message))
    return made


def _yes(passed: bool) -> Text:
    return Text("yes", style="green") if passed else Text("no", style="yellow")


def _issue(severity: Severity, code: str, message: str) -> Text:
    return Text.assemble((severity.value, COLOURS[severity]), " ", (code, "bold"), " ", message)
