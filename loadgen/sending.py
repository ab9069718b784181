"""One process of the load: sends what the plan says when it says it, and notes what comes back.

One thread, one poll loop, plain DEALER sockets. Every reply is read just as far as its figures go.
"""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import zmq
from msgspec import Struct

from client.curve import CurveKeys
from loadgen.messages import Progress
from loadgen.plan import Choice, Wanted, arrivals, share
from loadgen.replaying import action_of, commands_of, id_of
from loadgen.scenario import Scenario, Stage
from loadgen.tally import STAGE, UNASKED, Span, Tally

MOST_AT_ONCE = 200
"""Commands sent, or replies read, before the other has its turn."""

SPIN_SECONDS = 0.0015
"""A poll waits whole milliseconds: what is due sooner is waited for awake."""

WATCH_SECONDS = 0.1
LOADING = ("read_ms", "build_ms", "promote_ms")
WARM_UP = -1
PROBE = "probe"


class Error(Struct, frozen=True):
    code: str = ""
    message: str = ""


class Answered(Struct, frozen=True):
    """What is read of a reply."""

    request_id: str | None = None
    success: bool = False
    state: str = ""
    device_id: str | None = None
    error: Error | None = None
    timing: dict[str, float] = {}


class Client:
    """A connection, how many commands it has sent and waits for, and whether another has taken its place."""

    __slots__ = ("retired", "socket", "used", "waiting")

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket, self.used, self.waiting, self.retired = socket, 0, 0, False


class Flight:
    """A command under way."""

    __slots__ = ("action", "client", "intended", "sent", "stage")

    def __init__(self, action: str, client: Client, stage: int, intended: float, sent: float) -> None:
        self.action, self.client, self.stage, self.intended, self.sent = action, client, stage, intended, sent


class Sender:
    """A share of a scenario's load. `run` returns when all is answered, given up, or `stop` was called."""

    def __init__(
        self,
        endpoint: str,
        scenario: Scenario,
        *,
        run: str,
        process: int = 0,
        keys: CurveKeys | None = None,
        tell: Callable[[Progress], None] | None = None,
    ) -> None:
        self.tally = Tally()
        self._scenario, self._process, self._keys, self._endpoint = scenario, process, keys, endpoint
        self._tell = tell
        self._name = f"{run}-{process}"
        self._choice = Choice(scenario, process)
        self._recorded = commands_of(scenario, process, run) if scenario.recording else None
        self._named_clients: dict[int, Client] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._clients = [self._connect() for _ in range(max(1, share(scenario.clients, process, scenario.processes)))]
        self._probe = self._connect()
        self._flights: OrderedDict[str, Flight] = OrderedDict()
        self._cancels: list[tuple[float, str]] = []
        self._number = 0
        self._under_way = 0
        self._start = 0.0
        self._zero = 0.0
        """When counting begins, after the warm-up."""
        self._ends: dict[int, float] = {}
        self._stage = WARM_UP
        self._stopped = False
        self._lag = 0.0
        self._watch_at = 0.0
        self._probe_at = 0.0
        self._decode = msgspec.json.Decoder(Answered).decode
        self._encode = msgspec.json.Encoder().encode

    def stop(self) -> None:
        """End the run now; what is under way counts as dropped."""
        self._stopped = True

    def run(self, start: float) -> Tally:
        """The whole run, its beginning by the monotonic clock."""
        self._start = self._watch_at = self._probe_at = start
        self._zero = start + self._scenario.warm_up_seconds
        while (now := time.monotonic()) < start and not self._stopped:
            time.sleep(min(0.05, start - now))
        begin = start
        for index, stage in self._stages():
            self._stage = index
            self._ends[index] = begin + stage.seconds + self._scenario.slo_seconds
            self._drive(stage, index, begin)
            begin += stage.seconds
        self._wait_for_the_rest()
        for flight in self._flights.values():
            self._note(flight, "dropped")
        self._context.destroy(linger=0)
        return self.tally

    def _stages(self) -> Iterator[tuple[int, Stage]]:
        scenario = self._scenario
        if scenario.warm_up_seconds > 0:
            first = scenario.stages[0]
            yield WARM_UP, Stage(seconds=scenario.warm_up_seconds, rate=first.rate, concurrency=first.concurrency)
        yield from enumerate(scenario.stages)

    def _drive(self, stage: Stage, index: int, begin: float) -> None:
        """One stage, to its end."""
        end = begin + stage.seconds
        due = (begin + at for at in self._moments(stage, index))
        wanted = share(stage.concurrency, self._process, self._scenario.processes)
        next_at = next(due, end)
        while not self._stopped and (now := time.monotonic()) < end:
            sent = 0
            while next_at <= now and next_at < end and sent < MOST_AT_ONCE:
                self._send(next_at, now)
                next_at, now, sent = next(due, end), time.monotonic(), sent + 1
            while not stage.is_open and self._under_way < wanted and sent < MOST_AT_ONCE:
                self._send(now, now)
                sent += 1
            self._turn(min(next_at, end), busy=sent == MOST_AT_ONCE)

    def _moments(self, stage: Stage, index: int) -> Iterable[float]:
        """Seconds from the stage's beginning at which something is to be sent."""
        if self._recorded is not None:
            return [one.at for one in self._recorded]
        return arrivals(self._scenario, stage, self._process, index) if stage.is_open else ()

    def _wait_for_the_rest(self) -> None:
        until = time.monotonic() + self._scenario.patience_seconds + 1.0
        while self._flights and not self._stopped and time.monotonic() < until:
            self._turn(time.monotonic() + WATCH_SECONDS, busy=False)

    def _turn(self, until: float, *, busy: bool) -> None:
        """Read what came, until something is to be sent at the latest."""
        now = time.monotonic()
        self._look(now)
        upcoming = min(until, self._watch_at, self._probe_at, self._cancels[0][0] if self._cancels else until)
        left = upcoming - now
        wait_ms = 0 if busy or left < SPIN_SECONDS else int((left - SPIN_SECONDS / 2) * 1000)
        for socket, _ in self._poller.poll(wait_ms):
            self._receive(socket)

    # sending

    def _connect(self) -> Client:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 0
        if self._keys is not None:
            self._keys.apply(socket)
        socket.connect(self._endpoint)
        self._poller.register(socket, zmq.POLLIN)
        return Client(socket)

    def _send(self, intended: float, now: float) -> None:
        """The next command of the plan or the recording, on its client's connection."""
        self._number += 1
        if self._recorded is not None:
            one = self._recorded.popleft()
            client, action = self._client_of(one.client), action_of(one.payload)
            request_id, frames = id_of(one.payload), [self._encode(one.payload), *one.attachments]
            client.socket.send_multipart(frames)
        else:
            wanted = self._choice.draw()
            client, kind = self._next_client(), self._scenario.mix[wanted.kind]
            action, request_id = kind.action, f"{self._name}-{self._number}"
            client.socket.send(self._encode(self._payload(action, kind.fields, request_id, wanted)))
            if wanted.cancel_after is not None:
                heapq.heappush(self._cancels, (now + wanted.cancel_after, request_id))
        self._sent(Flight(action, client, self._stage, intended, now), request_id)

    def _sent(self, flight: Flight, request_id: str) -> None:
        """A command is under way."""
        self._flights[request_id] = flight
        self._under_way += 1
        self._lag = flight.sent - flight.intended
        if self._stage != WARM_UP:
            self.tally.measure("lag", self._lag)
            self.tally.at_second(int(flight.intended - self._zero), "offered")
            self.tally.count(flight.action, "offered")
            self.tally.count(f"{STAGE}{self._stage}", "offered")

    def _payload(self, action: str, fields: dict[str, Any], request_id: str, wanted: Wanted) -> dict[str, Any]:
        payload: dict[str, Any] = {"action": action, "request_id": request_id, **fields}
        if wanted.model_id:
            payload["model_id"] = wanted.model_id
        if wanted.priority is not None:
            payload["priority"] = wanted.priority.value
        if self._scenario.deadline_seconds:
            payload["timeout_seconds"] = self._scenario.deadline_seconds
        if action == "generate" and "seed" not in fields:
            payload["seed"] = wanted.seed
        return payload

    def _next_client(self) -> Client:
        """Clients take turns; one that has sent as much as it may is replaced, and stays for what it waits for."""
        index = self._number % len(self._clients)
        client = self._clients[index]
        if self._scenario.churn_commands and client.used >= self._scenario.churn_commands:
            client.retired = True
            self._close_idle(client)
            client = self._clients[index] = self._connect()
        client.used += 1
        client.waiting += 1
        return client

    def _client_of(self, number: int) -> Client:
        """The connection that stands for a client of a recording."""
        found = self._named_clients.get(number)
        if found is None:
            found = self._named_clients[number] = self._connect()
        found.waiting += 1
        return found

    def _close_idle(self, client: Client) -> None:
        if client.retired and not client.waiting:
            self._poller.unregister(client.socket)
            client.socket.close(0)

    def _look(self, now: float) -> None:
        """What is to be done at a time of its own: cancels, pings, giving up, telling how it goes."""
        while self._cancels and self._cancels[0][0] <= now:
            _, target = heapq.heappop(self._cancels)
            flight = self._flights.get(target)
            if flight is not None:
                command = {"action": "cancel", "request_id": f"cancel-{target}", "target_request_id": target}
                flight.client.socket.send(self._encode(command))
        if now >= self._probe_at and self._scenario.probe_hz:
            self._ping(now)
        if now >= self._watch_at:
            self._watch_at = now + WATCH_SECONDS
            self._give_up(now)
            if self._tell is not None:
                self._tell(self.standing(now))

    def _ping(self, now: float) -> None:
        if self._process == 0:
            self._number += 1
            request_id = f"{self._name}-{PROBE}-{self._number}"
            self._probe.socket.send(self._encode({"action": "ping", "request_id": request_id}))
            self._flights[request_id] = Flight(PROBE, self._probe, self._stage, self._probe_at, now)
        gap = 1.0 / self._scenario.probe_hz
        self._probe_at += gap * max(1, int((now - self._probe_at) / gap))

    def _give_up(self, now: float) -> None:
        """What was sent too long ago has timed out."""
        while self._flights:
            request_id, flight = next(iter(self._flights.items()))
            if flight.sent + self._scenario.patience_seconds > now:
                return
            del self._flights[request_id]
            self._note(flight, "timed_out")

    def standing(self, now: float) -> Progress:
        """How it goes."""
        return Progress(
            elapsed=now - self._start,
            stage=self._stage,
            sent=self._number,
            completed=self.tally.total("completed"),
            failed=self.tally.total("failed") + self.tally.total("timed_out"),
            in_flight=self._under_way,
            lag_ms=self._lag * 1000,
        )

    # what comes back

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(MOST_AT_ONCE):
            try:
                payload = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            now = time.monotonic()
            while socket.getsockopt(zmq.RCVMORE):
                socket.recv(zmq.NOBLOCK)
            try:
                self._answered(self._decode(payload), now)
            except msgspec.DecodeError as error:
                self.tally.fail("UNREADABLE", str(error))
            if socket.closed:
                return

    def _answered(self, reply: Answered, now: float) -> None:
        if reply.state == "progress" or reply.request_id is None:
            return
        flight = self._flights.pop(reply.request_id, None)
        if flight is None:
            if not reply.request_id.startswith("cancel-"):
                self.tally.count(UNASKED, "answers")
            return
        if flight.action == PROBE:
            if flight.stage != WARM_UP:
                self.tally.measure(PROBE, now - flight.intended)
            return
        if reply.success:
            outcome = "completed"
        elif reply.state == "cancelled":
            outcome = "cancelled"
        else:
            outcome = "failed"
            if flight.stage != WARM_UP and reply.error is not None:
                self.tally.fail(reply.error.code, reply.error.message)
        self._note(flight, outcome, reply, now)

    def _note(self, flight: Flight, outcome: str, reply: Answered | None = None, now: float = 0.0) -> None:
        """A command came to its end."""
        if flight.action == PROBE:
            return
        self._under_way -= 1
        flight.client.waiting -= 1
        self._close_idle(flight.client)
        if flight.stage == WARM_UP:
            return
        tally, stage = self.tally, f"{STAGE}{flight.stage}"
        tally.count(flight.action, outcome)
        tally.count(stage, outcome)
        if reply is None:
            tally.at_second(int(time.monotonic() - self._zero), outcome)
            return
        tally.at_second(int(now - self._zero), outcome)
        if outcome != "completed":
            return
        if now <= self._ends[flight.stage]:
            tally.count(stage, "kept")
        latency = now - flight.intended
        if latency <= self._scenario.slo_seconds:
            tally.count(flight.action, "good")
            tally.count(stage, "good")
        tally.measure(f"{flight.action}.latency", latency)
        tally.measure(f"{flight.action}.service", now - flight.sent)
        tally.measure(f"{stage}.latency", latency)
        self._phases(flight, reply, now)

    def _phases(self, flight: Flight, reply: Answered, now: float) -> None:
        """Where the time went, as the reply has it, and where on which device."""
        timing, tally, action = reply.timing, self.tally, flight.action
        total = timing.get("total_ms", 0.0)
        queue = timing.get("queue_ms", 0.0)
        load = sum(timing.get(name, 0.0) for name in LOADING)
        tally.measure(f"{action}.queue", queue / 1000)
        tally.measure(f"{action}.compute", max(0.0, total - queue - load) / 1000)
        tally.measure(f"{action}.transport", max(0.0, now - flight.sent - total / 1000))
        if load:
            tally.measure(f"{action}.load", load / 1000)
            tally.count(action, "loads")
        if reply.device_id:
            tally.devices[reply.device_id] += 1
            ended = now - self._zero
            tally.span(Span(reply.device_id, ended - (total - queue) / 1000, ended, load / 1000))
