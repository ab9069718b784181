"""What a model is worth on a device, and what it could be: validated, measured, optimised.

What executes and shows it is imported when the command runs.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Device, Json, ModelId, Timeout, parsed
from protocol.enums import BenchmarkType, ModelOptimizationTarget, OptimizationLevel, ValidationLevel


def validate(
    context: typer.Context,
    model_id: Annotated[str, typer.Argument(metavar="[MODEL]", help="The model's id, or none with --path.")] = "",
    path: Annotated[str, typer.Option("--path", help="A file or folder, registered or not.")] = "",
    level: Annotated[
        ValidationLevel,
        typer.Option("--level", "-l", case_sensitive=False, help="How deep to look."),
    ] = ValidationLevel.STANDARD,
    estimate: Annotated[bool, typer.Option("--estimate", help="Also what a picture is expected to take.")] = False,
    device: Device = "",
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Check a model's files, and what a device can do with them; the exit status is 1 where they are not valid."""
    from cli.screens.validation import validation_view
    from cli.session import FAILED, session
    from cli.working import run
    from client.answers import as_kind
    from protocol.commands import ValidateModel
    from protocol.replies import ValidateModelReply

    command = ValidateModel(
        model_id=model_id,
        model_path=path,
        validation_level=level,
        estimate_performance=estimate,
        device_id=device,
        timeout_seconds=timeout,
    )
    with session(context.obj, as_json) as this:
        answer = as_kind(run(this, command, f"validate {model_id or path}"), ValidateModelReply)
        this.answer(answer, validation_view(answer.reply))
    if not answer.reply.is_valid:
        raise typer.Exit(FAILED)


def benchmark(
    context: typer.Context,
    model_id: ModelId,
    kind: Annotated[
        BenchmarkType, typer.Option("--type", "-t", case_sensitive=False, help="What to measure.")
    ] = BenchmarkType.PERFORMANCE,
    sides: Annotated[str, typer.Option("--size", metavar="WIDTHxHEIGHT")] = "512x512",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images of one run.")] = 1,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 20,
    runs: Annotated[int, typer.Option("--runs", "-n", min=1, help="Timed runs.")] = 10,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Runs before them that count for nothing.")] = 3,
    batches: Annotated[bool, typer.Option("--batches", help="Also batches of 1, 2, 4 and so on.")] = False,
    sizes: Annotated[bool, typer.Option("--sizes", help="Also half, once and one and a half times the size.")] = False,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.001, help="How long a stress lasts.")] = None,
    prompt: Annotated[str, typer.Option("--prompt", help="What to draw.")] = "",
    no_save: Annotated[bool, typer.Option("--no-save", help="Keep none of it for the model's figures.")] = False,
    device: Device = "",
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Time a model on a device, and show what a picture takes."""
    from cli.screens.benchmark import benchmark_view
    from cli.session import session
    from cli.units import sides_of
    from cli.working import run
    from client.answers import as_kind
    from protocol.commands import BenchmarkModel
    from protocol.records import ModelBenchmarkConfiguration
    from protocol.replies import BenchmarkModelReply

    width, height = parsed(sides_of, sides, "--size")
    parameters: dict[str, object] = {"prompt": prompt} if prompt else {}
    if seconds is not None:
        parameters["duration_seconds"] = seconds
    command = BenchmarkModel(
        model_id=model_id,
        configuration=ModelBenchmarkConfiguration(
            input_width=width,
            input_height=height,
            batch_size=batch,
            inference_steps=steps,
            test_batch_sizes=batches,
            test_resolutions=sizes,
            parameters=parameters,
        ),
        benchmark_type=kind,
        warmup_runs=warmup,
        benchmark_runs=runs,
        save_results=not no_save,
        device_id=device,
        timeout_seconds=timeout,
    )
    with session(context.obj, as_json) as this:
        answer = as_kind(run(this, command, f"benchmark {model_id}"), BenchmarkModelReply)
        this.answer(answer, benchmark_view(answer.reply))


def optimize(
    context: typer.Context,
    model_id: ModelId,
    target: Annotated[
        ModelOptimizationTarget, typer.Argument(case_sensitive=False, help="What is to become better.")
    ] = ModelOptimizationTarget.Balanced,
    level: Annotated[
        OptimizationLevel, typer.Option("--level", "-l", case_sensitive=False, help="How far to go.")
    ] = OptimizationLevel.Balanced,
    budget: Annotated[float | None, typer.Option("--budget", min=0.001, help="Seconds to try steps in.")] = None,
    sides: Annotated[str | None, typer.Option("--size", metavar="WIDTHxHEIGHT", help="Of what is measured.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Of what is measured.")] = None,
    prompts: Annotated[list[str] | None, typer.Option("--prompt", help="To measure with; may be repeated.")] = None,
    save: Annotated[str, typer.Option("--save", metavar="NAME", help="Save the result as a model of this name.")] = "",
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Draw before and after, side by side in here.", file_okay=False)
    ] = None,
    device: Device = "",
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Make a model faster, smaller or truer on a device, as measured; what is not worth it is undone."""
    from cli.optimizing import optimize as execute
    from cli.units import sides_of
    from protocol.commands import OptimizeModel

    width, height = parsed(sides_of, sides, "--size") if sides else (None, None)
    asked = {"budget_seconds": budget, "width": width, "height": height, "steps": steps, "prompts": prompts or None}
    command = OptimizeModel(
        model_id=model_id,
        target=target,
        level=level,
        parameters={name: value for name, value in asked.items() if value is not None},
        save_optimized=bool(save),
        optimized_model_name=save or None,
        device_id=device,
        timeout_seconds=timeout,
    )
    execute(context.obj, as_json, command, pictures)
