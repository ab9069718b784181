"""Clients under chaos: they send, resend what stays unanswered under its own id, and note every final reply."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import msgspec
import zmq

IN_FLIGHT = 8
RESEND_SECONDS = 3.0
MODELS = 6


class Ledger:
    """What became of each command, over all clients and all lives of the broker."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.commands: dict[str, dict[str, Any]] = {}
        self.finals: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        self.accepted: set[str] = set()

    def open_ids(self) -> list[str]:
        """Commands without a final reply."""
        with self.lock:
            return [name for name in self.commands if name not in self.finals and name not in self.accepted]


class Client(threading.Thread):
    """One DEALER with some commands in flight; stops sending new ones when told, and goes on until all are answered."""

    def __init__(self, name: str, address: str, ledger: Ledger, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.ledger = ledger
        self.over = threading.Event()
        self.give_up = threading.Event()
        self._address = address
        self._random = random.Random(seed)
        self._sent = 0
        self._waiting: dict[str, float] = {}

    def run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self._address)
        while not self.give_up.is_set() and (self._waiting or not self.over.is_set()):
            while len(self._waiting) < IN_FLIGHT and not self.over.is_set():
                self._send_new(socket)
            if socket.poll(50):
                self._receive(socket)
            self._resend(socket)
        context.destroy(linger=0)

    def _command(self) -> dict[str, Any]:
        self._sent += 1
        request_id = f"{self.name}-{self._sent}"
        model = f"model-{self._random.randrange(MODELS)}"
        draw = self._random.random()
        command: dict[str, Any] = {"request_id": request_id, "model_id": model, "timeout_seconds": 60}
        if draw < 0.55:
            command |= {"action": "generate", "prompt": request_id, "steps": 3, "width": 64, "height": 64}
            command["wait_for_completion"] = self._random.random() > 0.15
        elif draw < 0.75:
            command |= {"action": "load_model"}
        elif draw < 0.8:
            command |= {"action": "unload_model"}
        elif draw < 0.9:
            command = {"action": "list_models", "request_id": request_id}
        else:
            command |= {"action": "get_vram_model_status"}
            del command["timeout_seconds"]
        return command

    def _send_new(self, socket: zmq.Socket[bytes]) -> None:
        command = self._command()
        with self.ledger.lock:
            self.ledger.commands[command["request_id"]] = command
        self._send(socket, command)

    def _send(self, socket: zmq.Socket[bytes], command: dict[str, Any]) -> None:
        self._waiting[command["request_id"]] = time.monotonic()
        try:
            socket.send(msgspec.json.encode(command), zmq.DONTWAIT)
        except zmq.Again:
            return

    def _resend(self, socket: zmq.Socket[bytes]) -> None:
        late = time.monotonic() - RESEND_SECONDS
        for request_id in [name for name, at in self._waiting.items() if at < late]:
            self._send(socket, self.ledger.commands[request_id])

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        reply = msgspec.json.decode(socket.recv_multipart()[0])
        request_id = reply["request_id"]
        self._waiting.pop(request_id, None)
        with self.ledger.lock:
            if reply["state"] == "accepted":
                self.ledger.accepted.add(request_id)
            else:
                self.ledger.finals.setdefault(request_id, []).append((time.time(), reply))
