"""Memory that there is, and memory that can still be had: the machine's, or what a cgroup leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings import host

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "used", "key"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_cgroup_leaves_what_is_not_used_and_the_pages_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, key: str
) -> None:
    monkeypatch.setattr(host, "_CGROUPS", tmp_path)
    (tmp_path / limit).write_text(f"{64 * MIB}\n")
    (tmp_path / used).write_text(f"{60 * MIB}\n")
    assert (host.memory_bytes(), host.available_bytes()) == (64 * MIB, 4 * MIB)
    (tmp_path / "memory.stat").write_text(f"anon 7\n{key} {50 * MIB}\n")
    assert host.available_bytes() == 54 * MIB
    (tmp_path / used).write_text(f"{120 * MIB}\n")
    assert host.available_bytes() == 0


def test_no_limit_leaves_the_machines_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert 0 < host.available_bytes() <= host.memory_bytes()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "1000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_cores_are_those_of_the_affinity_and_of_the_cgroups_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(host, "_CGROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert host.cores() == expected
