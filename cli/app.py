"""Every command with its options, as typer shows them; each turns words into a command of the protocol and hands it on.

What executes and shows them is imported when the command runs, so that `--help` and mistakes are answered fast.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import admin, cataloguing, decisions, keys, measuring, mending
from cli.options import Device, Json, ModelId, Priority, RequestId, Timeout, key_and_value, load_configuration, parsed
from protocol.enums import (
    ImageFormat,
    LoadingStrategy,
    LoadPriority,
    ModelPrecision,
)

if TYPE_CHECKING:
    from protocol.commands import LoraUse

app = typer.Typer(
    name="vrambroker",
    help="One address behind which GPUs full of diffusion models are driven. Starts a broker, and talks to one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> None:
    """Parse the command line and run its command; ends the process."""
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def show_version(wanted: bool) -> None:
    """`--version`, before anything else is looked at."""
    from protocol.version import VERSION

    if wanted:
        typer.echo(f"vrambroker {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", "-e", help="The broker's command address; without it, this machine's broker."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", "-k", help="The key to connect with: its file, or its name in this broker's folder."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The broker's TOML file, which says where it is.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Show the version, and end.")
    ] = False,
) -> None:
    """Starts a broker, and talks to one."""
    from settings.config import choose_file
    from settings.keys import choose

    context.obj = endpoint
    if config:
        choose_file(config)
    if key:
        choose(key)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option("--config", help="The TOML file.", dir_okay=False)] = None,
) -> None:
    """Run a broker in the foreground until SIGINT or SIGTERM."""
    from cli.main import serve as run_broker

    raise typer.Exit(run_broker(config))


@app.command()
def selftest(
    device: Annotated[str, typer.Option("--device", "-d", help="cuda:0, cpu or virtual.")] = "",
    as_json: Json = False,
) -> None:
    """Prove a device in two minutes, in a broker of its own: memory, speed, pictures, options, recovery; a verdict."""
    from cli.selftest.verdict import selftest as prove

    prove(device, as_json=as_json)


@app.command()
def status(
    context: typer.Context,
    model_id: Annotated[str, typer.Argument(metavar="[MODEL]", help="Only this model.")] = "",
    wait: Annotated[
        float | None, typer.Option("--wait", min=0, help="Seconds to wait until every worker is ready.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the broker, its devices and what they hold."""
    from cli.watching import status as show

    show(context.obj, as_json, model_id=model_id, wait_seconds=wait)


@app.command()
def ps(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until interrupted.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between looks.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Show memory, models and running work."""
    from cli.watching import ps as show

    show(context.obj, as_json, watch=watch, interval_seconds=interval)


@app.command()
def devices(
    context: typer.Context,
    device_id: Annotated[str, typer.Argument(metavar="[DEVICE]", help="Only this device.")] = "",
    as_json: Json = False,
) -> None:
    """Show each device as hardware and as a process."""
    from cli.watching import devices as show

    show(context.obj, as_json, device_id=device_id)


@app.command()
def load(
    context: typer.Context,
    model_id: ModelId,
    device: Device = "",
    precision: Annotated[ModelPrecision | None, typer.Option("--precision", case_sensitive=False)] = None,
    priority: Priority = LoadPriority.Normal,
    keep_alive: Annotated[
        str, typer.Option("--keep-alive", help="Such as 90s, 5m or forever, counted from the last use.")
    ] = "forever",
    pin: Annotated[bool, typer.Option("--pin", help="Never evict it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Load again even when equal.")] = False,
    strategy: Annotated[LoadingStrategy, typer.Option("--strategy", case_sensitive=False)] = LoadingStrategy.DEFAULT,
    path: Annotated[str, typer.Option("--path", help="The file or folder of a model to register.")] = "",
    config_path: Annotated[str, typer.Option("--config-path", help="The configuration of a single file.")] = "",
    model_type: Annotated[str, typer.Option("--type", help="The family that the file is believed to be.")] = "",
    attention_slicing: Annotated[bool, typer.Option("--attention-slicing")] = False,
    cpu_offload: Annotated[bool, typer.Option("--cpu-offload")] = False,
    splitting: Annotated[bool, typer.Option("--splitting")] = False,
    memory_fraction: Annotated[float, typer.Option("--memory-fraction", min=0, max=1)] = 0.0,
    tensorrt: Annotated[bool, typer.Option("--tensorrt")] = False,
    onnx: Annotated[bool, typer.Option("--onnx")] = False,
    compilation: Annotated[bool, typer.Option("--compile")] = False,
    flash_attention: Annotated[bool, typer.Option("--flash-attention")] = False,
    parameters: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    timeout: Timeout = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the command is accepted.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a model onto a device; show the outcome."""
    from cli.units import seconds_of
    from cli.working import load as execute
    from protocol.commands import LoadModel

    configuration = load_configuration(
        precision,
        {
            "enable_attention_slicing": attention_slicing,
            "enable_cpu_offloading": cpu_offload,
            "enable_model_splitting": splitting,
            "memory_fraction": memory_fraction,
        },
        {
            "enable_tensor_rt": tensorrt,
            "enable_onnx": onnx,
            "enable_compilation": compilation,
            "enable_flash_attention": flash_attention,
        },
        dict(parsed(key_and_value, text, "--set") for text in parameters or []),
    )
    command = LoadModel(
        model_id=model_id,
        device_id=device,
        priority=priority,
        keep_alive=parsed(seconds_of, keep_alive, "--keep-alive"),
        pin=pin,
        force=force,
        loading_strategy=strategy,
        model_path=path,
        config_path=config_path,
        model_type=model_type,
        configuration=configuration,
        timeout_seconds=timeout,
        wait_for_completion=not no_wait,
    )
    execute(context.obj, as_json, command)


@app.command()
def unload(
    context: typer.Context,
    model_id: ModelId,
    device: Device = "",
    force: Annotated[bool, typer.Option("--force", help="Cancel its running work.")] = False,
    clear_cache: Annotated[bool, typer.Option("--clear-cache", help="Out of the RAM tier too.")] = False,
    as_json: Json = False,
) -> None:
    """Take a model off its device and show what that freed."""
    from cli.working import unload as execute
    from protocol.commands import UnloadModel

    execute(
        context.obj,
        as_json,
        UnloadModel(model_id=model_id, device_id=device, force=force, clear_cache=clear_cache),
    )


@app.command()
def pin(context: typer.Context, model_id: ModelId, device: Device = "", as_json: Json = False) -> None:
    """Protect a model from eviction and expiry."""
    from cli.working import pin as execute
    from protocol.commands import PinModel

    execute(context.obj, as_json, PinModel(model_id=model_id, device_id=device))


@app.command()
def unpin(context: typer.Context, model_id: ModelId, device: Device = "", as_json: Json = False) -> None:
    """Lift a pin."""
    from cli.working import pin as execute
    from protocol.commands import UnpinModel

    execute(context.obj, as_json, UnpinModel(model_id=model_id, device_id=device))


@app.command()
def generate(
    context: typer.Context,
    model_id: ModelId,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.", file_okay=False)] = Path(),
    negative: Annotated[str, typer.Option("--negative", help="What to keep out.")] = "",
    steps: Annotated[int | None, typer.Option("--steps", min=1)] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    sides: Annotated[str | None, typer.Option("--size", metavar="WIDTHxHEIGHT")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images of one run.")] = 1,
    scheduler: Annotated[str, typer.Option("--scheduler")] = "",
    loras: Annotated[list[str] | None, typer.Option("--lora", metavar="NAME[:SCALE]")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="The image to start from.", dir_okay=False)] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="White where to paint on it.", dir_okay=False)] = None,
    strength: Annotated[float | None, typer.Option("--strength", min=0, max=1, help="How far from it.")] = None,
    image_format: Annotated[ImageFormat, typer.Option("--format")] = ImageFormat.PNG,
    device: Device = "",
    priority: Priority = LoadPriority.Normal,
    no_load: Annotated[bool, typer.Option("--no-load", help="Fail when it is not loaded.")] = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Draw images and write them to files."""
    from cli.units import sides_of
    from cli.working import generate as execute
    from protocol.commands import Generate

    width, height = parsed(sides_of, sides, "--size") if sides else (None, None)
    command = Generate(
        model_id=model_id,
        prompt=prompt,
        negative_prompt=negative,
        width=width,
        height=height,
        steps=steps,
        seed=seed,
        guidance_scale=guidance,
        num_images=count,
        scheduler=scheduler,
        loras=[parsed(lora_use, text, "--lora") for text in loras] if loras else None,
        strength=strength,
        image_format=image_format,
        device_id=device,
        priority=priority,
        load_if_needed=not no_load,
        timeout_seconds=timeout,
    )
    execute(context.obj, as_json, command, image=image, mask=mask, output=output)


def lora_use(text: str) -> LoraUse:
    """`NAME` or `NAME:SCALE`. Raises ValueError."""
    from protocol.commands import LoraUse

    name, separator, scale = text.rpartition(":")
    return LoraUse(name=name, scale=float(scale)) if separator else LoraUse(name=text)


@app.command()
def cancel(
    context: typer.Context,
    request_id: RequestId,
    as_json: Json = False,
) -> None:
    """Stop a command, whatever its stage."""
    from cli.working import cancel as execute
    from protocol.commands import Cancel

    execute(context.obj, as_json, Cancel(target_request_id=request_id, prefix=True))


@app.command()
def result(
    context: typer.Context,
    request_id: RequestId,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.", file_okay=False)] = Path(),
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show what became of a command: its reply, or where it is."""
    from cli.results import result as show

    show(context.obj, as_json, request_id, output=output, wait=wait)


@app.command()
def events(
    context: typer.Context,
    topics: Annotated[
        list[str] | None, typer.Argument(help="Beginnings such as telemetry. or job.; all if none.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many.")] = None,
    events_endpoint: Annotated[
        str | None, typer.Option("--events-endpoint", help="The broker's events address.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the broker publishes.

    A line for each event; with --json one JSON document a line.
    """
    from cli.watching import events as show

    show(context.obj, as_json, topics=topics or [], count=count, events_endpoint=events_endpoint)


@app.command()
def schema(
    name: Annotated[str | None, typer.Argument(help="An action, an event or a record; all if none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The schema is JSON in any case.")] = False,
) -> None:
    """Print the JSON Schema of the protocol."""
    from cli.browsing import schema as show

    show(name)


app.add_typer(keys.app, name="keys")
app.add_typer(mending.app, name="catalog")

for command in (
    cataloguing.models,
    cataloguing.info,
    cataloguing.scan,
    cataloguing.search,
    cataloguing.register,
    cataloguing.unregister,
    cataloguing.edit,
    decisions.plan,
    decisions.explain,
    measuring.validate,
    measuring.benchmark,
    measuring.optimize,
    admin.drain,
    admin.resume,
    admin.restart,
):
    app.command()(command)
