"""The comparison with peers is one of equals: same bytes, and nobody left out in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import broker, rigs
from bench.peers import echo, environments
from bench.peers.__main__ import PEERS


def without_number(command: bytes) -> bytes:
    return re.sub(rb"\d{12}", b"#", command)


def test_peers_are_sent_and_send_what_the_brokers_benchmark_does() -> None:
    assert without_number(echo.command()) == without_number(broker.command())
    assert len(echo.command()) == broker.PAYLOAD_BYTES
    assert echo.REPLY == rigs.REPLY


def test_a_wrong_reply_is_no_figure() -> None:
    with pytest.raises(SystemExit, match="not the 300 bytes"):
        echo.check(b'{"success":false}')


def test_percentiles_are_of_the_sorted_round_trips() -> None:
    figures = echo.figures(64, [trip / 1e6 for trip in range(100, 0, -1)], 0.5)
    assert (round(figures.p50_us), round(figures.p99_us), figures.per_second) == (51, 100, 200)


@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_has_a_script_and_one_version_of_everything(peer: str) -> None:
    pins = (environments.REQUIREMENTS / f"{peer}.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert not any(pin.startswith("torch") for pin in pins)
    assert Path(environments.__file__).with_name(f"{peer}_echo.py").exists()


def test_a_peer_that_cannot_be_installed_gives_pips_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "absent.txt").write_text(f"absent==1 @ {(tmp_path / 'absent.whl').as_uri()}\n")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "peers")
    assert environments.install("absent").startswith("not installed: ")
    assert not (tmp_path / "peers" / "absent" / ".ready").exists()
