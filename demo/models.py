"""The demonstration models: made where they are missing. Also the command `python -m demo.models ROOT`.

Decides what is made and what is kept. Asking for what exists is cheap: torch is imported only to make something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demo.inventory import DemoModel, is_complete, wanted
from demo.virtual import VIRTUAL_MODELS, make_virtual_models

__all__ = ["DemoModel", "make_models", "make_virtual_models"]

SMALLEST = DemoModel.SD15


def make_models(
    root: Path, only: Sequence[str] | None = None, on_progress: Callable[[str], None] | None = None
) -> list[Path]:
    """Make the demonstration models in `root`; answer their paths in the order of `DemoModel`.

    `only` names some of them; a single file's source folder is made with it. What is there and complete is kept.
    `on_progress` is told each name once that model is there. Raises ValueError for an unknown name.
    """
    paths = []
    for model in wanted(only):
        path = root / model
        if not is_complete(path):
            from demo.making import make_model  # noqa: PLC0415 - torch takes seconds: only where something is made

            make_model(root, model)
        if on_progress is not None:
            on_progress(model)
        paths.append(path)
    return paths


def main(
    root: Annotated[Path, typer.Argument(help="The folder to make the models in.")],
    only: Annotated[list[DemoModel] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    smallest: Annotated[bool, typer.Option("--smallest", help="Only the smallest of them.")] = False,
    virtual: Annotated[bool, typer.Option(help="Also write the profiles for virtual devices.")] = True,
) -> None:
    """Make tiny real diffusion models, without a network."""
    only = [SMALLEST] if smallest else only
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("making models", total=len(wanted(only)))

        def step(name: str) -> None:
            progress.update(task, advance=1, description=name)

        make_models(root, only, step)
        progress.update(task, description="models")
    if virtual:
        make_virtual_models(root)
        console.print(f"{len(VIRTUAL_MODELS)} profiles for virtual devices")


if __name__ == "__main__":
    typer.run(main)
