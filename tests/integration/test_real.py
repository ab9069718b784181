"""The whole path with real diffusers models on cpu devices."""

from __future__ import annotations

import io
import os
import shutil
import signal
import uuid
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.conftest import Broker, serving, wait_for

SMALL = {"width": 64, "height": 64, "steps": 2}


def test_load_generate_unload_measures_what_it_says(real: Broker) -> None:
    client = real.connect()
    loaded = client.ask({"action": "load_model", "model_id": "tiny-sd15", "device_id": "cpu:0"})
    assert loaded["success"], loaded
    used = real.devices()["cpu:0"]["used_vram"]
    assert used >= loaded["memory_usage"] > 0
    client.send({"action": "generate", "model_id": "tiny-sd15", "prompt": "a seven", "seed": 3, **SMALL})
    reply, attachments = client.receive()
    assert reply["success"], reply
    image = Image.open(io.BytesIO(attachments[0]))
    assert image.size == (64, 64) and len(image.getcolors(1 << 16) or [0, 0]) > 1
    assert reply["device_id"] == "cpu:0" and reply["timing"]["denoise_ms"] > 0
    unloaded = client.ask({"action": "unload_model", "model_id": "tiny-sd15", "clear_cache": True})
    assert unloaded["memory_freed"] == loaded["memory_usage"]
    assert real.devices()["cpu:0"]["used_vram"] == used - loaded["memory_usage"]


def test_precision_changes_the_bytes_and_says_so(real: Broker) -> None:
    client = real.connect()
    sizes = {}
    for precision in ("Float32", "BFloat16"):
        command = {"action": "load_model", "model_id": "tiny-sd15", "device_id": "cpu:1"}
        reply = client.ask({**command, "configuration": {"precision": precision}})
        assert reply["success"], reply
        sizes[precision] = reply["memory_usage"]
        option = next(option for option in reply["options"] if option["option"] == "precision")
        assert option["requested"] == precision and option["applied"]
    assert sizes["BFloat16"] < 0.6 * sizes["Float32"]


def test_flags_act_with_evidence_or_say_why_not(real: Broker) -> None:
    configuration = {
        "MemoryOptimization": {"EnableAttentionSlicing": True},
        "PerformanceOptimization": {"EnableTensorRT": True},
        "Parameters": {"magic": 1},
    }
    command = {"Action": "load_model", "ModelId": "tiny-sdxl", "Configuration": configuration}
    reply = real.connect().ask(command)
    assert reply["Success"], reply
    options = {option["Option"]: option for option in reply["Options"]}
    assert options["enable_attention_slicing"]["Applied"] and options["enable_attention_slicing"]["Evidence"]
    for name in ("enable_tensor_rt", "parameters.magic"):
        assert options[name]["Applied"] is False and options[name]["Reason"]


@pytest.mark.parametrize("model", ["tiny-sdxl", "tiny-flux", "tiny-sd3", "tiny-sdxl-single", "tiny-sd15-single"])
def test_every_family_draws(real: Broker, model: str) -> None:
    client = real.connect()
    client.send({"action": "generate", "model_id": model, "prompt": "a house", "seed": 1, **SMALL})
    reply, attachments = client.receive()
    assert reply["success"], reply
    assert Image.open(io.BytesIO(attachments[0])).size == (64, 64)


def test_equal_seeds_give_equal_bytes_and_others_do_not(real: Broker) -> None:
    client = real.connect()
    seen = []
    for seed in (7, 7, 8):
        client.send({"action": "generate", "model_id": "tiny-sd15", "prompt": "x", "seed": seed, **SMALL})
        seen.append(client.receive()[1][0])
    assert seen[0] == seen[1] != seen[2]


def test_image_to_image_starts_from_the_attachment(real: Broker) -> None:
    source = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(source, "PNG")
    data = source.getvalue()
    client = real.connect()
    drawn = []
    for strength in (0.5, 1.0):
        command = {"action": "generate", "model_id": "tiny-sd15", "prompt": "x", "seed": 1, "strength": strength}
        named = [{"name": "image-0", "media_type": "image/png", "bytes": len(data)}]
        client.send({**command, **SMALL, "steps": 4, "attachments": named}, data)
        reply, attachments = client.receive()
        assert reply["success"], reply
        drawn.append(attachments[0])
    assert drawn[0] != drawn[1]


def test_deliveries_carry_the_same_bytes(real: Broker) -> None:
    import base64  # noqa: PLC0415
    import hashlib  # noqa: PLC0415

    client = real.connect()
    command = {"action": "generate", "model_id": "tiny-sd15", "prompt": "x", "seed": 9, **SMALL}
    client.send({**command, "delivery": "attachment"})
    reply, attachments = client.receive()
    digest = hashlib.sha256(attachments[0]).hexdigest()
    assert reply["images"][0]["sha256"] == digest
    by_path = client.ask({**command, "delivery": "path"})["images"][0]
    assert Path(by_path["path"]).is_relative_to(real.runtime / "outputs")
    assert hashlib.sha256(Path(by_path["path"]).read_bytes()).hexdigest() == digest
    inline = client.ask({**command, "delivery": "base64"})["images"][0]
    assert hashlib.sha256(base64.b64decode(inline["data"])).hexdigest() == digest


def test_worker_killed_while_it_draws_is_lost_and_replaced(real: Broker) -> None:
    client, other = real.connect(), real.connect()
    before = real.devices()["cpu:1"]
    request = uuid.uuid4().hex
    command = {"action": "generate", "model_id": "tiny-sd15", "prompt": "x", "width": 64, "height": 64, "steps": 3000}
    client.send({**command, "device_id": "cpu:1", "request_id": request})
    wait_for(lambda: other.ask({"action": "get_result", "target_request_id": request})["progress"])
    os.kill(before["pid"], signal.SIGKILL)
    reply, _ = client.receive()
    assert reply["error"]["code"] == "WORKER_LOST"
    wait_for(lambda: real.devices()["cpu:1"]["state"] == "ready")
    assert real.devices()["cpu:1"]["generation"] > before["generation"]


def test_bad_files_are_refused_by_their_kind(real: Broker, model_root: Path) -> None:
    client = real.connect()
    scratch = model_root / f"scratch-{uuid.uuid4().hex[:8]}"
    scratch.mkdir()
    try:
        whole = (model_root / "tiny-sd15-single.safetensors").read_bytes()
        (scratch / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
        (scratch / "code.ckpt").write_bytes(b"\x80\x04\x95 pickle")
        for name, code in (("cut.safetensors", "MODEL_CORRUPTED"), ("code.ckpt", "UNSAFE_MODEL")):
            command = {"action": "load_model", "model_id": f"bad-{code.lower()}", "model_path": str(scratch / name)}
            reply = client.ask(command)
            assert reply["error"]["code"] == code, reply
    finally:
        shutil.rmtree(scratch)


def test_single_file_that_fits_no_configuration_says_what_is_missing(real: Broker, model_root: Path) -> None:
    lonely = model_root / f"lonely-{uuid.uuid4().hex[:8]}.safetensors"
    shutil.copy(model_root / "tiny-sd15-single.safetensors", lonely)
    try:
        command = {"action": "load_model", "model_id": lonely.stem, "model_path": str(lonely)}
        reply = real.connect().ask(command)
        assert reply["error"]["code"] == "MODEL_LOADING_FAILED", reply
        assert "config_path" in reply["message"]
    finally:
        lonely.unlink()


def test_two_workers_have_one_ram_tier(real: Broker) -> None:
    """What one lets go weighs once, whoever is asked; and goes with the last that holds it."""
    client = real.connect()

    def tier() -> dict[str, int]:
        asked = {"action": "get_vram_model_status", "coordination_mode": "cache_and_vram_sync"}
        found: dict[str, int] = client.ask(asked)["coordination"]["ram_tier"]
        return found

    for name, device in real.devices().items():
        for model in device["models"]:
            command = {"action": "unload_model", "model_id": model["model_id"], "device_id": name, "clear_cache": True}
            assert client.ask(command)["success"]
    wanted = {"model_id": "tiny-sd21", "configuration": {"precision": "Float16"}}
    for device in ("cpu:0", "cpu:1"):
        loaded = client.ask({"action": "load_model", "device_id": device, **wanted})
        assert loaded["success"], loaded
        assert client.ask({"action": "unload_model", "model_id": "tiny-sd21", "device_id": device})["success"]
    assert loaded["cache"]["source"] == "ram" and tier()["budget_bytes"] == 256 << 20
    freed = [
        client.ask({"action": "unload_model", "model_id": "tiny-sd21", "device_id": device, "clear_cache": True})
        for device in ("cpu:0", "cpu:1")
    ]
    assert freed[0]["ram_freed"] == 0
    assert loaded["memory_usage"] <= freed[1]["ram_freed"] < 1.1 * loaded["memory_usage"]


def test_the_model_of_a_killed_worker_is_back_from_ram(real: Broker) -> None:
    """And so it is for a worker of another device: one copy is there for all."""
    client = real.connect()
    draw = {"action": "generate", "model_id": "tiny-sdxl", "prompt": "a house", "seed": 5, **SMALL}
    client.send({**draw, "device_id": "cpu:0"})
    first = client.receive()[1]
    assert client.ask({"action": "unload_model", "model_id": "tiny-sdxl", "device_id": "cpu:0"})["success"]
    before = real.devices()["cpu:0"]
    os.kill(before["pid"], signal.SIGKILL)
    wait_for(lambda: real.devices()["cpu:0"]["generation"] > before["generation"])
    wait_for(lambda: real.devices()["cpu:0"]["state"] == "ready")
    for device in ("cpu:0", "cpu:1"):
        loaded = client.ask({"action": "load_model", "model_id": "tiny-sdxl", "device_id": device})
        assert loaded["success"] and loaded["cache"]["source"] == "ram", loaded
        client.send({**draw, "device_id": device})
        assert client.receive()[1] == first
    for device in ("cpu:0", "cpu:1"):
        client.ask({"action": "unload_model", "model_id": "tiny-sdxl", "device_id": device, "clear_cache": True})


def test_an_optimised_model_is_known_by_its_name_when_the_reply_comes(tmp_path: Path, model_root: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(model_root / "tiny-sd15", models / "tiny-sd15")
    with serving(tmp_path, models, devices="cpu:1", vram="256MiB", ram="256MiB") as broker:
        client = broker.connect()
        parameters = {"steps": 1, "prompts": ["a boat"], "budget_seconds": 60}
        command = {"action": "optimize_model", "model_id": "tiny-sd15", "target": "Memory", "parameters": parameters}
        made = client.ask({**command, "optimized_model_name": "small"})
        assert made["success"], made
        path = str(models / "optimized" / "small")
        assert (made["optimized_model"]["id"], made["optimized_model"]["file_path"]) == ("small", path)
        info = client.ask({"action": "get_model_info", "model_id": "small"})
        assert info["success"] and info["model"]["file_path"] == path
        client.send({"action": "generate", "model_id": "small", "prompt": "x", "seed": 1, **SMALL})
        reply, attachments = client.receive()
        assert reply["success"] and attachments, reply
        again = client.ask({**command, "optimized_model_name": "small"})
        assert again["error"]["code"] == "INVALID_ARGUMENT"
