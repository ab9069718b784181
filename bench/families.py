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

import torch
import zmq
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from msgspec import Struct
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench.beside import ask
from bench.record import Machine, machine, write
from bench.rigs import Server
from demo.original import (
    SD15_CLIP_PREFIX,
    SDXL_CLIP_PREFIX,
    SDXL_OPEN_CLIP_PREFIX,
    clip_to_original,
    open_clip_to_original,
    transformer_to_original,
    unet_to_original,
    vae_to_original,
)
from modelfiles import families
from modelfiles.headers import Header, read_header
from modelfiles.recognition import recognise, used

CONFIGURATIONS = families.CONFIGURATIONS
RECOGNISE_MS, REFUSE_MS = 2.0, 50.0
"""The targets."""

Shapes = dict[str, tuple[int, ...]]


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


def on_meta(make: Callable[[], torch.nn.Module]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(make().state_dict())


def unet(folder: str) -> Shapes:
    config = json.loads((CONFIGURATIONS / folder / "unet" / "config.json").read_text())
    tensors = unet_to_original(on_meta(lambda: UNet2DConditionModel.from_config(config)), config["layers_per_block"])
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def flux() -> Shapes:
    family = families.named("Flux.1")
    assert family is not None
    tensors = transformer_to_original(on_meta(lambda: FluxTransformer2DModel(guidance_embeds=True)), family.layout)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def vae() -> Shapes:
    config = json.loads((CONFIGURATIONS / "sd15" / "vae" / "config.json").read_text())
    made = vae_to_original(on_meta(lambda: AutoencoderKL.from_config(config)), 4)
    return {name: tuple(tensor.shape) for name, tensor in made.items()}


def encoder(folder: str, part: str, prefix: str) -> Shapes:
    """A text encoder's tensors, OpenCLIP's where it is the second."""
    path = CONFIGURATIONS / folder / part / "config.json"
    cls = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
    own = on_meta(lambda: cls(CLIPTextConfig.from_json_file(path)))
    made = open_clip_to_original(own, prefix) if part == "text_encoder_2" else clip_to_original(own, prefix)
    return {name: tuple(tensor.shape) for name, tensor in made.items()}


def with_holes(path: Path, shapes: Shapes) -> Path:
    """A sound file of these tensors in Float16 whose data take no room but for its last page."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        begin, count = end, 1
        for side in shape:
            count *= side
        end += 2 * count
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)
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
    small, large = unet("sd15"), unet("sdxl")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    sd15 = {**small, **vae(), **encoder("sd15", "text_encoder", SD15_CLIP_PREFIX)}
    sdxl = {
        **large,
        **vae(),
        **encoder("sdxl", "text_encoder", SDXL_CLIP_PREFIX),
        **encoder("sdxl", "text_encoder_2", SDXL_OPEN_CLIP_PREFIX),
    }
    with_holes(folder / "channels-small.safetensors", {**sd15, first: (320, 8, 3, 3)})
    with_holes(folder / "channels-large.safetensors", {**sdxl, first: (320, 8, 3, 3)})
    with_holes(folder / "no-vae-small.safetensors", {name: s for name, s in sd15.items() if "first_stage" not in name})
    with_holes(folder / "no-vae-large.safetensors", {name: s for name, s in sdxl.items() if "first_stage" not in name})
    with_holes(folder / "adapter.safetensors", {f"lora_unet_{n}.lora_down.weight": (64, 3072) for n in range(2000)})
    lacking = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    with_holes(folder / "tensor-small.safetensors", {name: s for name, s in sd15.items() if name != lacking})
    with_holes(folder / "tensor-large.safetensors", {name: s for name, s in sdxl.items() if name != lacking})
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
