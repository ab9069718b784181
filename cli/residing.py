"""Which models a device holds: `vrambroker load`, `unload`, `pin`, `unpin`.

What executes and shows them is imported when the command runs.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import Device, Json, ModelId, Priority, Timeout, key_and_value, load_configuration, parsed
from protocol.enums import LoadingStrategy, LoadPriority, ModelPrecision


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


def pin(context: typer.Context, model_id: ModelId, device: Device = "", as_json: Json = False) -> None:
    """Protect a model from eviction and expiry."""
    from cli.working import pin as execute
    from protocol.commands import PinModel

    execute(context.obj, as_json, PinModel(model_id=model_id, device_id=device))


def unpin(context: typer.Context, model_id: ModelId, device: Device = "", as_json: Json = False) -> None:
    """Lift a pin."""
    from cli.working import pin as execute
    from protocol.commands import UnpinModel

    execute(context.obj, as_json, UnpinModel(model_id=model_id, device_id=device))
