"""The broker against other ways to route a command to a Python worker: same payloads, same run, interleaved.

`python -m bench.peers [--seconds 3] [--rounds 3] [--only mosec xoscar]`. Each rig is started, warmed up, measured at 64
and at 1 in flight and ended before the next begins: an idle peer's own housekeeping disturbs no one. A peer that could
not be installed or measured is named and counted, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable

from msgspec import Struct

from bench.broker import IN_FLIGHT, PAYLOAD_BYTES, Round, drive, median
from bench.peers import echo, environments, script
from bench.record import Machine, machine, write
from bench.rigs import Broker, Proxy

PEERS = ("mosec", "xoscar", "ray", "litserve", "ipyparallel")
BATCHED = "mosec batched"
"""Up to 64 commands in one call of the worker: shown, and compared with by itself."""


class Rig(Struct, frozen=True, kw_only=True):
    """Medians over the rounds; the ratios are the broker's over this rig's, taken round by round."""

    name: str
    version: str
    in_flight: int
    figures: Round
    throughput_ratio: float
    p50_ratio: float


class Missing(Struct, frozen=True, kw_only=True):
    name: str
    reason: str


class Result(Struct, frozen=True, kw_only=True):
    """`fastest` has the most commands per second at 64 in flight among the peers that hand over one at a time."""

    machine: Machine
    seconds: float
    rounds: int
    payload_bytes: int
    fastest: str
    rigs: list[Rig]
    not_measured: list[Missing]


class Bench:
    """The rigs' figures, round by round, and who gave none."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._rounds: dict[str, list[dict[int, Round]]] = {}
        self._versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def ours(self, make: Callable[[], Proxy | Broker]) -> None:
        rig = make()
        try:
            drive(rig.address, IN_FLIGHT[0], echo.WARM_UP_SECONDS)
            rounds = {count: drive(rig.address, count, self._seconds) for count in IN_FLIGHT}
        finally:
            rig.close()
        self._rounds.setdefault(rig.name, []).append(rounds)

    def theirs(self, name: str) -> None:
        """A peer that failed once is asked no more: the medians are over the same rounds for all."""
        if name in self.missing:
            return
        arguments = ["--seconds", str(self._seconds), "--in-flight", *map(str, IN_FLIGHT)]
        if name == BATCHED:
            arguments.append("--batched")
        try:
            measured = script.ask(name.split(maxsplit=1)[0], arguments, self._seconds * len(IN_FLIGHT))
        except script.Unmeasured as reason:
            self.lose(name, str(reason))
            return
        self._versions[name] = measured.version
        self._rounds.setdefault(name, []).append({row.in_flight: row for row in measured.rows})

    def lose(self, name: str, reason: str) -> None:
        print(f"bench-peers: {name} IS MISSING from this run: {reason}", flush=True)
        self.missing[name] = reason
        self._rounds.pop(name, None)

    def rigs(self) -> list[Rig]:
        return [self._rig(name, count) for count in IN_FLIGHT for name in self._rounds]

    def _rig(self, name: str, count: int) -> Rig:
        theirs = [one[count] for one in self._rounds[name]]
        pairs = list(zip(theirs, (one[count] for one in self._rounds[Broker.name]), strict=True))
        return Rig(
            name=name,
            version=self._versions.get(name, ""),
            in_flight=count,
            figures=median(theirs),
            throughput_ratio=statistics.median(ours.per_second / peer.per_second for peer, ours in pairs),
            p50_ratio=statistics.median(ours.p50_us / peer.p50_us for peer, ours in pairs),
        )


def fastest(rigs: list[Rig]) -> Rig | None:
    """Of the peers that hand their worker one command at a time, at the most in flight."""
    peers = [rig for rig in rigs if rig.name in PEERS and rig.in_flight == IN_FLIGHT[0]]
    return max(peers, key=lambda rig: rig.figures.per_second, default=None)


def show(rigs: list[Rig], missing: dict[str, str]) -> None:
    print(f"{'in flight':>9}  {'rig':<20} {'commands/s':>11} {'p50 µs':>8} {'p99 µs':>8}   vrambroker is at")
    for rig in rigs:
        figures = rig.figures
        print(
            f"{rig.in_flight:>9}  {f'{rig.name} {rig.version}':<20} {figures.per_second:>11,.0f} "
            f"{figures.p50_us:>8,.0f} {figures.p99_us:>8,.0f}   "
            f"{rig.throughput_ratio:.2f}x its throughput, {rig.p50_ratio:.2f}x its p50"
        )
    best = fastest(rigs)
    if best is not None:
        print(f"fastest peer, one command a call: {best.name}; vrambroker routes {best.throughput_ratio:.2f}x as many")
    for rig in rigs:
        if rig.name == BATCHED and rig.in_flight == IN_FLIGHT[0]:
            print(f"{BATCHED}, up to 64 commands a call: vrambroker routes {rig.throughput_ratio:.2f}x as many")
    if missing:
        print(f"NOT MEASURED, {len(missing)}: {', '.join(missing)}: the comparison is incomplete")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=PEERS, help="these peers alone")
    return parser.parse_args()


def main() -> int:
    given = options()
    before = machine()
    bench = Bench(given.seconds)
    for peer in given.only:
        if reason := environments.install(peer):
            bench.lose(peer, reason)
    # What shares mosec's environment shares its fate.
    names = [
        name for name in (*PEERS, BATCHED) if name.split()[0] in given.only and name.split()[0] not in bench.missing
    ]
    for number in range(given.rounds):
        print(f"bench-peers: round {number + 1} of {given.rounds}", flush=True)
        for make in (Proxy, Broker):
            bench.ours(make)
        for name in names:
            bench.theirs(name)
    rigs = bench.rigs()
    show(rigs, bench.missing)
    best = fastest(rigs)
    result = Result(
        machine=before,
        seconds=given.seconds,
        rounds=given.rounds,
        payload_bytes=PAYLOAD_BYTES,
        fastest=best.name if best else "",
        rigs=rigs,
        not_measured=[Missing(name=name, reason=reason) for name, reason in bench.missing.items()],
    )
    print(f"load average before: {before.load_average_before:.2f}; written to {write('peers', result)}")
    return 1 if bench.missing else 0


if __name__ == "__main__":
    sys.exit(main())
