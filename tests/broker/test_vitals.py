"""Signs of life: the link and the progress of workers, judged apart, and what follows from each."""

from __future__ import annotations

import pytest
from room import CATALOG, Room, answer, assigned, code, ids, kills, model, residency

from broker.core.events import Effect, TellSupervisor, WorkerMessage
from broker.core.vitals import STARTING, Vitals
from protocol.link import CATALOG_ID, Beat, Report
from protocol.supervision import Alive, ChildReady, ChildServed, ProgressBudgets, RecycleChild, RestartChild

BUDGETS = ProgressBudgets(start=50.0, load_model=20.0, generate=10.0)
WORK = ("r", 1, "generate")


def vitals() -> Vitals:
    return Vitals(2000, BUDGETS)


def test_silence_is_counted_from_the_last_word() -> None:
    watch = vitals()
    assert watch.silent(100.0, 102.0) is None
    assert watch.silent(100.0, 102.1) == "it was silent for 2 s"
    assert watch.silent(100.0, 103.9, patience=2.0) is None


def test_time_in_which_nobody_looked_is_nobodys_silence() -> None:
    watch = vitals()
    watch.look(100.0)
    watch.look(160.0)
    assert watch.silent(100.0, 160.0) is None
    assert watch.silent(100.0, 161.9) is None
    assert watch.silent(100.0, 162.1) is not None


def test_a_count_that_grows_is_progress_however_slowly() -> None:
    watch = vitals()
    for turn in range(20):
        assert watch.stuck("cpu:0", WORK, turn, turn * 9.0) is None


@pytest.mark.parametrize(("work", "budget"), [(WORK, 10.0), (("r", 1, "load_model"), 20.0), (STARTING, 50.0)], ids=str)
def test_each_action_has_a_budget_of_its_own(work: tuple[str, int, str], budget: float) -> None:
    watch = vitals()
    assert watch.stuck("cpu:0", work, 7, 0.0) is None
    assert watch.stuck("cpu:0", work, 7, budget) is None
    assert watch.stuck("cpu:0", work, 7, budget + 0.1) == f"{work[2]} made no progress for {budget:g} s"


def test_new_work_and_idleness_begin_a_budget_anew() -> None:
    watch = vitals()
    watch.stuck("cpu:0", WORK, 7, 0.0)
    assert watch.stuck("cpu:0", ("r", 2, "generate"), 7, 30.0) is None
    assert watch.stuck("cpu:0", None, 7, 60.0) is None
    assert watch.stuck("cpu:0", ("r", 2, "generate"), 7, 90.0) is None


def test_time_in_which_nobody_looked_is_nobodys_standstill() -> None:
    watch = vitals()
    watch.look(0.0)
    watch.stuck("cpu:0", WORK, 7, 0.0)
    watch.look(100.0)
    assert watch.stuck("cpu:0", WORK, 7, 100.0) is None
    assert watch.stuck("cpu:0", WORK, 7, 109.0) is None
    assert watch.stuck("cpu:0", WORK, 7, 111.0) is not None


# in the core


def beat(room: Room, seconds: int, count: int = 1) -> list[Effect]:
    """Time passes in which every link beats; the device's thread stands still."""
    before = len(room.effects)
    for _ in range(seconds):
        for worker in [CATALOG, *(device.worker for device in room.core.context.fleet.devices.values())]:
            if worker is not None:
                room.handle(WorkerMessage(worker, Beat(progress_count=count)))
        room.wait(1.0)
    return room.effects[before:]


def told(effects: list[Effect], kind: type) -> list[object]:
    return [e.line for e in effects if isinstance(e, TellSupervisor) and isinstance(e.line, kind)]


def test_a_stuck_device_thread_loses_its_command_and_its_worker_although_the_link_beats() -> None:
    room = Room(("cpu:0",))
    room.send("generate", request_id="r", model_id="m", prompt="x")
    assert kills(beat(room, 118)) == []
    effects = beat(room, 5)
    (kill,) = kills(effects)
    assert (kill.child, kill.reason) == ("cpu:0", "generate made no progress for 120 s")
    assert code(answer(effects)) == "WORKER_LOST"


def test_an_idle_worker_makes_no_progress_and_lives() -> None:
    assert kills(beat(Room(("cpu:0",)), 400)) == []


def test_a_worker_that_never_gets_ready_is_given_up() -> None:
    room = Room(("cpu:0",), connected=False)
    room.register("cpu:0", ready=False)
    assert kills(beat(room, 290)) == []
    assert [kill.reason for kill in kills(beat(room, 20))] == ["start made no progress for 300 s"]


def test_a_silent_workers_queue_goes_elsewhere() -> None:
    room = Room(silence_ms=2000)
    room.holds("cpu:0", residency("m"))
    room.send("generate", request_id="running", model_id="m", prompt="x")
    room.send("generate", request_id="queued", model_id="m", prompt="y")
    room.new()
    for _ in range(4):
        room.handle(WorkerMessage(room.worker("cpu:1"), Beat(progress_count=1)))
        room.handle(WorkerMessage(CATALOG, Beat(progress_count=1)))
        room.wait(1.0)
    effects = room.new()
    assert [kill.child for kill in kills(effects)] == ["cpu:0"]
    assert ids(effects) == ["queued"]
    assert assigned(effects)[0].worker == room.worker("cpu:1")


def test_a_silent_catalogue_is_replaced() -> None:
    room = Room(("cpu:0",), silence_ms=2000)
    effects = []
    for _ in range(7):
        room.handle(WorkerMessage(room.worker("cpu:0"), Beat(progress_count=1)))
        effects += room.wait(1.0)
    assert [kill.child for kill in kills(effects)] == [CATALOG_ID]


def test_the_supervisor_hears_that_the_loop_turns() -> None:
    assert len(told(Room().wait(10.0), Alive)) >= 9


def test_the_supervisor_hears_once_of_readiness_and_of_served_work() -> None:
    room = Room(("cpu:0",), connected=False, models=(model("m"),))
    room.register("cpu:0")
    for number in range(3):
        room.send("generate", request_id=f"r{number}", model_id="m", prompt="x")
        room.finish(assigned(room.effects)[-1])
    assert told(room.effects, ChildReady) == [ChildReady(child="cpu:0", generation=1)]
    assert told(room.effects, ChildServed) == [ChildServed(child="cpu:0", generation=1)]
    room.register("cpu:0", generation=2)
    assert told(room.new(), ChildReady)[-1] == ChildReady(child="cpu:0", generation=2)


# replacement


def test_a_worker_whose_memory_does_not_come_back_is_recycled_once_idle() -> None:
    room = Room(("cpu:0",))
    room.send("generate", request_id="running", model_id="m", prompt="x")
    (running,) = assigned(room.effects)
    room.send("generate", request_id="queued", model_id="m", prompt="y", device_id="cpu:0")
    room.new()
    room.handle(WorkerMessage(room.worker("cpu:0"), Report(ready=True, leaked_bytes=1 << 30)))
    assert told(room.new(), RestartChild) == []
    effects = room.finish(running)
    (restart,) = told(effects, RestartChild)
    assert isinstance(restart, RestartChild)
    assert restart.reason == f"recycled: {1 << 30} bytes of its memory did not come back"
    assert ids(effects) == []
    room.register("cpu:0", generation=2)
    assert ids(room.new()) == ["queued"]


def test_the_supervisor_may_ask_for_a_replacement_of_the_incarnation_that_it_means() -> None:
    room = Room(("cpu:0",))
    assert told(room.handle(RecycleChild(child="cpu:0", generation=9, reason="x")), RestartChild) == []
    (restart,) = told(room.handle(RecycleChild(child="cpu:0", generation=1, reason="it grew")), RestartChild)
    assert isinstance(restart, RestartChild)
    assert restart.reason == "recycled: it grew"
    assert room.ask("list_devices")["devices"][0]["state"] == "draining"
    assert room.ask("list_devices")["warnings"] == ["cpu:0 is draining: recycled: it grew"]
