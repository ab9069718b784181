"""The catalogue as a process on a real link."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from model_bytes import SD15_NAMES, pipeline_folder, tensor_file

from catalog.session import incident
from protocol import link
from protocol.enums import Lane
from protocol.errors import ErrorCode

TOP = Path(__file__).parents[2]
PATIENCE_MS = 20_000


class Link:
    """The broker's side of the link, and the child."""

    def __init__(self, tmp_path: Path) -> None:
        self.context = zmq.Context()
        self.router: zmq.Socket[bytes] = self.context.socket(zmq.ROUTER)
        self.router.linger = 0
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.root = tmp_path / "models"
        spec = link.CatalogSpec(
            link=f"tcp://127.0.0.1:{port}",
            generation=7,
            runtime=str(tmp_path),
            data=str(tmp_path / "data"),
            model_roots=[str(self.root)],
            heartbeat_ms=50,
        )
        command = [sys.executable, "-P", "-m", "catalog", link.encode_spec(spec)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=TOP)
        self.worker = b""
        self.asked = 0

    def receive(self) -> tuple[link.FromWorker, list[bytes]]:
        assert self.router.poll(PATIENCE_MS), "the catalogue is silent"
        self.worker, header, *frames = self.router.recv_multipart()
        return link.decode_from_worker(header), frames

    def until(self, kind: type[Any]) -> tuple[Any, list[bytes]]:
        while True:
            message, frames = self.receive()
            if isinstance(message, kind):
                return message, frames

    def send(self, message: link.Message, *frames: bytes) -> None:
        self.router.send_multipart([self.worker, link.encode(message), *frames])

    def assign(self, body: bytes, action: str) -> str:
        self.asked += 1
        request_id = f"r{self.asked}"
        self.send(
            link.Assign(
                request_id=request_id,
                attempt=3,
                lane=Lane.CATALOG,
                action=action,
                spelling=link.Spelling(),
                warnings=["seen before"],
                queue_ms=5.0,
            ),
            body,
        )
        return request_id

    def ask(self, **body: Any) -> tuple[link.JobUpdate, dict[str, Any]]:
        request_id = self.assign(json.dumps(body).encode(), body["action"])
        update, frames = self.until(link.JobUpdate)
        assert (update.request_id, update.attempt) == (request_id, 3)
        return update, json.loads(frames[0])

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        if self.child.stdin is not None:
            self.child.stdin.close()
        self.router.close()
        self.context.term()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Link]:
    pipeline_folder(tmp_path / "models/sd")
    made = Link(tmp_path)
    yield made
    made.close()


def test_process_registers_scans_tells_its_models_and_is_ready(catalog: Link) -> None:
    register, _ = catalog.until(link.Register)
    assert (register.device, register.generation, register.pid) == (None, 7, catalog.child.pid)
    assert register.worker_id.encode() == catalog.worker
    assert register.worker_id.startswith("catalog/7/")
    entries, _ = catalog.until(link.CatalogEntries)
    assert entries.complete
    assert [entry.model_id for entry in entries.entries] == ["sd"]
    report, _ = catalog.until(link.Report)
    assert report.ready


def test_commands_are_answered_and_changes_told_before_their_reply(catalog: Link) -> None:
    catalog.until(link.Report)
    update, reply = catalog.ask(action="list_models")
    assert update.success
    assert (reply["request_id"], reply["warnings"]) == (update.request_id, ["seen before"])
    assert reply["timing"]["queue_ms"] == 5.0
    assert reply["timing"]["total_ms"] >= 5.0
    path = tensor_file(catalog.root / "late.safetensors", SD15_NAMES)
    catalog.assign(json.dumps({"action": "register_model", "model_path": str(path)}).encode(), "register_model")
    entries, _ = catalog.until(link.CatalogEntries)
    assert [entry.model_id for entry in entries.entries] == ["late"]
    update, _ = catalog.until(link.JobUpdate)
    assert (update.success, update.model_id) == (True, "late")
    _, reply = catalog.ask(action="scan_models")
    assert reply["added"] == []


def test_a_header_is_written_between_other_commands_and_its_faults_are_replies(catalog: Link) -> None:
    tensor_file(catalog.root / "one.safetensors", SD15_NAMES)
    catalog.until(link.Report)
    _, reply = catalog.ask(action="scan_models")
    body: dict[str, Any] = {
        "action": "update_metadata",
        "model_id": "one",
        "metadata": {"name": "New"},
        "write_header": True,
    }
    _, reply = catalog.ask(**body)
    assert (reply["success"], reply["updated_model"]["name"]) == (True, "New"), reply
    _, reply = catalog.ask(**{**body, "metadata": {"name": 7, "colour": "blue"}})
    assert set(reply["validation_results"]) == {"name", "colour"}
    _, reply = catalog.ask(**{**body, "revision": 1})
    assert (reply["error"]["code"], reply["error"]["retryable"]) == ("INVALID_ARGUMENT", True)
    _, reply = catalog.ask(**{**body, "model_id": "sd"})
    assert (reply["error"]["code"], reply["error"]["details"]["field"]) == ("NOT_SUPPORTED", "write_header")


def test_failures_are_replies_with_their_code(catalog: Link) -> None:
    catalog.until(link.Report)
    update, reply = catalog.ask(action="get_model_info", model_id="sx")
    assert (update.success, update.error_code) == (False, ErrorCode.MODEL_NOT_FOUND)
    assert (reply["success"], reply["state"], reply["message"]) == (False, "failed", reply["error"]["message"])
    update, reply = catalog.ask(action="ping")
    assert update.error_code is ErrorCode.NOT_SUPPORTED
    catalog.assign(b"\xff", "list_models")
    update, _ = catalog.until(link.JobUpdate)
    assert update.error_code is ErrorCode.MALFORMED_MESSAGE


def test_beats_and_other_commands_go_on_during_a_long_scan_which_can_be_cancelled(catalog: Link) -> None:
    for number in range(400):
        tensor_file(catalog.root / f"many/{number}.safetensors", SD15_NAMES)
    with (catalog.root / "many/big.safetensors").open("wb") as file:
        header = json.dumps({"w": {"dtype": "U8", "shape": [1 << 33], "data_offsets": [0, 1 << 33]}}).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 33))
    catalog.until(link.Report)
    scan = catalog.assign(b'{"action":"scan_models","hash":"full"}', "scan_models")
    second = catalog.assign(b'{"action":"scan_models"}', "scan_models")
    for _ in range(3):
        catalog.until(link.Beat)
    update, _ = catalog.ask(action="get_model_info", model_id="sd")
    assert update.success
    catalog.send(link.CancelJob(request_id=second, attempt=3, reason="not needed"))
    update, _ = catalog.until(link.JobUpdate)
    assert (update.request_id, update.error_code) == (second, ErrorCode.CANCELLED)
    catalog.send(link.CancelJob(request_id=scan, attempt=3, code=ErrorCode.TIMEOUT, reason="too late"))
    update, frames = catalog.until(link.JobUpdate)
    assert (update.request_id, update.error_code) == (scan, ErrorCode.TIMEOUT)
    assert json.loads(frames[0])["message"] == "too late"


def test_broker_of_a_new_epoch_is_told_everything_again(catalog: Link) -> None:
    catalog.until(link.Report)
    for epoch in ("first", "second"):
        catalog.send(link.Welcome(epoch=epoch))
        register, _ = catalog.until(link.Register)
        assert register.ready
        entries, _ = catalog.until(link.CatalogEntries)
        assert entries.complete and len(entries.entries) == 1
    catalog.send(link.Welcome(epoch="second"))
    update, _ = catalog.ask(action="list_models")
    assert update.success


@pytest.mark.parametrize("how", ["stop", "sigterm"])
def test_process_stops_cleanly_when_told(catalog: Link, how: str) -> None:
    catalog.until(link.Report)
    catalog.child.send_signal(signal.SIGINT)
    update, _ = catalog.ask(action="list_models")
    assert update.success
    if how == "stop":
        catalog.send(link.Stop(drain_seconds=5.0))
    else:
        catalog.child.terminate()
    assert catalog.child.wait(20) == 0


def test_process_ends_with_its_parent_pipe(catalog: Link) -> None:
    catalog.until(link.Report)
    assert catalog.child.stdin is not None
    catalog.child.stdin.close()
    assert catalog.child.wait(20) == -signal.SIGKILL


def test_a_table_that_is_gone_costs_its_figures_and_not_the_answer(catalog: Link) -> None:
    catalog.until(link.Report)
    data = catalog.root.parent / "data" / "catalog.sqlite3"
    other = sqlite3.connect(data)
    other.execute("DROP TABLE usage")
    other.close()
    update, reply = catalog.ask(action="get_model_info", model_id="sd")
    assert update.success and reply["model"]["id"] == "sd"


def test_an_unexpected_fault_is_opaque_and_has_an_incident() -> None:
    assign = link.Assign(request_id="r", attempt=1, lane=Lane.CATALOG, action="list_models", spelling=link.Spelling())
    info = incident(RuntimeError("a secret of the inside"), assign)
    assert info.code is ErrorCode.INTERNAL_ERROR and "secret" not in info.message
    assert info.details["incident_id"] in info.message
