"""The whole path on virtual devices: what any client may rely on, whoever dies."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

import psutil
import pytest
import zmq

from tests.integration.conftest import Broker, profile, serving, wait_for


def new_id() -> str:
    return uuid.uuid4().hex


def test_seed_requests_answer_in_every_spelling(virtual: Broker) -> None:
    for kind in (zmq.DEALER, zmq.REQ):
        client = virtual.connect(kind)
        snake = client.ask({"model_id": "alpha", "action": "get_model_info"})
        assert snake["success"] and snake["model"]["id"] == "alpha" and snake["model"]["size_bytes"] == 1 << 30
        camel = client.ask({"modelId": "alpha", "action": "get_model_info", "requestId": "r1"})
        assert camel["requestId"] == "r1" and camel["model"]["sizeBytes"] == 1 << 30 and camel["model"]["type"] == 2
        pascal = client.ask({"ModelId": "alpha", "Action": "get_model_info"}, msgpack=True)
        assert pascal["Success"] and pascal["Model"]["Type"] == 2 and pascal["Model"]["FileSize"] == 1 << 30


def test_seed_load_status_unload_tell_one_story(virtual: Broker) -> None:
    client = virtual.connect()
    path = client.ask({"model_id": "beta", "action": "get_model_info"})["model"]["file_path"]
    device = virtual.devices()["virtual:1"]
    loaded = client.ask(
        {
            "request_id": new_id(),
            "model_id": "beta",
            "model_path": path,
            "model_type": "SDXL",
            "device_id": device["uuid"],
            "loading_strategy": "default",
            "cache_optimized": True,
            "action": "load_model",
            "coordination_mode": "ram_to_vram",
        }
    )
    assert loaded["success"], loaded
    assert loaded["device_id"] == "virtual:1"
    assert loaded["memory_usage"] == loaded["memory"]["model_memory_bytes"] == 1 << 30
    assert loaded["coordination"]["mode"] == "ram_to_vram"
    status = client.ask(
        {
            "request_id": new_id(),
            "action": "get_vram_model_status",
            "include_memory_usage": True,
            "coordination_mode": "cache_and_vram_sync",
        }
    )
    entries = {(entry["model_id"], entry["device_id"]): entry for entry in status["models"]}
    assert entries["beta", "virtual:1"]["tier"] == "vram"
    assert entries["gamma", None]["tier"] == "disk"
    assert status["used_vram"] + status["available_vram"] == status["total_vram"] == 8 << 30
    unload = {"model_id": "beta", "device_id": "virtual:1", "force_unload": False, "action": "unload_model"}
    unloaded = client.ask(unload)
    assert unloaded["success"] and unloaded["memory_freed"] == unloaded["memory_freed_bytes"] == 1 << 30
    after = client.ask({"action": "get_vram_model_status", "model_id": "beta"})
    assert after["used_vram"] == status["used_vram"] - (1 << 30)


def test_host_dialect_of_a_load_has_the_record(virtual: Broker) -> None:
    reply = virtual.connect().ask({"Action": "load_model", "ModelId": "alpha", "Priority": 2})
    assert reply["MemoryUsage"]["ModelMemoryBytes"] == 1 << 30
    assert reply["State"] == "completed" and "LoadTimeMs" in reply and "memory_usage" not in reply


def test_second_client_is_answered_while_the_first_loads(virtual: Broker) -> None:
    first, second = virtual.connect(), virtual.connect()
    request = new_id()
    first.send({"action": "load_model", "model_id": "slow", "request_id": request})
    wait_for(lambda: second.ask({"action": "get_result", "target_request_id": request})["job_state"] == "running")
    assert second.ask({"action": "ping"})["success"]
    assert second.ask({"action": "get_vram_model_status", "model_id": "slow"})["status"] == "Loading"
    assert second.ask({"action": "list_models"})["success"]
    assert second.ask({"action": "get_result", "target_request_id": request})["job_state"] == "running"
    assert first.receive()[0]["success"]


def test_generate_reports_progress_and_gives_an_image(virtual: Broker) -> None:
    client = virtual.connect()
    command = {"action": "generate", "model_id": "slow", "prompt": "x", "steps": 4, "seed": 5, "stream_progress": True}
    client.send(command)
    steps = []
    while True:
        reply, attachments = client.receive()
        if reply["state"] != "progress":
            break
        steps.append(reply["step"])
    assert reply["success"], reply
    assert steps == sorted(steps) and steps and reply["steps_done"] == 4 and reply["seed"] == 5
    assert attachments[0].startswith(b"\x89PNG") and reply["attachments"][0]["bytes"] == len(attachments[0])


def test_cancel_stops_a_running_generate(virtual: Broker) -> None:
    client, other = virtual.connect(), virtual.connect()
    request = new_id()
    client.send({"action": "generate", "model_id": "slow", "prompt": "x", "steps": 500, "request_id": request})
    wait_for(lambda: other.ask({"action": "get_result", "target_request_id": request})["progress"])
    assert other.ask({"action": "cancel", "target_request_id": request})["outcome"] in ("cancelling", "cancelled")
    reply, _ = client.receive()
    assert reply["state"] == "cancelled" and reply["error"]["code"] == "CANCELLED"
    assert other.ask({"action": "cancel", "target_request_id": request})["outcome"] == "already_finished"
    assert other.ask({"action": "cancel", "target_request_id": "never"})["outcome"] == "unknown"


def test_deadline_fires_while_the_device_is_busy(virtual: Broker) -> None:
    client = virtual.connect()
    device = {"device_id": "virtual:0"}
    busy = new_id()
    client.send({"action": "generate", "model_id": "slow", "prompt": "x", "steps": 500, "request_id": busy, **device})
    wait_for(lambda: virtual.devices()["virtual:0"]["running"])
    late = {"action": "load_model", "model_id": "gamma", "timeout_seconds": 0.3, "request_id": "late", **device}
    reply = virtual.connect().ask(late)
    assert reply["error"]["code"] == "TIMEOUT" and reply["request_id"] == "late"
    virtual.connect().ask({"action": "cancel", "target_request_id": busy})
    assert client.receive()[0]["state"] == "cancelled"


def test_a_repeat_gets_the_same_outcome_in_its_own_spelling(virtual: Broker) -> None:
    request = new_id()
    command = {"action": "load_model", "model_id": "alpha", "request_id": request}
    first = virtual.connect().ask(command)
    pascal = {"Action": "load_model", "ModelId": "alpha", "RequestId": request}
    again = virtual.connect().ask(pascal)
    assert again["LoadedAt"] == first["loaded_at"] and again["LoadTimeMs"] == first["load_time_ms"]
    other = virtual.connect().ask({**command, "model_id": "beta"})
    assert other["error"]["code"] == "DUPLICATE_REQUEST"
    stored = virtual.connect().ask({"action": "get_result", "target_request_id": request})
    assert stored["job_state"] == "final" and stored["result"]["loaded_at"] == first["loaded_at"]


def test_not_waiting_is_accepted_at_once_and_fetched_later(virtual: Broker) -> None:
    client = virtual.connect()
    request = new_id()
    command = {"action": "load_model", "model_id": "gamma", "request_id": request, "wait_for_completion": False}
    accepted = client.ask(command)
    assert accepted["state"] == "accepted" and accepted["success"]
    query = {"action": "get_result", "target_request_id": request}
    wait_for(lambda: client.ask(query)["job_state"] == "final")
    assert client.ask(query)["result"]["success"]


def test_a_pinned_model_outlives_pressure(virtual: Broker) -> None:
    client = virtual.connect()
    on = {"device_id": "virtual:0"}
    assert client.ask({"action": "load_model", "model_id": "alpha", **on})["success"]
    assert client.ask({"action": "pin_model", "model_id": "alpha", **on})["pinned"]
    for name in ("beta", "gamma", "slow"):
        assert client.ask({"action": "load_model", "model_id": name, **on})["success"]
    held = {model["model_id"]: model for model in virtual.devices()["virtual:0"]["models"]}
    assert held["alpha"]["tier"] == "vram" and held["alpha"]["pinned"]
    assert not client.ask({"action": "unpin_model", "model_id": "alpha", **on})["pinned"]


def test_unload_everywhere_sums_what_was_freed(virtual: Broker) -> None:
    client = virtual.connect()
    for device in ("virtual:0", "virtual:1"):
        assert client.ask({"action": "load_model", "model_id": "alpha", "device_id": device})["success"]
    reply = client.ask({"action": "unload_model", "model_id": "alpha", "clear_cache": True})
    assert reply["device_id"] == "all" and reply["memory_freed"] == 2 << 30 and reply["cache_cleared"]
    nothing = client.ask({"action": "unload_model", "model_id": "alpha"})
    assert nothing["success"] and nothing["memory_freed"] == 0 and nothing["warnings"]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "MALFORMED_MESSAGE"),
        (b"nonsense", "MALFORMED_MESSAGE"),
        (b"\x93\x01\x02\x03", "MALFORMED_MESSAGE"),
        (b'{"action": "fly"}', "UNKNOWN_ACTION"),
        (b'{"action": "load_model"}', "MISSING_PARAMETER"),
        (b'{"action": "load_model", "model_id": 7}', "INVALID_ARGUMENT"),
        (b'{"action": "load_model", "model_id": "nobody"}', "MODEL_NOT_FOUND"),
        (b'{"action": "load_model", "model_id": "new", "model_path": "/etc/passwd"}', "INVALID_ARGUMENT"),
        (b'{"action": "load_model", "model_id": "alpha", "device_id": "cuda:9"}', "DEVICE_NOT_FOUND"),
        (b'{"action": "load_model", "model_id": "huge"}', "INSUFFICIENT_MEMORY"),
    ],
)
def test_bad_input_gets_its_typed_error_and_nothing_else_stops(virtual: Broker, payload: bytes, code: str) -> None:
    client = virtual.connect()
    if payload.startswith(b"\x93"):
        client.socket.send(payload)
        reply, _ = client.receive()
    else:
        reply = client.ask(payload)
    assert reply["success"] is False and reply["error"]["code"] == code, reply
    assert client.ask({"action": "ping"})["success"]


def test_killed_worker_loses_only_its_running_command(virtual: Broker) -> None:
    client, other = virtual.connect(), virtual.connect()
    before = virtual.devices()["virtual:1"]
    request = new_id()
    command = {"action": "generate", "model_id": "slow", "prompt": "x", "steps": 900, "device_id": "virtual:1"}
    client.send({**command, "request_id": request})
    wait_for(lambda: other.ask({"action": "get_result", "target_request_id": request})["progress"])
    queued = new_id()
    waiting = {"action": "load_model", "model_id": "beta", "device_id": "virtual:1", "request_id": queued}
    client.send(waiting)
    os.kill(before["pid"], signal.SIGKILL)
    lost, _ = client.receive()
    assert lost["request_id"] == request and lost["error"]["code"] == "WORKER_LOST" and lost["error"]["retryable"]
    done, _ = client.receive()
    assert done["request_id"] == queued and done["success"]
    after = virtual.devices()["virtual:1"]
    assert after["generation"] > before["generation"] and after["pid"] != before["pid"] and after["restarts"] >= 1


def test_subscriber_gets_latest_values_then_gap_free_numbers(virtual: Broker) -> None:
    socket = virtual.context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVTIMEO, 20_000)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(virtual.endpoints["events"])
    socket.subscribe(b"telemetry.virtual:0")
    import json  # noqa: PLC0415

    events = [json.loads(socket.recv_multipart()[1]) for _ in range(3)]
    numbers = [event["seq"] for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert all(event["epoch"] == virtual.endpoints["epoch"] for event in events)
    socket.close()


def test_no_child_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    profile(models, "alpha")
    with serving(tmp_path, models, devices="virtual:2") as broker:
        everyone = psutil.Process(broker.process.pid).children(recursive=True)
        assert len(everyone) == 4
        broker.process.kill()
        broker.process.wait()
        _, alive = psutil.wait_procs(everyone, timeout=10)
        assert not alive


def test_what_is_preloaded_is_there_and_comes_back_with_its_worker(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("alpha", "beta"):
        profile(models, name)
    with serving(tmp_path, models, devices="virtual:2", preload="alpha@virtual:1,beta") as broker:
        client = broker.connect()

        def held() -> dict[str, str]:
            status = client.ask({"action": "get_vram_model_status"})
            return {entry["model_id"]: entry["device_id"] for entry in status["models"] if entry["tier"] == "vram"}

        wait_for(lambda: held() == {"alpha": "virtual:1", "beta": "virtual:0"}, broker)
        pid = broker.devices()["virtual:1"]["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: broker.devices()["virtual:1"]["pid"] not in (None, pid), broker)
        wait_for(lambda: held() == {"alpha": "virtual:1", "beta": "virtual:0"}, broker)


def test_stop_answers_what_waits_and_exits_clean(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    profile(models, "slow", step_ms=100)
    profile(models, "beta")
    with serving(tmp_path, models, devices="virtual:1", drain="1") as broker:
        client = broker.connect()
        client.send({"action": "generate", "model_id": "slow", "prompt": "x", "steps": 900, "request_id": "long"})
        client.send({"action": "load_model", "model_id": "beta", "request_id": "queued"})
        query = {"action": "get_result", "target_request_id": "long"}
        wait_for(lambda: broker.connect().ask(query)["job_state"] == "running")
        assert broker.process.poll() is None
        broker.process.send_signal(signal.SIGINT)
        replies = {reply["request_id"]: reply for reply in (client.receive()[0], client.receive()[0])}
        assert replies["queued"]["error"]["code"] == "DRAINING"
        assert replies["long"]["success"] is False
        assert broker.process.wait(30) == 0
        assert not (broker.runtime / "endpoints.json").exists()


def test_killed_broker_returns_on_its_addresses_with_models_in_place(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    profile(models, "alpha")
    with serving(tmp_path, models, devices="virtual:1") as broker:
        client = broker.connect()
        assert client.ask({"action": "load_model", "model_id": "alpha"})["success"]
        worker = broker.devices()["virtual:0"]["pid"]
        process = next(child for child in broker.children if "broker" in child.cmdline())
        process.kill()
        wait_for(lambda: broker.read_endpoints()["epoch"] != broker.endpoints["epoch"])
        assert broker.read_endpoints()["commands"] == broker.endpoints["commands"]
        wait_for(lambda: broker.devices()["virtual:0"]["state"] == "ready")
        device = broker.devices()["virtual:0"]
        assert device["pid"] == worker and device["models"][0]["tier"] == "vram"


def test_a_search_answers_in_every_spelling(virtual: Broker) -> None:
    client = virtual.connect()
    snake = client.ask({"action": "search_models", "query": "alp", "page_size": 5})
    assert snake["success"] and snake["total_count"] == 1 and snake["search_time_ms"] > 0
    (found,) = snake["results"]
    assert found["model"]["id"] == "alpha" and found["highlights"] == {"name": "<em>alpha</em>"}
    assert set(found["device_compatibility"]) == set(virtual.devices())
    packed = client.ask({"Action": "SearchModels", "Query": "ALPHA", "SearchFields": [0]}, msgpack=True)
    assert packed["Success"] and packed["Results"][0]["RelevanceScore"] > 0 and packed["Facets"]["type"] == {"SDXL": 1}
    client = virtual.connect()
    assert client.ask({"action": "search_models", "query": '"', "page": 0})["error"]["code"] == "INVALID_ARGUMENT"
    assert client.ask({"action": "search_models", "query": '") OR ("'})["total_count"] == 0


def test_metadata_is_written_in_every_spelling_and_what_is_bad_is_named_as_it_was_sent(virtual: Broker) -> None:
    client = virtual.connect()
    camel = client.ask(
        {"action": "update_metadata", "modelId": "gamma", "metadata": {"Name": "Gamma One", "rating": 4.5}}
    )
    assert camel["success"] and set(camel["updatedFields"]) == {"name", "rating"}
    assert camel["updatedModel"]["name"] == "Gamma One" and camel["validationResults"] == {}
    packed = {"Action": "UpdateMetadata", "ModelId": "gamma", "Metadata": {"SourceUrl": "ftp://x", "Nmae": 1}}
    refused = client.ask(packed, msgpack=True)
    assert not refused["Success"] and set(refused["ValidationResults"]) == {"SourceUrl", "Nmae"}
    info = client.ask({"action": "get_model_info", "model_id": "gamma", "include_performance": True})
    assert info["usage_stats"]["user_rating"] == 4.5 and info["model"]["revision"] == camel["revision"]
    stale = {"action": "update_metadata", "model_id": "gamma", "metadata": {"name": "x"}, "revision": 1}
    error = client.ask(stale)["error"]
    assert (error["code"], error["retryable"], error["details"]["revision"]) == (
        "INVALID_ARGUMENT",
        True,
        camel["revision"],
    )
    back = {"action": "update_metadata", "model_id": "gamma", "metadata": {"name": None, "rating": None}}
    assert client.ask(back)["updated_model"]["name"] == "gamma"


def test_the_next_model_is_read_while_the_one_before_draws(virtual: Broker) -> None:
    client = virtual.connect()
    for model in [one["model_id"] for one in virtual.devices()["virtual:0"]["models"]]:
        command = {"action": "unload_model", "model_id": model, "device_id": "virtual:0", "clear_cache": True}
        assert client.ask(command)["success"]
    draw = {"action": "generate", "model_id": "alpha", "device_id": "virtual:0", "prompt": "x", "steps": 400}
    client.send(draw)
    client.send({"action": "load_model", "model_id": "slow", "device_id": "virtual:0"})
    drawn, loaded = client.receive()[0], client.receive()[0]
    assert drawn["success"] and loaded["success"], (drawn, loaded)
    assert loaded["cache"]["source"] == "ram"


def test_the_seeds_questions_about_a_model_are_answered_in_every_dialect(virtual: Broker) -> None:
    client = virtual.connect()
    path = client.ask({"model_id": "gamma", "action": "get_model_info"})["model"]["file_path"]
    context = {"file_exists": True, "file_size": 1 << 30, "model_type": "SDXL", "cache_available": False}
    validate = {
        "request_id": new_id(),
        "model_id": "gamma",
        "model_path": path,
        "validation_level": "comprehensive",
        "device_id": "virtual:1",
        "action": "validate_model",
        "file_validation_context": context,
    }
    found = client.ask(validate)
    assert found["success"] and found["is_valid"] and found["is_compatible"] and found["issues"] == []
    assert found["validation_results"]["memory_validation"]["details"]["total_bytes"] == 4 << 30
    pascal = client.ask({"Action": "validate_model", "ModelId": "gamma", "EstimatePerformance": True}, msgpack=True)
    assert pascal["IsCompatible"] and pascal["CompatibilityScore"] == 1.0
    assert pascal["PerformanceEstimation"]["ConfidenceScore"] == 1.0
    assert pascal["ValidationResults"]["FeatureValidations"]["enable_onnx"]["Passed"] is False

    pressure = {
        "cache_utilization": 85.2,
        "memory_pressure_detected": True,
        "model_in_cache": True,
        "cache_size_mb": 2048,
    }
    optimize = {
        "request_id": new_id(),
        "model_id": "gamma",
        "optimization_target": "performance",
        "device_id": "virtual:1",
        "action": "optimize_model",
        "coordination_mode": "cache_and_vram_optimization",
        "memory_pressure_context": {**pressure, "cache_size_mb": 2048},
    }
    made = client.ask(optimize)
    assert made["success"] and made["vram_usage_after"] == 1 << 30 and made["memory_freed"] == 0
    assert made["coordination"]["honoured"] == ["coordination_mode", "memory_pressure_context"]
    assert made["results"]["original_size_bytes"] == 1 << 30 and made["optimized_model"] is None
    camel = client.ask(
        {"action": "optimize_model", "modelId": "gamma", "target": 1, "level": 4, "saveOptimized": False}
    )
    assert camel["results"]["optimizationsApplied"] == [] and len(camel["options"]) == 5

    benchmark = {
        "model_id": "gamma",
        "benchmark_type": "Performance",
        "device_id": "virtual:1",
        "action": "benchmark_model",
    }
    small = {"configuration": {"inference_steps": 1, "test_resolutions": True}, "warmup_runs": 0, "benchmark_runs": 2}
    measured = client.ask({**benchmark, **small, "device_id": "virtual:1"})
    assert measured["success"] and measured["avg_inference_time"] > 0 and measured["memory_peak"] >= 1 << 30
    assert len(measured["results"]["benchmark_configuration"]["variants"]) == 3
    shaped = {"InferenceSteps": 1, "InputWidth": 64, "InputHeight": 64}
    told = client.ask(
        {"Action": "benchmark_model", "ModelId": "gamma", "WarmupRuns": 0, "BenchmarkRuns": 2, "Configuration": shaped}
    )
    stats = told["Results"]["InferenceTimeStats"]
    assert stats["Minimum"] <= stats["Average"] <= stats["Percentile95"] <= stats["Percentile99"] <= stats["Maximum"]
    counted = client.ask({"action": "get_model_info", "model_id": "gamma", "include_performance": True})
    assert counted["model"]["performance"]["total_inferences"] == 4


def test_a_file_that_nobody_registered_is_validated_and_stays_unknown(virtual: Broker, tmp_path: Path) -> None:
    client = virtual.connect()
    folder = Path(client.ask({"model_id": "alpha", "action": "get_model_info"})["model"]["file_path"]).parent
    path = folder / "new.vmodel.json"
    path.write_text((folder / "alpha.vmodel.json").read_text())
    try:
        known = client.ask({"action": "validate_model", "model_id": "newcomer", "model_path": str(path)})
        assert known["success"] and known["is_valid"] and known["model_id"] == "newcomer"
        assert client.ask({"action": "get_model_info", "model_id": "newcomer"})["error"]["code"] == "MODEL_NOT_FOUND"
        other = client.ask({"action": "validate_model", "model_id": "alpha", "model_path": str(path)})
        assert other["error"]["code"] == "INVALID_ARGUMENT" and other["error"]["details"]["field"] == "model_path"
    finally:
        path.unlink()
    gone = client.ask({"action": "validate_model", "model_path": str(path)})
    assert gone["success"] and not gone["is_valid"] and gone["issues"][0]["code"] == "MODEL_NOT_FOUND"
    outside = client.ask({"action": "validate_model", "model_path": str(tmp_path / "x.vmodel.json")})
    assert outside["error"]["code"] == "INVALID_ARGUMENT"
