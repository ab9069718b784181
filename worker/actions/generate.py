"""`generate`: text-to-image and image-to-image; images behind the reply, in files beneath the output root, or in it."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from protocol import commands as c
from protocol.checks import MAX_SEED
from protocol.drawing import CONTROL, Given, given
from protocol.enums import Delivery, Tier
from protocol.errors import Fault, Recovery, invalid
from protocol.link import RunFacts
from protocol.replies import GeneratedImage, GenerateReply
from worker import ladder, pictures
from worker.actions.components import unknown_lora
from worker.devices.base import CONTROLNET, Drawing, DrawOrder, Raster
from worker.engine import Engine, common
from worker.job import Job
from worker.loading import Brought, changed_file
from worker.outputs import OutputFolder
from worker.resident import Resident
from worker.using import at_hand, in_use, limit_bytes

Loras = tuple[tuple[str, float], ...] | None
CHOSEN_SEED_BITS = 32


def generate(engine: Engine, job: Job, command: c.Generate) -> GenerateReply:
    """Draw the images asked for. Raises Fault."""
    placed = given(command.attachments)
    output = _output(engine, command)
    seed = secrets.randbits(CHOSEN_SEED_BITS) if command.seed is None else command.seed
    resident, brought = _resident(engine, job, command)
    loras = _loras(resident, command)
    _check_control(resident, placed)
    began = time.perf_counter()
    with in_use(engine, resident):
        order = _order(engine, job, resident, command, seed=seed, placed=placed, loras=loras)
        drawing = ladder.draw(engine, job, resident, order, allow_degraded=command.allow_degraded)
    run_ms = (time.perf_counter() - began) * 1000
    resident.note_run(succeeded=True)
    resident.note_drawing(run_ms, len(drawing.images), drawing.peak_bytes)
    job.facts = RunFacts(
        load_ms=brought.load_ms if brought else None,
        source=brought.source if brought else None,
        weights_bytes=resident.bytes,
        run_ms=run_ms,
        images=len(drawing.images),
        peak_bytes=drawing.peak_bytes,
        steps=drawing.steps_done,
        width=drawing.images[0].width,
        height=drawing.images[0].height,
    )
    return _reply(engine, job, command, drawing, output, seed=seed, run_ms=run_ms)


def _resident(engine: Engine, job: Job, command: c.Generate) -> tuple[Resident, Brought | None]:
    """The model on the device, and its load where it needed one."""
    resident = engine.cache.get(command.model_id)
    on_device = resident is not None and resident.tier is Tier.VRAM
    if resident is not None and on_device and not (command.load_if_needed and changed_file(resident)):
        return resident, None
    if not command.load_if_needed:
        parameters = {"model_id": command.model_id, "device_id": engine.spec.device_id}
        recovery = Recovery(action="load_model", description="load it first", parameters=parameters)
        expected = f"true: {command.model_id} is not on {engine.spec.device_id}"
        info = invalid("load_if_needed", False, expected).info
        raise Fault(info.code, info.message, details=info.details, recovery=[recovery])
    brought = at_hand(engine, job, command.model_id, command.priority)
    return brought.resident, brought


def _loras(resident: Resident, command: c.Generate) -> Loras:
    """The adapters of this picture; None: those that act by themselves. Raises Fault INVALID_ARGUMENT."""
    if command.loras is None:
        return None
    for index, lora in enumerate(command.loras):
        if lora.name not in resident.built.loras:
            raise unknown_lora(f"loras[{index}].name", lora.name, resident)
    return tuple((lora.name, lora.scale) for lora in command.loras)


def _check_control(resident: Resident, placed: Given) -> None:
    """Raise Fault INVALID_ARGUMENT for a picture to be followed by a model that has no ControlNet."""
    if placed.control is None or any(part.name == CONTROLNET for part in resident.built.parts):
        return
    name = f"attachments[{placed.control}].name"
    fault = invalid(name, CONTROL, f"none: {resident.model_id} has no ControlNet loaded")
    parameters = {"model_id": resident.model_id, "component": CONTROLNET}
    recovery = Recovery(action="load_component", description="load one first, from path", parameters=parameters)
    raise Fault(fault.code, str(fault), details=fault.info.details, recovery=[recovery])


def _order(
    engine: Engine, job: Job, resident: Resident, command: c.Generate, *, seed: int, placed: Given, loras: Loras
) -> DrawOrder:
    return DrawOrder(
        prompt=command.prompt or "",
        negative_prompt=command.negative_prompt,
        width=command.width,
        height=command.height,
        steps=command.steps,
        guidance_scale=command.guidance_scale,
        seeds=[(seed + index) % (MAX_SEED + 1) for index in range(command.num_images)],
        scheduler=command.scheduler,
        loras=loras,
        source=None if placed.picture is None else job.attachments[placed.picture],
        mask=None if placed.mask is None else job.attachments[placed.mask],
        control=None if placed.control is None else job.attachments[placed.control],
        control_field=f"attachments[{placed.control}]",
        fields=(f"attachments[{placed.picture}]", f"attachments[{placed.mask}]"),
        strength=command.strength,
        limit_bytes=limit_bytes(engine, resident),
        max_side=engine.spec.max_side,
    )


def _output(engine: Engine, command: c.Generate) -> OutputFolder | None:
    """Where the pictures go as files. Raises Fault before anything is drawn that could not be written."""
    if command.delivery is not Delivery.PATH:
        return None
    output = OutputFolder(Path(engine.spec.outputs))
    output.check()
    return output


def _reply(
    engine: Engine,
    job: Job,
    command: c.Generate,
    drawing: Drawing,
    output: OutputFolder | None,
    *,
    seed: int,
    run_ms: float,
) -> GenerateReply:
    checked: Sequence[bool | None] = drawing.blackened or [None] * len(drawing.images)
    images = [
        _delivered(job, command, output, index=index, raster=raster, blackened=blackened)
        for index, (raster, blackened) in enumerate(zip(drawing.images, checked, strict=True))
    ]
    job.warnings += drawing.warnings
    for name in ("encode_ms", "denoise_ms", "decode_ms"):
        measured = getattr(drawing, name)
        if measured is not None:
            job.phases[name] = measured
    if drawing.denoise_ms is not None and drawing.steps_done:
        job.phases["per_step_ms"] = drawing.denoise_ms / drawing.steps_done
    attached = [image for image in images if image.path is None and image.data is None]
    return GenerateReply(
        **{**common(job), "model_id": command.model_id},
        message=f"{len(images)} image{'s' if len(images) > 1 else ''} in {run_ms:.0f} ms",
        seed=seed,
        images=images,
        steps_done=drawing.steps_done,
        attachments=[c.Attachment(name=i.name, media_type=i.media_type, bytes=i.bytes) for i in attached],
        not_measured=drawing.not_measured,
    )


def _delivered(
    job: Job, command: c.Generate, output: OutputFolder | None, *, index: int, raster: Raster, blackened: bool | None
) -> GeneratedImage:
    """A picture on its way; one that cannot be written after all is attached, and a warning says why."""
    data = pictures.encode(raster, command.image_format)
    name = f"image-{index}"
    path = encoded = None
    if output is not None:
        try:
            path = str(output.write(data, command.image_format.value))
        except Fault as fault:
            job.warnings.append(f"{fault.info.message}; {name} is attached instead")
    if command.delivery is Delivery.BASE64:
        encoded = base64.b64encode(data).decode()
    elif path is None:
        job.frames.append(data)
    return GeneratedImage(
        name=name,
        media_type=pictures.MEDIA_TYPES[command.image_format],
        width=raster.width,
        height=raster.height,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        path=path,
        data=encoded,
        nsfw_content_detected=blackened,
    )
