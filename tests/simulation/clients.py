"""Simulated clients: each sends what real hosts send, asks again under the same id when nothing comes, and is never
satisfied with anything but a final reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from broker.core.events import ClientMessage
from tests.simulation.ledger import Entry
from tests.simulation.wire import Pipe

if TYPE_CHECKING:
    from tests.simulation.world import World

PATIENCE_SECONDS = 20.0
MOST_ASKINGS = 60
_PRIORITIES = ("Low", "Normal", "Normal", "High", "Critical")


class Client:
    """One identity. A restart of its broker costs it what was on its way; its socket keeps what it sends meanwhile."""

    def __init__(self, world: World, name: bytes) -> None:
        self.world, self.name = world, name
        self.outbound = Pipe(world.agenda, world.random, world.from_client)
        self.inbound = Pipe(world.agenda, world.random, self.receive)
        self.count = 0

    def reconnect(self) -> None:
        """The broker died: what was on its way is lost, in both directions."""
        self.outbound.close()
        self.inbound.close()
        self.outbound = Pipe(self.world.agenda, self.world.random, self.world.from_client)
        self.inbound = Pipe(self.world.agenda, self.world.random, self.receive)

    def send_new(self) -> None:
        """A fresh command."""
        world = self.world
        request_id = f"{self.name.decode()}-{self.count}"
        self.count += 1
        entry = Entry(request_id, self.name, {"request_id": request_id, **self._command()}, world.now)
        world.ledger.sent(entry)
        self.ask(entry)

    def ask(self, entry: Entry) -> None:
        """Send a command, or send it again, until its final reply is here."""
        if entry.seen or entry.asked >= MOST_ASKINGS:
            return
        entry.asked += 1
        self.outbound.send(ClientMessage(self.name, (), msgspec.json.encode(entry.payload)))
        self.world.agenda.after(PATIENCE_SECONDS, lambda: self.ask(entry))

    def receive(self, frames: tuple[bytes, ...]) -> None:
        reply = msgspec.json.decode(frames[0])
        entry = self.world.ledger.entries.get(reply["request_id"])
        if entry is not None and reply["state"] not in ("accepted", "progress"):
            entry.seen = True

    def _command(self) -> dict[str, Any]:
        pick, random = self.world.random.choice, self.world.random.random
        model = pick(self.world.models).model_id if random() < 0.98 else "unknown"
        device = pick(self.world.devices) if random() < 0.5 else ""
        fields: dict[str, Any] = {"model_id": model, "device_id": device, "priority": pick(_PRIORITIES)}
        if random() < 0.2:
            fields["wait_for_completion"] = False
        if random() < 0.3:
            fields["timeout_seconds"] = pick((0.5, 2, 10, 40))
        draw = random()
        if draw < 0.55:
            word = self.world.poison.decode() if random() < self.world.poison_share else "x"
            return {"action": "generate", "prompt": f"{word} {self.name.decode()} {self.count}", **fields}
        if draw < 0.72:
            return {"action": "load_model", "stream_progress": random() < 0.3, **fields}
        if draw < 0.80:
            return {"action": "unload_model", "force": random() < 0.3, **fields, "device_id": ""}
        if draw < 0.84:
            return {"action": "list_models"}
        if draw < 0.88:
            return {"action": "pin_model", "model_id": model, "device_id": device}
        if draw < 0.96 and self.count > 1:
            target = f"{self.name.decode()}-{self.world.random.randrange(max(0, self.count - 8), self.count)}"
            return {"action": "cancel", "target_request_id": target}
        return {"action": "ping"}
