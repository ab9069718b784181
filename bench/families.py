"""What it costs to know a file, and to refuse it: recognising beside reading the header, and a refusal by its kind.

`python -m bench.families [--runs 20]`: files of the published models' tensors, whose data are holes, so that a file of
seven gigabytes takes no room; a whole `vrambroker serve` with one cpu device is asked to load them, and refuses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import zmq
from diffusers import FluxTransformer2DModel
from msgspec import Struct

from bench.beside import ask
from bench.record import Machine, machine, write
from bench.rigs import Server
from demo import published
from demo.original import transformer_to_original
from modelfiles import families
from modelfiles.complete import Asked
from modelfiles.headers import Header, read_header
from modelfiles.recognition import recognise, used
from tests.modelfiles.model_bytes import tensor_file

RECOGNISE_MS, REFUSE_MS = 2.0, 50.0
"""The targets."""


class Recognition(Struct, frozen=True, kw_only=True):
    """Of one file: its tensors, and the median milliseconds of reading its header, and of knowing what it is."""

    tensors: int
    header_ms: float
    recognise_ms: float


class Refusal(Struct, frozen=True, kw_only=True):
    """Of one kind: what is answered, and milliseconds from the command to that, the first time and the median after."""

    bytes: int
    code: str
    first_ms: float
    median_ms: float


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    recognition: dict[str, Recognition]
    refusals: dict[str, Refusal]


def flux() -> Asked:
    family = families.named("Flux.1")
    assert family is not None
    own = published.on_meta(lambda: FluxTransformer2DModel(guidance_embeds=True))
    return published.shapes_of(transformer_to_original(own, family.layout))


def with_holes(path: Path, shapes: Asked) -> Path:
    """A sound file of these tensors in Float16 whose data take no room but for its last page."""
    tensor_file(path, shapes, dtype="F16", holes=True)
    with path.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\1" * 4096)
    return path


def recognition(path: Path, runs: int) -> Recognition:
    header = read_header(path)
    return Recognition(
        tensors=len(header.tensors),
        header_ms=median_ms(lambda: read_header(path), runs),
        recognise_ms=median_ms(lambda: known(header), runs),
    )


def known(header: Header) -> None:
    used(recognise(header.tensors), header.tensors)


def median_ms(call: Callable[[], object], runs: int) -> float:
    return statistics.median(timed(call) for _ in range(runs))


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def make_files(folder: Path) -> None:
    """Each is refused for what it is called after."""
    sd15, sdxl = (
        {name: shape for asked in published.published(one).values() for name, shape in asked.items()}
        for one in ("sd15", "sdxl")
    )
    first = "model.diffusion_model.input_blocks.0.0.weight"
    with_holes(folder / "channels-small.safetensors", {**sd15, first: (320, 8, 3, 3)})
    with_holes(folder / "channels-large.safetensors", {**sdxl, first: (320, 8, 3, 3)})
    with_holes(folder / "no-vae-small.safetensors", {name: s for name, s in sd15.items() if "first_stage" not in name})
    with_holes(folder / "no-vae-large.safetensors", {name: s for name, s in sdxl.items() if "first_stage" not in name})
    with_holes(folder / "adapter.safetensors", {f"lora_unet_{n}.lora_down.weight": (64, 3072) for n in range(2000)})
    lacking = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    with_holes(folder / "tensor-small.safetensors", {name: s for name, s in sd15.items() if name != lacking})
    with_holes(folder / "tensor-large.safetensors", {name: s for name, s in sdxl.items() if name != lacking})
    wide = "first_stage_model.decoder.up.0.block.0.conv1.weight"
    with_holes(folder / "width-large.safetensors", {**sdxl, wide: (64, 256, 3, 3)})
    with_holes(folder / "flux.safetensors", flux())


def refusals(address: str, files: Iterable[Path], runs: int) -> dict[str, Refusal]:
    found = {}
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(address)
        ask(socket, {"action": "scan_models", "timeout_seconds": 600})
        for file in files:
            command = {"action": "load_model", "model_id": file.stem}
            times, code = [], ""
            for _ in range(runs):
                began = time.perf_counter()
                socket.send(json.dumps(command).encode())
                reply = json.loads(socket.recv_multipart()[0])
                times.append((time.perf_counter() - began) * 1000)
                code = reply["error"]["code"]
            median = statistics.median(times[1:])
            found[file.stem] = Refusal(bytes=file.stat().st_size, code=code, first_ms=times[0], median_ms=median)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    before = machine()
    with Server("cpu:1", make_files) as server:
        files = sorted(server.models.glob("*.safetensors"))
        known_files = {file.stem: recognition(file, options.runs) for file in files}
        for name, one in known_files.items():
            share = f"{one.recognise_ms / one.header_ms:.2f} of reading its header ({one.header_ms:.1f} ms)"
            print(
                f"{name:>16}: {one.tensors:>5} tensors, {one.recognise_ms:5.2f} ms (target {RECOGNISE_MS:g}), {share}"
            )
        refused = refusals(server.address, files, options.runs)
        for name, refusal in refused.items():
            times = f"{refusal.median_ms:7.1f} ms, the first {refusal.first_ms:.1f} (target {REFUSE_MS:g})"
            print(f"{name:>16}: {refusal.bytes / 1e9:4.1f} GB, {refusal.code}: {times}")
    print(write("families", Result(machine=before, recognition=known_files, refusals=refused)))


if __name__ == "__main__":
    main()
