"""Pictures: `vrambroker generate`.

What executes and shows them is imported when the command runs.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Device, Json, ModelId, Priority, Timeout, parsed
from protocol.enums import ImageFormat, LoadPriority

if TYPE_CHECKING:
    from protocol.commands import LoraUse


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
