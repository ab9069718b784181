"""A recording keeps what was asked, or without anybody's words, and can be asked again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import replaying, trace
from loadgen.scenario import ScenarioError

HEAD = trace.Head(started_at="2026-01-01T00:00:00+00:00", scrubbed=False)


def written(path: Path, *lines: trace.Line) -> Path:
    with path.open("wb") as stream:
        for line in (HEAD, *lines):
            trace.write(stream, line)
    return path


def command(
    payload: dict[str, Any], *attachments: bytes, at: float = 0.0, client: int = 1, **how: Any
) -> trace.Command:
    body = msgspec.json.encode(payload)
    return trace.command(at, client, body, list(attachments), scrub=False)


DRAW = {"action": "generate", "request_id": "r", "prompt": "my secret", "metadata": {"a": ["b", 3]}, "steps": 4}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    answer = trace.Answer(at=1.0, client=1, request_id="r", state="completed", success=True)
    path = written(tmp_path / "a", command(DRAW, b"png"), answer)
    assert list(trace.read(path)) == [command(DRAW, b"png"), answer]
    assert trace.restored(command(DRAW, b"png")) == (DRAW, [b"png"])


def test_messagepack_is_kept_as_it_came_and_restored() -> None:
    kept = trace.command(0.0, 1, msgspec.msgpack.encode(DRAW), [], scrub=False)
    assert kept.payload is None and trace.restored(kept) == (DRAW, [])


def test_what_is_no_command_is_kept_and_never_replayed() -> None:
    kept = trace.command(0.0, 1, b"\xff\x00nonsense", [], scrub=False)
    assert kept.packed is not None and trace.restored(kept) == (None, [])


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_a_scrubbed_command_has_nobodys_words_and_their_lengths(encode: Any) -> None:
    named = {**DRAW, "NegativePrompt": "ugly", "attachments": [{"name": "i", "media_type": "image/png", "bytes": 3}]}
    kept = trace.command(0.0, 1, encode(named), [b"png"], scrub=True)
    text = msgspec.json.encode(kept).decode()
    assert "secret" not in text and "ugly" not in text and "cG5n" not in text
    payload, frames = trace.restored(kept)
    assert payload is not None and payload["prompt"] == "x" * 9 and payload["NegativePrompt"] == "xxxx"
    assert payload["metadata"] == {"a": ["x", 3]} and payload["steps"] == 4
    assert frames == [trace.PICTURE] and payload["attachments"][0]["bytes"] == len(trace.PICTURE)
    assert trace.command(0.0, 1, b"garbage of mine", [], scrub=True).packed is None


def test_a_recording_that_was_cut_ends_there_and_a_bad_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a", command(DRAW), command(DRAW, at=1.0))
    path.write_bytes(path.read_bytes()[:-10])
    assert len(list(trace.read(path))) == 1
    lines = written(tmp_path / "b", command(DRAW)).read_bytes()
    (tmp_path / "b").write_bytes(lines + b"{nonsense}\n")
    with pytest.raises(ScenarioError, match="line 3"):
        list(trace.read(tmp_path / "b"))


@pytest.mark.parametrize("text", ["", "{}\n", '{"kind":"head","format":"other","started_at":"","scrubbed":false}\n'])
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(ScenarioError, match=str(tmp_path)):
        list(trace.read(tmp_path / "a"))


def test_a_version_of_tomorrow_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(msgspec.json.encode(msgspec.structs.replace(HEAD, version=9)) + b"\n")
    with pytest.raises(ScenarioError, match="version 9"):
        list(trace.read(tmp_path / "a"))


def test_ids_are_of_this_run_and_still_lead_to_one_another() -> None:
    first = replaying.renamed({"action": "generate", "RequestId": "a"}, "run", 1)
    other = replaying.renamed({"action": "cancel", "target_request_id": "a", "request_id": None}, "run", 2)
    assert first["RequestId"] == other["target_request_id"] == "run-a"
    assert replaying.id_of(first) == "run-a" and replaying.id_of(other) == "run-n2"
    assert first["conventions"] == {"naming": "snake", "enums": "name"}
    assert len(replaying.new_id("x" * 128, "run")) == 128


def test_a_replay_goes_as_fast_as_it_is_told_and_processes_share_the_clients(tmp_path: Path) -> None:
    lines = [command(DRAW, at=float(number), client=number % 3) for number in range(9)]
    path = written(tmp_path / "a", *lines)
    scenario = replaying.scenario_of(path, speed=4.0, processes=2)
    assert scenario.stages[0].seconds == pytest.approx(8 / 4 + replaying.TAIL_SECONDS)
    shares = [replaying.commands_of(scenario, process, "run") for process in range(2)]
    assert sorted(one.client % 2 for one in shares[0]) == [0] * len(shares[0])
    assert len(shares[0]) + len(shares[1]) == 9
    assert [one.at for one in shares[1]] == [0.25, 1.0, 1.75]
    with pytest.raises(ScenarioError, match="speed is 0"):
        replaying.scenario_of(path, speed=0.0)
    with pytest.raises(ScenarioError, match="has no commands"):
        replaying.scenario_of(written(tmp_path / "b"))
