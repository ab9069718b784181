"""Recoveries as command lines: each is one that the command line takes, and what a line cannot say has none."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from protocol.errors import Recovery
from protocol.recovery import command_line

SPLIT = {"memory_optimization": {"enable_model_splitting": True}}


@pytest.mark.parametrize(
    ("action", "parameters", "line"),
    [
        ("load_model", {"model_id": "m", "configuration": {"precision": "Int8"}}, "vrambroker load m --precision Int8"),
        (
            "load_model",
            {"model_id": "m", "device_id": "cpu:1", "configuration": SPLIT},
            "vrambroker load m --splitting --device cpu:1",
        ),
        ("load_model", {"model_id": "m", "priority": "Normal"}, "vrambroker load m --priority Normal"),
        (
            "unload_model",
            {"model_id": "m", "device_id": "cuda:0", "force": True},
            "vrambroker unload m --device cuda:0 --force",
        ),
        ("unpin_model", {"model_id": "m", "device_id": "cuda:0"}, "vrambroker unpin m --device cuda:0"),
        ("list_models", {}, "vrambroker models"),
        ("list_devices", {}, "vrambroker devices"),
        ("resume_device", {"device_id": "cpu:0"}, "vrambroker resume cpu:0"),
        ("get_model_info", {"model_id": "m"}, "vrambroker info m"),
    ],
)
def test_a_recovery_is_a_line_that_the_command_line_takes(action: str, parameters: dict[str, Any], line: str) -> None:
    assert command_line(Recovery(action=action, description="", parameters=parameters)) == line
    result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--help"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("action", "parameters"),
    [
        ("load_component", {"model_id": "m", "component": "controlnet"}),
        ("generate", {"model_id": "m", "allow_degraded": True}),
        ("load_model", {"model_id": "m", "configuration": {"parameters": {"x": 1}}}),
        ("load_model", {"model_id": "m", "keep_alive": 3}),
        ("load_model", {}),
        ("list_models", {"page": 2}),
        ("generate", {"delivery": "attachment"}),
    ],
)
def test_what_a_line_cannot_say_has_none(action: str, parameters: dict[str, Any]) -> None:
    assert command_line(Recovery(action=action, description="", parameters=parameters)) == ""
