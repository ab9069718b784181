"""The journal: what it promised before a crash it knows after it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.core.finals import KEEP_SECONDS, Accepted, Final
from broker.journal import Journal
from protocol.link import Spelling


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def final(name: str, body: bytes = b"{}", attachments: tuple[bytes, ...] = ()) -> Final:
    return Final(name, "generate", b'{"action":"generate"}', (), Spelling(), body, attachments, 0.0, True)


def accepted(name: str) -> Accepted:
    return Accepted(name, b"client", (b'{"action":"generate"}', b"image"), Spelling(), ())


def journal(folder: Path, clock: Clock, **bounds: int) -> Journal:
    return Journal(folder, clock=clock, wall=clock, **bounds)


def test_a_final_is_found_at_once_and_after_a_crash(tmp_path: Path) -> None:
    clock = Clock()
    first = journal(tmp_path, clock)
    first.keep(final("a", b"body", (b"png",)))
    assert first.find("a") is not None
    first.flush()
    again = journal(tmp_path, clock)
    found = again.find("a")
    assert found is not None and found.body == b"body" and found.attachments == (b"png",)
    assert again.find("b") is None


def test_what_was_not_flushed_was_never_promised(tmp_path: Path) -> None:
    clock = Clock()
    journal(tmp_path, clock).keep(final("a"))
    assert journal(tmp_path, clock).find("a") is None


def test_accepted_commands_survive_until_their_final(tmp_path: Path) -> None:
    clock = Clock()
    first = journal(tmp_path, clock)
    for name in ("a", "b", "c"):
        first.accept(accepted(name))
    first.keep(final("b"))
    first.flush()
    clock.now += 5
    left = journal(tmp_path, clock).unfinished()
    assert [one.request_id for one in left] == ["a", "c"]
    assert left[0].body == accepted("a").body and left[0].age_seconds == pytest.approx(5)


def test_finals_are_forgotten_after_ten_minutes_and_their_files_go(tmp_path: Path) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    one.keep(final("a"))
    one.flush()
    clock.now += KEEP_SECONDS - 1
    assert one.find("a") is not None
    one.expire(0.0)
    clock.now += 2
    assert one.find("a") is None
    one.expire(0.0)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_accepted_command_outlives_the_segment_it_was_written_to(tmp_path: Path) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    one.accept(accepted("a"))
    one.flush()
    for _ in range(30):
        clock.now += 61
        one.keep(final(f"x{clock.now}"))
        one.expire(0.0)
    one.flush()
    assert [left.request_id for left in journal(tmp_path, clock).unfinished()] == ["a"]


def test_the_oldest_go_first_beyond_the_bound(tmp_path: Path) -> None:
    clock = Clock()
    one = journal(tmp_path, clock, keep_bytes=100_000, segment_bytes=10_000)
    for index in range(60):
        one.keep(final(f"{index}", b"x" * 5000))
        one.flush()
    one.expire(0.0)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 115_000
    assert one.find("0") is None and one.find("59") is not None


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_record_cut_short_ends_its_segment_and_harms_nothing_before_it(tmp_path: Path, cut: int) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    one.keep(final("a"))
    one.keep(final("b"))
    one.flush()
    path = max(tmp_path.iterdir())
    os.truncate(path, path.stat().st_size - cut)
    again = journal(tmp_path, clock)
    assert again.find("a") is not None and again.find("b") is None


def test_a_body_that_changed_on_disk_is_not_served(tmp_path: Path) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    one.keep(final("a", b"A" * 100))
    one.keep(final("b"))
    one.flush()
    path = max(tmp_path.iterdir())
    data = path.read_bytes()
    path.write_bytes(data.replace(b"A" * 100, b"B" * 100))
    again = journal(tmp_path, clock)
    assert again.find("a") is None and again.find("b") is not None


def test_a_full_disk_leaves_finals_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    one.keep(final("a"))
    one.flush()
    assert one.find("a") is not None
    monkeypatch.setattr(os, "write", write)
    clock.now += 2
    one.flush()
    assert journal(tmp_path, clock).find("a") is not None
