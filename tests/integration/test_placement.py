"""Plans that come true, hot models that spread, and estimates that outlive the broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.core.estimates import Estimates
from broker.notebook import FILE_NAME
from tests.integration.conftest import Broker, profile, serving, wait_for

GIB = 1 << 30


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Two virtual devices of 2 GiB with models of 1 GiB; one takes long to draw."""
    folder = tmp_path_factory.mktemp("placement")
    models = folder / "models"
    models.mkdir()
    for name in ("alpha", "beta", "gamma"):
        profile(models, name)
    profile(models, "hot", load_ms=50, step_ms=20)
    profile(models, "huge", size_bytes=3 * GIB)
    with serving(folder, models, devices="virtual:2", vram="2GiB", ram="0", drain="5") as broker:
        yield broker


def test_a_plan_comes_true_with_its_evictions(placed: Broker) -> None:
    client, on = placed.connect(), {"device_id": "virtual:0"}
    for name in ("alpha", "beta"):
        assert client.ask({"action": "load_model", "model_id": name, **on})["success"]
    plan = client.ask({"action": "plan", "model_id": "gamma", **on})
    assert plan["success"] and plan["fits"], plan
    assert plan["bytes_needed"] == GIB and plan["estimated_ms"] == pytest.approx(50, abs=1)
    assert plan["evictions"] == [{"model_id": "alpha", "bytes": GIB}]
    assert client.ask({"action": "load_model", "model_id": "gamma", "request_id": "load-gamma", **on})["success"]
    told = client.ask({"action": "explain", "target_request_id": "load-gamma"})
    assert told["chosen"] == "virtual:0" and told["evictions"] == plan["evictions"]
    elsewhere = client.ask({"action": "plan", "model_id": "alpha"})
    assert elsewhere["device_id"] == "virtual:1" and elsewhere["evictions"] == []


def test_a_hot_model_is_loaded_on_the_second_device_too(placed: Broker) -> None:
    client, other = placed.connect(), placed.connect()
    assert client.ask({"action": "load_model", "model_id": "hot"})["success"]
    command = {"action": "generate", "model_id": "hot", "prompt": "x", "steps": 25}
    for number in range(4):
        client.send({**command, "request_id": f"hot-{number}"})
    replies = [client.receive()[0] for _ in range(4)]
    assert all(reply["success"] for reply in replies)
    assert {reply["device_id"] for reply in replies} == {"virtual:0", "virtual:1"}
    told = other.ask({"action": "explain", "target_request_id": "hot-1"})
    scores = {candidate["device_id"]: candidate["score"] for candidate in told["candidates"]}
    assert scores[told["chosen"]] == min(scores.values())


def test_what_no_device_can_hold_is_refused_before_it_waits(placed: Broker) -> None:
    client = placed.connect()
    reply = client.ask({"action": "load_model", "model_id": "huge"})
    assert reply["error"]["code"] == "INSUFFICIENT_MEMORY" and not reply["error"]["retryable"]
    assert reply["error"]["details"]["needed_bytes"] == 3 * GIB
    plan = client.ask({"action": "plan", "model_id": "huge"})
    assert plan["success"] and not plan["fits"]


def test_estimates_outlive_the_broker_and_a_broken_file_does_not_stop_it(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    profile(models, "alpha")
    kept = tmp_path / "data" / FILE_NAME
    settings = {"devices": "virtual:1", "data": str(tmp_path / "data")}
    with serving(tmp_path / "first", models, **settings) as broker:
        assert broker.connect().ask({"action": "generate", "model_id": "alpha", "prompt": "x", "steps": 3})["success"]
    assert b"alpha" in Estimates(kept.read_bytes()).encode()
    kept.write_bytes(b"nonsense")
    with serving(tmp_path / "second", models, **settings) as broker:
        assert broker.connect().ask({"action": "load_model", "model_id": "alpha"})["success"]
        wait_for(lambda: kept.read_bytes() != b"nonsense", broker)
