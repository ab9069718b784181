"""`vrambroker optimize`: the command, and pictures of the model before and after it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from cli.screens.optimization import optimization_view
from cli.session import Session, session
from cli.working import run
from client.answers import as_kind
from client.images import pictures as pictures_of
from protocol.commands import Generate, OptimizeModel
from protocol.ids import uuid7
from protocol.replies import GenerateReply, OptimizeModelReply
from settings.printable import printable

PROMPT, SEED, GAP = "a lighthouse at the sea, in the evening", 1, 8


def optimize(endpoint: str | None, as_json: bool, command: OptimizeModel, folder: Path | None) -> None:
    """Optimise, and show what became of each step; draw before and after into `folder` where there is one."""
    with session(endpoint, as_json) as this:
        before = _drawn(this, command) if folder is not None else None
        answer = as_kind(run(this, command, f"optimize {command.model_id}"), OptimizeModelReply)
        file = None
        if folder is not None and before is not None:
            file = _side_by_side(folder, command.model_id, before, _drawn(this, command))
        this.answer(answer, optimization_view(answer.reply, file))
        if as_json and file is not None:
            this.err.print(printable(str(file)), soft_wrap=True)


def _drawn(this: Session, command: OptimizeModel) -> bytes:
    """A picture of the model as it is now, where it is optimised."""
    asked = command.parameters
    prompts = asked.get("prompts") or [PROMPT]
    picture = Generate(
        model_id=command.model_id,
        prompt=prompts[0],
        seed=SEED,
        width=asked.get("width"),
        height=asked.get("height"),
        device_id=command.device_id,
    )
    answer = as_kind(run(this, picture, f"draw {command.model_id}"), GenerateReply)
    return pictures_of(answer)[0].data


def _side_by_side(folder: Path, model_id: str, before: bytes, after: bytes) -> Path:
    """Both in one file: before on the left, after on the right."""
    left, right = (Image.open(io.BytesIO(data)).convert("RGB") for data in (before, after))
    both = Image.new("RGB", (left.width + GAP + right.width, max(left.height, right.height)), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{model_id}-before-after-{uuid7()[:8]}.png"
    both.save(file)
    return file
