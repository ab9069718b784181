"""Faults on real processes under load, counted: what was lost, what ran twice, who was left behind.

`python -m tests.chaos.chaos --kills 500 --stops 200 --brokers 100 --supervisors 50`
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from msgspec import Struct

from broker.core.retries import MOST_RETRIES
from protocol.actions import ACTIONS
from tests.chaos.machine import Machine
from tests.chaos.traffic import Client, Ledger

CLIENTS = 3


class Faults(Struct, frozen=True, kw_only=True):
    """How many of each."""

    kills: int
    stops: int
    brokers: int
    supervisors: int


class Verdict(Struct, frozen=True, kw_only=True):
    """What the ledger says; a run is good when the last five are empty."""

    faults: Faults
    commands: int
    executions: int
    outcomes: dict[str, int]
    seconds: float
    lost: list[str]
    contradicted: list[str]
    run_too_often: list[str]
    orphans: list[str]
    exit_status: int

    @property
    def good(self) -> bool:
        return not (self.lost or self.contradicted or self.run_too_often or self.orphans or self.exit_status)


def run(folder: Path, faults: Faults, *, devices: int = 4, seed: int = 0, pause: float = 0.25) -> Verdict:
    """Break a machine so often, in an order drawn from the seed, while clients work; then look at everything."""
    chance = random.Random(seed)
    machine, ledger = Machine(folder, devices), Ledger()
    clients = [Client(f"c{index}", machine.address, ledger, seed + index) for index in range(CLIENTS)]
    began = time.monotonic()
    for client in clients:
        client.start()
    plan = [name for name in Faults.__struct_fields__ for _ in range(getattr(faults, name))]
    chance.shuffle(plan)
    try:
        for fault in plan:
            time.sleep(chance.uniform(0.2, 1.8) * pause)
            _break(machine, fault, chance)
        lost = _settle(machine, clients, ledger)
        contradicted = _contradicted(machine, ledger)
    finally:
        for client in clients:
            client.give_up.set()
        machine.note_children()
        status = machine.stop()
    begun = [_begun(log) for log in machine.logs()]
    return Verdict(
        faults=faults,
        commands=len(ledger.commands),
        executions=sum(count.total() for count in begun),
        outcomes=_outcomes(ledger),
        seconds=time.monotonic() - began,
        lost=lost,
        contradicted=contradicted,
        run_too_often=_run_too_often(begun, ledger),
        orphans=machine.orphans(),
        exit_status=status,
    )


def _break(machine: Machine, fault: str, chance: random.Random) -> None:
    if fault == "supervisors":
        machine.kill_supervisor()
        return
    victims = machine.children("broker" if fault == "brokers" else "worker")
    if not victims:
        machine.wait_ready()
        victims = machine.children("broker" if fault == "brokers" else "worker")
    victim = chance.choice(victims)
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.send_signal(signal.SIGSTOP if fault == "stops" else signal.SIGKILL)
    if fault == "stops" and chance.random() < 0.5:
        time.sleep(chance.uniform(0.05, 1.0))
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGCONT)


def _settle(machine: Machine, clients: list[Client], ledger: Ledger) -> list[str]:
    """No more faults: every command must get its end. Those that do not are returned."""
    for client in clients:
        client.over.set()
    for client in clients:
        client.join(120)
    lost = ledger.open_ids()
    deadline = time.monotonic() + 90
    for request_id in sorted(ledger.accepted):
        while True:
            reply = machine.ask({"action": "get_result", "target_request_id": request_id})
            if reply["job_state"] == "final":
                ledger.finals.setdefault(request_id, []).append((time.time(), reply["result"]))
                break
            if reply["job_state"] == "unknown" or time.monotonic() > deadline:
                lost.append(f"{request_id} (accepted, then {reply['job_state']})")
                break
            time.sleep(0.05)
    return lost


def _contradicted(machine: Machine, ledger: Ledger) -> list[str]:
    """Commands whose stored outcome is not the one that their sender was given."""
    wrong = []
    for request_id, finals in ledger.finals.items():
        reply = machine.ask({"action": "get_result", "target_request_id": request_id})
        given = [final["success"] for _, final in finals]
        if len(set(given)) > 1 or (reply["job_state"] == "final" and reply["result"]["success"] != given[0]):
            wrong.append(request_id)
    return wrong


def _run_too_often(lives: list[Counter[str]], ledger: Ledger) -> list[str]:
    """Commands that workers began more often than they may within one life of the supervisor."""
    wrong = []
    for life, begun in enumerate(lives, 1):
        for request_id, count in begun.items():
            action = ledger.commands.get(request_id, {}).get("action", "")
            if action and count > (1 + MOST_RETRIES if ACTIONS[action].idempotent else 1):
                wrong.append(f"{request_id} ({action}): {count} times in life {life}")
    return wrong


def _begun(log: Path) -> Counter[str]:
    """How often the workers of one life began each command, by their own log."""
    begun: Counter[str] = Counter()
    for text in log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(text)
            if isinstance(record, dict) and record.get("event") == "command begins":
                begun[record["request_id"]] += 1
    return begun


def _outcomes(ledger: Ledger) -> dict[str, int]:
    """Final replies by state, or by error code."""
    outcomes: Counter[str] = Counter()
    for finals in ledger.finals.values():
        _, reply = finals[0]
        outcomes[reply["error"]["code"] if reply["error"] else reply["state"]] += 1
    return dict(outcomes.most_common())


def main() -> int:
    """Print the verdict; 1 where it is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("kills", 500), ("stops", 200), ("brokers", 100), ("supervisors", 50)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faults = Faults(kills=options.kills, stops=options.stops, brokers=options.brokers, supervisors=options.supervisors)
    with tempfile.TemporaryDirectory(prefix="vrambroker-chaos-") as folder:
        verdict = run(Path(folder), faults, devices=options.devices, seed=options.seed)
    print(
        f"{verdict.commands} commands, {verdict.executions} executions in {verdict.seconds:.0f} s: {verdict.outcomes}"
    )
    for name in ("lost", "contradicted", "run_too_often", "orphans"):
        found = getattr(verdict, name)
        print(f"{name.replace('_', ' ')}: {len(found)} {found[:5] if found else ''}")
    print("verdict:", "good" if verdict.good else "BAD")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
