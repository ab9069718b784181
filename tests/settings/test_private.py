"""A broker of one's own is told nothing by others' settings."""

from __future__ import annotations

import os

import pytest

from settings.private import environment


def test_others_settings_are_left_out_and_those_kept_and_told_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"PATH": "/bin", "VRAMBROKER_MODELS": "/m", "VRAMBROKER_DEVICES": "cpu:1", "VRAMBROKER_KEY": "k"}
    monkeypatch.setattr(os, "environ", own)
    told = environment({"RUNTIME": "/r", "DEVICES": "cpu:2"}, keep=("MODELS", "DEVICES", "VRAM"))
    assert told == {
        "PATH": "/bin",
        "VRAMBROKER_MODELS": "/m",
        "VRAMBROKER_DEVICES": "cpu:2",
        "VRAMBROKER_RUNTIME": "/r",
    }
