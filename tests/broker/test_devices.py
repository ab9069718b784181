"""Which CUDA devices a service takes: those that the operator left visible, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import devices
from broker.devices import Gpu, find_devices, visible
from protocol.enums import DeviceKind
from settings.config import DeviceRequest, Settings
from settings.config import devices as requests
from settings.file import ConfigError

UUIDS = [f"GPU-0000000{index}-0000-0000-0000-000000000000" for index in range(4)]
PLAIN = [Gpu(uuid=uuid) for uuid in UUIDS]
SMALL, LARGE = "MIG-aaaaaaaa-0000-0000-0000-000000000000", "MIG-bbbbbbbb-0000-0000-0000-000000000000"
DIVIDED = [PLAIN[0], Gpu(uuid=UUIDS[1], instances=[SMALL, LARGE])]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, UUIDS),
        ("", []),
        ("2", [UUIDS[2]]),
        ("3,1", [UUIDS[3], UUIDS[1]]),
        (" 0 , 2 ", [UUIDS[0], UUIDS[2]]),
        (UUIDS[2], [UUIDS[2]]),
        ("GPU-00000003", [UUIDS[3]]),
        (f"gpu-00000001,{UUIDS[0]}", [UUIDS[1], UUIDS[0]]),
        ("GPU-0000", []),
        ("1,-1,2", [UUIDS[1]]),
        ("7", []),
        ("1,7,2", [UUIDS[1]]),
        ("1,1", [UUIDS[1]]),
        ("nonsense", []),
        ("NoDevFiles", []),
    ],
)
def test_the_mask_is_read_as_cuda_reads_it(mask: str | None, expected: list[str]) -> None:
    assert visible(mask, PLAIN) == expected


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, [UUIDS[0], SMALL, LARGE]),
        (LARGE, [LARGE]),
        ("MIG-aaaa", [SMALL]),
        ("1", [SMALL, LARGE]),
        (UUIDS[1], [SMALL, LARGE]),
        (f"{LARGE},0", [LARGE, UUIDS[0]]),
    ],
)
def test_the_instances_of_a_divided_gpu_are_devices(mask: str | None, expected: list[str]) -> None:
    assert visible(mask, DIVIDED) == expected


def settings(mask: str | None, wanted: tuple[DeviceRequest, ...] | None = None) -> Settings:
    here = Path("/nowhere")
    return Settings(runtime=here, data=here, outputs=here, devices=wanted, cuda_visible=mask)


@pytest.fixture(autouse=True)
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: PLAIN)


def test_devices_are_numbered_among_those_that_are_visible() -> None:
    found = find_devices(settings("2,0"))
    assert [(one.request.device_id, one.cuda_uuid) for one in found] == [("cuda:0", UUIDS[2]), ("cuda:1", UUIDS[0])]


def test_nothing_visible_means_cpu_devices() -> None:
    assert {one.request.kind for one in find_devices(settings(""))} == {DeviceKind.CPU}


def test_a_device_beyond_those_visible_is_refused_naming_the_mask() -> None:
    with pytest.raises(ConfigError, match="cuda:1: there are 1 CUDA devices, and CUDA_VISIBLE_DEVICES is '2'"):
        find_devices(settings("2", (DeviceRequest(kind=DeviceKind.CUDA, index=1),)))


@pytest.mark.parametrize(
    ("kinds", "there", "chosen", "expected"),
    [
        ("cpu:2", 16, 0, [8, 8]),
        ("cpu:3", 16, 0, [5, 5, 5]),
        ("cpu:4", 2, 0, [1, 1, 1, 1]),
        ("cpu:1", 16, 0, [16]),
        ("cpu:2", 16, 3, [3, 3]),
        ("virtual:2", 16, 0, [0, 0]),
        ("virtual:2", 16, 3, [0, 0]),
    ],
)
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, kinds: str, there: int, chosen: int, expected: list[int]
) -> None:
    monkeypatch.setattr(devices, "cores", lambda: there)
    wanted = Settings(
        runtime=Path("/r"), data=Path("/d"), outputs=Path("/o"), devices=requests(kinds), worker_threads=chosen
    )
    assert [found.threads for found in find_devices(wanted)] == expected


def test_gpus_and_other_devices_may_stand_side_by_side() -> None:
    found = find_devices(settings("2,0", requests("cuda:1;virtual:1;cpu:1")))
    assert [(one.request.device_id, one.cuda_uuid) for one in found] == [
        ("cuda:1", UUIDS[0]),
        ("virtual:0", ""),
        ("cpu:0", ""),
    ]
    assert [bool(one.threads) for one in found] == [True, False, True]
