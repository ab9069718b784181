"""What moving a whole Stable Diffusion 1.5 costs: disk to device, host memory to device and back, and a picture on it.

`python -m bench.residency [--device cuda] [--runs 5] [--steps 20] [--side 512]`: a whole `vrambroker serve` over a
model of the real size with random weights in Float16 (2.1 GB, just written, so that it is in the page cache), driven by
the client; beside it, in a process of its own, what diffusers takes for the same folder. The ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench.record import Machine, machine, write
from bench.rigs import Server
from client.sync import Client

ROOT = Path(__file__).parents[1]
FAMILY = ROOT / "modelfiles" / "configurations" / "sd15"
MODEL = "sd15-random"
PATIENCE_SECONDS = 600.0


class Move(Struct, frozen=True, kw_only=True):
    """Milliseconds of each run, as the client sees them, and gigabytes a second at their median."""

    median_ms: float
    least_ms: float
    gigabytes_per_second: float
    phases_ms: dict[str, float]


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    device: str
    model_bytes: int
    from_disk: Move
    from_ram: Move
    to_ram: Move
    already_there: Move
    picture: Move
    diffusers_disk_ms: float
    diffusers_picture_ms: float
    disk_ratio: float
    picture_ratio: float


def make(folder: Path, device: str) -> None:
    """The folder of the model, its random weights drawn on the device."""
    import torch  # noqa: PLC0415 - not for the process that measures
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: PLC0415
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    from demo.tokenizer import clip_tokenizer, write_clip_tokenizer  # noqa: PLC0415

    def config(part: str) -> dict[str, Any]:
        return dict(json.loads((FAMILY / part / "config.json").read_text()))

    with torch.device(device):
        unet = UNet2DConditionModel.from_config(config("unet"))
        vae = AutoencoderKL.from_config(config("vae"))
        encoder = CLIPTextModel(CLIPTextConfig.from_dict(config("text_encoder")))
    tokenizer = clip_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler.from_config(json.loads((FAMILY / "scheduler/scheduler_config.json").read_text())),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16)
    pipeline.save_pretrained(folder)
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    write_clip_tokenizer(folder / "tokenizer", tokenizer.pad_token)


def alone(folder: Path, device: str, runs: int, steps: int, side: int) -> tuple[list[float], list[float]]:
    """Milliseconds that diffusers takes to load the folder onto the device, and to draw."""
    import torch  # noqa: PLC0415
    from diffusers import StableDiffusionPipeline  # noqa: PLC0415

    loads, draws = [], []
    for _ in range(runs):
        began = time.perf_counter()
        pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16, local_files_only=True)
        pipeline.to(device)
        if device == "cuda":
            torch.cuda.synchronize()
        loads.append((time.perf_counter() - began) * 1000)
        pipeline.set_progress_bar_config(disable=True)
        began = time.perf_counter()
        pipeline("a boat", num_inference_steps=steps, width=side, height=side, output_type="np")
        draws.append((time.perf_counter() - began) * 1000)
        del pipeline
    return loads, draws


def move(trips: list[tuple[float, Any]], size: int) -> Move:
    """One kind of move from its round trips in milliseconds and their replies; the first is warm-up."""
    times = [ms for ms, _ in trips[1:]]
    timing = trips[-1][1].timing
    phases = {
        name: getattr(timing, name) for name in timing.__struct_fields__ if isinstance(getattr(timing, name), float)
    }
    median = statistics.median(times)
    rate = size / median / 1e6
    return Move(median_ms=median, least_ms=min(times), gigabytes_per_second=rate, phases_ms=phases)


def timed(call: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    reply = call()
    return (time.perf_counter() - began) * 1000, reply


def measure(client: Client, runs: int, steps: int, side: int) -> tuple[int, dict[str, Move]]:
    """Every move, `runs` times and one more before."""
    device = next(iter(client.devices().devices)).device_id
    trips: dict[str, list[tuple[float, Any]]] = {}

    def note(name: str, call: Any) -> Any:
        trip = timed(call)
        trips.setdefault(name, []).append(trip)
        return trip[1]

    size = 0
    for _ in range(runs + 1):
        loaded = note("from_disk", lambda: client.load(MODEL, device_id=device, timeout_seconds=PATIENCE_SECONDS))
        size = loaded.memory_usage
        note("already_there", lambda: client.load(MODEL, device_id=device))
        note("picture", lambda: client.generate(MODEL, "a boat", steps=steps, width=side, height=side, seed=1).reply)
        note("to_ram", lambda: client.unload(MODEL, device_id=device))
        note("from_ram", lambda: client.load(MODEL, device_id=device))
        client.unload(MODEL, device_id=device, clear_cache=True)
    return size, {name: move(list(each), size) for name, each in trips.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--role", choices=["make", "alone"], help="what a child of this command does")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.role == "make":
        make(options.folder, options.device)
        return
    if options.role == "alone":
        print(json.dumps(alone(options.folder, options.device, options.runs + 1, options.steps, options.side)))
        return
    report(options)


def report(options: argparse.Namespace) -> None:
    """Measure, print and write down."""
    before = machine()
    words = [f"--{name}={getattr(options, name)}" for name in ("device", "runs", "steps", "side")]
    models = Path()

    def child(role: str, folder: Path) -> str:
        command = [sys.executable, "-P", "-m", "bench.residency", "--role", role, "--folder", str(folder), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout

    def make_models(folder: Path) -> None:
        nonlocal models
        models = folder
        child("make", folder / MODEL)

    devices = "cuda:0" if options.device == "cuda" else "cpu:1"
    budget = {} if options.device == "cuda" else {"vram": "16GiB"}
    with Server(devices, make_models, **budget) as server:
        with Client(server.address) as client:
            name = next(iter(client.devices().devices)).name
            size, moves = measure(client, options.runs, options.steps, options.side)
        loads, draws = json.loads(child("alone", models / MODEL).splitlines()[-1])
    disk, picture = statistics.median(loads[1:]), statistics.median(draws[1:])
    result = Result(
        machine=before,
        device=name,
        model_bytes=size,
        **moves,
        diffusers_disk_ms=disk,
        diffusers_picture_ms=picture,
        disk_ratio=moves["from_disk"].median_ms / disk,
        picture_ratio=moves["picture"].median_ms / picture,
    )
    print(f"{name}: {size / 1e9:.2f} GB")
    for kind, one in moves.items():
        print(f"{kind:14} {one.median_ms:9.1f} ms  {one.gigabytes_per_second:6.2f} GB/s  least {one.least_ms:.1f} ms")
    print(f"diffusers alone: from disk {disk:.1f} ms, a picture {picture:.1f} ms")
    print(f"ratios: from disk {result.disk_ratio:.2f}, a picture {result.picture_ratio:.2f}")
    print(write("residency", result))


if __name__ == "__main__":
    main()
