"""What NVML tells of a GPU, through a stand-in for its library: readings, what is absent, MIG instances, a lost GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protocol.enums import PressureLevel

GIB = 1 << 30
ROOT = Path(__file__).parents[2]
WHOLE, DIVIDED = "GPU-11111111-0000-0000-0000-000000000000", "GPU-22222222-0000-0000-0000-000000000000"
INSTANCES = ["MIG-aaaaaaaa-0000-0000-0000-000000000000", "MIG-bbbbbbbb-0000-0000-0000-000000000000"]
SENSORS = ("utilization", "temperature_c", "power_w", "energy_j")

READ = """
import json, sys
import msgspec
from protocol.link import WorkerSpec
from ramtier.tier import PrivateTier
from worker.devices.cuda import CudaDevice
from worker.engine import Engine

state, uuid, *turns = sys.argv[1:]
def turn(text):
    with open(state, "w") as file:
        file.write(text)
turn("")
spec = WorkerSpec(device_id="cuda:0", link="", generation=1, runtime="/nowhere", outputs="/nowhere", model_roots=[],
                  budget_bytes=0, ram_budget_bytes=0, heartbeat_ms=50, telemetry_ms=200, cuda_uuid=uuid)
engine = Engine(spec, CudaDevice(spec), lambda message: None, ram=PrivateTier(0))
samples = []
for text in turns:
    turn(text)
    samples.append(engine.sample())
print(msgspec.json.encode([engine.device.identity(), samples, engine.fatal]).decode())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stand-in."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("NO C COMPILER: what NVML tells is not tested here")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml_standin.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def run(library: Path, code: str, *arguments: str) -> Any:
    """What a process prints that has the stand-in for NVML; JSON."""
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(library),
        "NVML_STANDIN": str(library / "state"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def read(library: Path, uuid: str, *turns: str) -> tuple[dict[str, Any], list[Any], str]:
    """The device's identity, a sample for each state that the GPU was in, and why its worker would end."""
    identity, samples, fatal = run(library, READ, str(library / "state"), uuid, *turns)
    return identity, samples, fatal


def test_every_reading_of_a_gpu_is_told_in_its_unit(library: Path) -> None:
    identity, (sample,), fatal = read(library, WHOLE, "")
    assert (identity["name"], identity["uuid"], identity["total_vram"]) == ("Stand-in 1", WHOLE, 80 * GIB)
    assert [sample[name] for name in SENSORS] == [0.37, 61.0, 312.5, 9876.543]
    assert sample["gpu"] == {
        "driver_reserved_bytes": 512 << 20,
        "uncorrected_ecc_errors": 3,
        "throttle_reasons": ["software power cap", "hardware thermal slowdown"],
        "processes": [{"pid": 4711, "bytes": 3 * GIB}],
    }
    assert sample["memory"]["free"] == 80 * GIB - GIB - (512 << 20)
    assert sample["memory"]["total"] == sample["memory"]["used"] + sample["memory"]["free"]
    assert set(sample["missing"]) - {"host.psi", "host.cgroup"} == {"torch"} and not fatal


def test_a_gpu_that_fills_up_is_seen_at_the_next_sample(library: Path) -> None:
    _, (before, after), _ = read(library, WHOLE, "", f"used {78 * GIB}")
    assert before["memory_pressure"]["level"] == PressureLevel.NORMAL.value
    assert after["memory_pressure"]["level"] == PressureLevel.CRITICAL.value


def test_what_a_card_lacks_is_null_with_its_reason_and_never_nought(library: Path) -> None:
    _, (sample,), fatal = read(library, WHOLE, "bare 1")
    for name in SENSORS:
        assert sample[name] is None and "Not Supported" in sample["missing"][name]
    for name in ("uncorrected_ecc_errors", "throttle_reasons", "processes"):
        assert sample["gpu"][name] is None and "Not Supported" in sample["missing"][f"gpu.{name}"]
    assert sample["memory"]["total"] == 80 * GIB and not fatal


def test_a_process_in_a_container_has_no_bytes(library: Path) -> None:
    _, (sample,), _ = read(library, WHOLE, "hidden 1")
    assert sample["gpu"]["processes"] == [{"pid": 4711, "bytes": None}]


def test_an_older_driver_tells_the_memory_and_not_its_own_part(library: Path) -> None:
    _, (sample,), _ = read(library, WHOLE, "first_version 1")
    assert sample["memory"]["free"] == 80 * GIB - GIB - (512 << 20)
    assert sample["gpu"]["driver_reserved_bytes"] is None
    assert "Function Not Found" in sample["missing"]["gpu.driver_reserved_bytes"]


def test_a_mig_instance_has_its_own_memory_and_its_gpus_temperature(library: Path) -> None:
    identity, (sample,), fatal = read(library, INSTANCES[1], "")
    assert (identity["total_vram"], identity["uuid"]) == (40 * GIB, INSTANCES[1])
    assert sample["memory"]["total"] == 40 * GIB and not fatal
    assert sample["temperature_c"] == 61.0 and sample["gpu"]["uncorrected_ecc_errors"] == 3
    assert sample["power_w"] is None and sample["energy_j"] is None and sample["utilization"] is None
    for name in ("power_w", "energy_j"):
        assert "MIG instance" in sample["missing"][name]


def test_a_lost_gpu_has_no_sample_and_ends_its_worker_with_the_reason(library: Path) -> None:
    _, (before, after), fatal = read(library, WHOLE, "", "lost 1")
    assert before is not None and after is None
    assert "GPU is lost" in fatal


FIND = """
import json
from broker.devices import gpus
print(json.dumps([[gpu.uuid, gpu.instances] for gpu in gpus()]))
"""


def test_a_divided_gpu_is_found_as_its_instances(library: Path) -> None:
    assert run(library, FIND) == [[WHOLE, []], [DIVIDED, INSTANCES]]
