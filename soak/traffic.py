"""The clients of a soak: plain sockets, every frame in the ledger, commands sent again where a careful client would.

One thread. Nothing of the client library is used: it hides repeated answers, and they are what is looked for.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

from soak.ledger import Entry, Ledger, Outcome

CONNECTIONS = 4
UNDER_WAY = 12
RESEND_SECONDS = 8.0
"""Silence after which a command is sent again; by a client of this project after 15."""

PATIENCE_SECONDS = 90.0
SEEDS = (1, 2, 3)
STEPS = (1, 2, 4)
CANCEL_SHARE = 0.04
PROMPTS = ("a boat", "a lighthouse")
OF_THE_CATALOGUE = ("list_models", "get_model_info")
FINAL = ("completed", "failed", "cancelled", "accepted")
GARBAGE = (
    b"",
    b"\xff\xfe\xfd",
    b"{",
    b"[1,2,3]",
    b'{"action":',
    b'{"action":"fly"}',
    b'{"action":"generate"}',
    b'{"action":"load_model","model_id":7}',
    b'{"action":"cancel","target_request_id":["x"]}',
    b'{"a":' * 200 + b"1" + b"}" * 200,
    b"\x93\x01\x02\x03",
    b"\x00" * 70_000,
)


class Traffic:
    """Keeps commands under way. `turn` is called often; `models` are (id, whether it is a profile)."""

    def __init__(self, endpoint: str, models: Sequence[tuple[str, bool]], ledger: Ledger, *, seed: int) -> None:
        self._endpoint, self._models, self._ledger = endpoint, list(models), ledger
        self._random = random.Random(f"{seed}/traffic")
        self._run = f"soak{seed}"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._connections = [self._connect() for _ in range(CONNECTIONS)]
        self._vandal = self._connect()
        self._frames: dict[str, list[bytes]] = {}
        self._resend_at: dict[str, float] = {}
        self._number = 0
        self.devices: dict[str, Any] = {}
        """The newest reply of `list_devices`."""
        self.devices_asked_at = 0.0
        """When the question was sent that it answers."""
        self.catalogue_at = 0.0
        """When the newest question was sent that the catalogue has answered."""
        self._asked_at: dict[str, float] = {}

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 0
        socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 1000
        socket.connect(self._endpoint)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def turn(self, *, send: bool) -> None:
        """Read what came for a moment; where `send`, keep commands under way."""
        now = time.monotonic()
        while send and len(self._resend_at) < UNDER_WAY:
            self._send_one(now)
        for socket, _ in self._poller.poll(20):
            self._read(socket)
        for request_id in [one for one, at in self._resend_at.items() if at <= now]:
            self.send_again(request_id)

    # sending

    def _send_one(self, now: float) -> None:
        rng = self._random
        model, is_profile = rng.choice(self._models)
        draw = rng.random()
        if draw < 0.62:
            self._draw(model, is_profile, now)
        elif draw < 0.74:
            self.send({"action": "load_model", "model_id": model, "force": rng.random() < 0.1}, now)
        elif draw < 0.82:
            self.send({"action": "unload_model", "model_id": model, "clear_cache": rng.random() < 0.3}, now)
        elif draw < 0.86:
            self.send({"action": "validate_model", "model_id": model, "validation_level": "basic"}, now)
        else:
            action = rng.choice(("list_models", "get_vram_model_status", "ping", "hello", "plan", "get_model_info"))
            named = {"model_id": model} if action in ("plan", "get_model_info") else {}
            self.send({"action": action, **named}, now)

    def _draw(self, model: str, is_profile: bool, now: float) -> None:
        """A picture: of a seed, which has to be the same bytes every time, or of none, which tells a second run."""
        rng = self._random
        steps, prompt = rng.choice(STEPS), rng.choice(PROMPTS)
        command: dict[str, Any] = {"action": "generate", "model_id": model, "prompt": prompt, "steps": steps}
        command |= {"width": 64, "height": 64, "allow_degraded": False}
        if rng.random() < 0.7:
            seed = rng.choice(SEEDS)
            kind = "virtual" if is_profile else "real"
            self.send({**command, "seed": seed}, now, drawn=(kind, model, prompt, str(steps), str(seed)))
        else:
            self.send(command, now)

    def send(self, command: dict[str, Any], now: float, drawn: tuple[str, ...] | None = None) -> str:
        """Send a command on one of the connections; its id."""
        self._number += 1
        request_id = f"{self._run}-{self._number}"
        connection = self._number % CONNECTIONS
        frames = [msgspec.json.encode({**command, "request_id": request_id})]
        entry = Entry(
            request_id=request_id,
            action=command["action"],
            sent_at=now,
            drawn=drawn,
            connection=connection,
        )
        self._ledger.sent(entry)
        self._frames[request_id] = frames
        self._resend_at[request_id] = now + RESEND_SECONDS
        self._connections[connection].send_multipart(frames)
        if self._random.random() < CANCEL_SHARE:
            cancel = {"action": "cancel", "target_request_id": request_id, "request_id": f"{request_id}-c"}
            self._connections[connection].send(msgspec.json.encode(cancel))
        return request_id

    def send_again(self, request_id: str) -> None:
        """The same command with its id, on the connection that stands in its place now."""
        entry = self._ledger.entries[request_id]
        self._ledger.sent_again(request_id, entry.connection)
        self._resend_at[request_id] = time.monotonic() + RESEND_SECONDS
        self._connections[entry.connection].send_multipart(self._frames[request_id])

    # faults that clients make

    def reconnect(self, pick: float) -> None:
        """A client goes with commands under way; half of them are asked for again by its successor."""
        index = int(pick * CONNECTIONS)
        old, self._connections[index] = self._connections[index], self._connect()
        self._poller.unregister(old)
        old.close(0)
        for entry in [entry for entry in self._ledger.open() if entry.connection == index]:
            if self._random.random() < 0.5:
                self.send_again(entry.request_id)
            else:
                self._ledger.abandon(entry.request_id)
                self._forget(entry.request_id)

    def bad_input(self, pick: float) -> None:
        """Frames that are no commands, or ask for what there is not."""
        for index in range(5):
            garbage = GARBAGE[int(pick * 1000 + index * 7) % len(GARBAGE)]
            self._vandal.send_multipart([garbage] * (1 + index % 3))

    def too_large(self, pick: float) -> None:
        """A load for which a share of the device has no room."""
        model = self._models[int(pick * len(self._models))][0]
        configuration = {"memory_optimization": {"memory_fraction": 1e-6}}
        command = {"action": "load_model", "model_id": model, "configuration": configuration}
        self.send(command, time.monotonic())

    def ask_devices(self) -> None:
        """Look at the devices; the answer is in `devices` when it has come."""
        self._number += 1
        request_id = f"soak-devices-{self._number}"
        self._asked_at[request_id] = time.monotonic()
        self._vandal.send(msgspec.json.encode({"action": "list_devices", "request_id": request_id}))

    # what comes back

    def _read(self, socket: zmq.Socket[bytes]) -> None:
        while True:
            try:
                payload, *frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                reply = msgspec.json.decode(payload)
            except msgspec.DecodeError:
                continue
            if socket is self._vandal:
                asked_at = self._asked_at.pop(str(reply.get("request_id")), None)
                if asked_at is not None and reply.get("success"):
                    self.devices, self.devices_asked_at = reply, asked_at
                continue
            self._answered(reply, frames)

    def _answered(self, reply: dict[str, Any], frames: list[bytes]) -> None:
        request_id, state = reply.get("request_id"), reply.get("state")
        if state not in FINAL or not isinstance(request_id, str) or request_id.endswith("-c"):
            return
        error = reply.get("error") or {}
        digests = tuple(hashlib.sha256(frame).hexdigest() for frame in frames)
        outcome = Outcome(str(state), str(error.get("code", "")), reply.get("seed"), digests)
        self._ledger.answered(request_id, outcome, time.monotonic())
        entry = self._ledger.entries.get(request_id)
        if entry is not None and entry.action in OF_THE_CATALOGUE and state == "completed":
            self.catalogue_at = max(self.catalogue_at, entry.sent_at)
        self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        self._frames.pop(request_id, None)
        self._resend_at.pop(request_id, None)

    def close(self) -> None:
        """End every connection."""
        self._context.destroy(linger=0)
