"""The journal: what it promised before a crash it knows after it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker import records
from broker.core.finals import KEEP_SECONDS, Accepted, Final
from broker.journal import Journal
from protocol.link import Spelling
from settings.damage import DAMAGED


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


def test_replies_are_kept_for_as_long_as_is_configured(tmp_path: Path) -> None:
    clock = Clock()
    first = Journal(tmp_path, clock=clock, wall=clock, keep_seconds=5.0)
    first.keep(final("a"))
    first.flush()
    clock.now += 4.9
    assert first.find("a") is not None
    clock.now += 0.2
    assert first.find("a") is None


def test_ids_that_begin_so_are_found_before_and_after_a_crash(tmp_path: Path) -> None:
    clock = Clock()
    first = journal(tmp_path, clock)
    for name in ("ab", "ac", "b"):
        first.keep(final(name))
    assert sorted(first.beginning("a")) == ["ab", "ac"]
    first.flush()
    assert sorted(first.beginning("a")) == sorted(journal(tmp_path, clock).beginning("a")) == ["ab", "ac"]
    assert first.beginning("z") == []


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
    damaged = again.find("a")
    assert damaged is not None and damaged.is_damaged, "the request id is known, and is not run again"
    assert again.find("b") is not None


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


@pytest.mark.parametrize("at", range(0, 120, 3))
def test_one_flipped_byte_costs_one_record_at_most(tmp_path: Path, at: int) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    one.keep(final("first"))
    one.flush()
    begin = max(tmp_path.iterdir()).stat().st_size
    for name in ("middle", "last"):
        one.keep(final(name))
    one.flush()
    path = max(tmp_path.iterdir())
    data = bytearray(path.read_bytes())
    if begin + at >= len(data) - 1:
        pytest.skip("beyond the record")
    data[begin + at] ^= 0x55
    path.write_bytes(data)
    again = journal(tmp_path, clock)
    assert [name for name in ("first", "last") if again.find(name) is None] == []
    middle = again.find("middle")
    assert middle is None or middle.is_damaged
    if middle is None:
        assert (path.with_name(path.name + DAMAGED)).read_bytes() == bytes(data)


@pytest.mark.parametrize("content", [b"", b"x", bytes(100), b"garbage" * 1000], ids=["empty", "x", "zeros", "words"])
def test_a_file_that_is_no_segment_is_set_aside_and_the_rest_is_read(tmp_path: Path, content: bytes) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    one.keep(final("a"))
    one.flush()
    (tmp_path / "00000000.journal").write_bytes(content)
    (tmp_path / "notes.journal").write_bytes(content)
    (tmp_path / "00000077.journal").mkdir()
    again = journal(tmp_path, clock)
    assert again.find("a") is not None
    again.keep(final("b"))
    again.flush()
    assert journal(tmp_path, clock).find("b") is not None


def test_an_accepted_record_that_cannot_be_read_is_known_and_never_done(tmp_path: Path) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    one.accept(accepted("a"))
    one.flush()
    path = max(tmp_path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"image", b"imagE"))
    again = journal(tmp_path, clock)
    found = again.find("a")
    assert again.unfinished() == [] and found is not None and found.is_damaged


def test_a_journal_where_a_file_lies_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file in the way")
    one = journal(tmp_path / "journal", Clock())
    one.keep(final("a"))
    one.flush()
    assert (tmp_path / f"journal{DAMAGED}").read_text() == "a file in the way"


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_ages_follow_elapsed_time_whatever_the_days_clock_does(tmp_path: Path, jump: float) -> None:
    clock, wall = Clock(), Clock()
    one = Journal(tmp_path, clock=clock, wall=wall)
    one.keep(final("a"))
    one.accept(accepted("b"))
    one.flush()
    wall.now += jump
    clock.now += 60
    assert one.find("a") is not None
    again = Journal(tmp_path, clock=clock, wall=wall)
    assert again.find("a") is not None
    assert again.unfinished()[0].age_seconds == pytest.approx(60)


def test_after_a_restart_of_the_machine_ages_follow_the_days_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, wall = Clock(), Clock()
    one = Journal(tmp_path, clock=clock, wall=wall)
    one.accept(accepted("b"))
    one.flush()
    boot = tmp_path / "boot_id"
    boot.write_text("another start")
    monkeypatch.setattr(records, "_BOOT", boot)
    clock.now, wall.now = 5.0, wall.now + 100
    again = Journal(tmp_path, clock=clock, wall=wall)
    assert again.unfinished()[0].age_seconds == pytest.approx(100)


def test_a_segment_of_accepted_commands_alone_is_rolled_like_any_other(tmp_path: Path) -> None:
    clock = Clock()
    one = journal(tmp_path, clock, segment_bytes=1000)
    for number in range(20):
        one.accept(accepted(f"a{number}"))
        one.flush()
    assert len(list(tmp_path.iterdir())) > 2


def test_a_damaged_record_is_known_as_long_as_its_segment_is_kept(tmp_path: Path) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    one.accept(accepted("a"))
    one.keep(final("b", b"A" * 100))
    one.keep(final("c"))
    one.flush()
    path = max(tmp_path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"image", b"imagE").replace(b"A" * 100, b"B" * 100))
    again = journal(tmp_path, clock)
    assert all((found := again.find(name)) is not None and found.is_damaged for name in ("a", "b"))
    clock.now += KEEP_SECONDS + 1
    assert again.find("b") is None
    again.expire(0.0)
    assert again.find("a") is None
