"""Health and metrics of a whole broker, asked over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from client import Client, CommandFailed
from reference.pages import DOCS
from tests.integration.conftest import Broker, profile, serving, wait_for


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("web")
    models = folder / "models"
    models.mkdir()
    profile(models, "m")
    with serving(folder / "broker", models, WEB="127.0.0.1:0", DEVICES="virtual:2") as broker:
        wait_for(lambda: get(broker, "/health/live")[0] == 200, broker)
        yield broker


def get(broker: Broker, path: str) -> tuple[int, str]:
    """The status and body of a page."""
    try:
        with urllib.request.urlopen(broker.read_endpoints()["web"] + path, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def ready(broker: Broker) -> tuple[int, Any]:
    status, body = get(broker, "/health/ready")
    return status, json.loads(body)


def samples(broker: Broker) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of a scrape, by its name and labels."""
    families = text_string_to_metric_families(get(broker, "/metrics")[1])
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(broker: Broker, name: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels."""
    wanted = set(labels.items())
    return sum(found for (own, having), found in samples(broker).items() if own == name and wanted <= having)


def test_its_address_stands_in_the_file_and_nobody_else_knows_of_it(broker: Broker) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", broker.endpoints["web"])
    assert set(broker.devices()) == {"virtual:0", "virtual:1"}


def test_a_live_broker_says_how_fast_it_answered(broker: Broker) -> None:
    status, body = get(broker, "/health/live")
    told = json.loads(body)
    assert status == 200 and told["status"] == "alive" and told["epoch"] == broker.endpoints["epoch"]
    assert told["ping_ms"] > 0


def test_it_is_ready_while_a_device_takes_work(broker: Broker) -> None:
    status, told = ready(broker)
    assert (status, told["status"]) == (200, "ready") and told["devices"]["virtual:0"] == "ready"


def test_metrics_are_what_happened(broker: Broker) -> None:
    before = value(broker, "vrambroker_commands_total", action="generate", outcome="completed")
    with Client(broker.endpoints["commands"]) as client:
        client.generate("m", "a boat", steps=2, device_id="virtual:0")
        with pytest.raises(CommandFailed):
            client.load("nobody")
    assert value(broker, "vrambroker_up") == 1
    assert value(broker, "vrambroker_commands_total", action="generate", outcome="completed") == before + 1
    assert value(broker, "vrambroker_commands_total", action="load_model", outcome="MODEL_NOT_FOUND") == 1
    assert value(broker, "vrambroker_command_seconds_count", action="generate") == before + 1
    assert value(broker, "vrambroker_command_seconds_bucket", action="generate", le="+Inf") == before + 1
    assert value(broker, "vrambroker_device_models", device="virtual:0", tier="vram") == 1
    assert value(broker, "vrambroker_device_memory_used_bytes", device="virtual:0") > 1 << 29
    assert value(broker, "vrambroker_device_state", device="virtual:0", state="ready") == 1
    assert value(broker, "vrambroker_device_state", device="virtual:0") == 1, "one state at a time"


def test_labels_are_bounded_and_what_there_is_not_is_absent(broker: Broker) -> None:
    found = samples(broker)
    known = {"device", "uuid", "name", "kind", "state", "level", "tier", "action", "outcome", "le", "version", "epoch"}
    assert {label for _, labels in found for label, _ in labels} <= known
    assert not any(name == "vrambroker_device_temperature_celsius" for name, _ in found), "a virtual device has none"


def test_every_metric_stands_in_the_docs(broker: Broker) -> None:
    page = (DOCS / "metrics.md").read_text()
    families = {family.name for family in text_string_to_metric_families(get(broker, "/metrics")[1])}
    named = set(re.findall(r"^\| `(vrambroker[a-z_]*?)(?:_total|_info)?`", page, re.MULTILINE))
    assert families - {"vrambroker", "vrambroker_device"} <= named | {f"{name}_info" for name in named}


def test_pages_that_there_are_not_are_404(broker: Broker) -> None:
    assert get(broker, "/nothing")[0] == 404
    assert "/metrics" in json.loads(get(broker, "/")[1])["pages"]


def web_process(broker: Broker) -> psutil.Process:
    children = psutil.Process(broker.process.pid).children()
    return next(child for child in children if "web" in child.cmdline()[2:5])


def test_a_web_server_that_dies_is_back_at_the_same_address(broker: Broker) -> None:
    killed = web_process(broker)
    killed.kill()
    killed.wait(10)
    wait_for(lambda: get(broker, "/health/live")[0] == 200, broker)
    assert broker.read_endpoints()["web"] == broker.endpoints["web"]
    assert value(broker, "vrambroker_worker_restarts_total") == 0, "it is no worker"


def test_a_broker_that_answers_nothing_is_not_alive(broker: Broker) -> None:
    children = psutil.Process(broker.process.pid).children()
    process = next(child for child in children if "broker" in child.cmdline()[2:5])
    os.kill(process.pid, signal.SIGSTOP)
    try:
        status, body = get(broker, "/health/live")
        assert status == 503 and json.loads(body)["status"] == "dead"
        assert ready(broker)[0] == 503
        assert value(broker, "vrambroker_up") == 0
    finally:
        os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: get(broker, "/health/live")[0] == 200, broker)


def test_a_broker_whose_devices_are_drained_is_not_ready(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("admin = true\n")
    models = tmp_path / "models"
    models.mkdir()
    settings = {"WEB": "127.0.0.1:0", "DEVICES": "virtual:1", "CONFIG": str(config)}
    with serving(tmp_path / "broker", models, **settings) as broker:
        wait_for(lambda: get(broker, "/health/ready")[0] == 200, broker)
        with Client(broker.endpoints["commands"]) as client:
            client.drain_device("virtual:0")
        status, told = ready(broker)
        assert status == 503 and told == {"status": "no device takes work", "devices": {"virtual:0": "drained"}}
        assert get(broker, "/health/live")[0] == 200


def test_an_address_that_is_taken_costs_the_web_server_alone(broker: Broker, tmp_path: Path) -> None:
    taken = broker.endpoints["web"].removeprefix("http://")
    models = tmp_path / "models"
    models.mkdir()
    with serving(tmp_path / "second", models, WEB=taken, DEVICES="virtual:1") as second:
        assert second.endpoints["web"] is None
        assert "no web server: its address cannot be had" in second.log.read_text()
    with serving(tmp_path / "third", models, WEB="off", DEVICES="virtual:1") as third:
        assert third.endpoints["web"] is None
