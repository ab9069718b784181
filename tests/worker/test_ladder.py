"""A picture that does not fit: drawn with less memory where that is allowed, refused with the numbers where not."""

from __future__ import annotations

from typing import Any

import pytest

from protocol import commands as c
from protocol.errors import ErrorCode
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization
from protocol.replies import GenerateReply, LoadModelReply
from tests.worker.bench import Bench, Outcome
from tests.worker.test_cpu import SD15, draw
from worker.devices.base import DrawOrder, Rung
from worker.running import TorchModel, tiled


def bounded(bench: Bench, limit_bytes: int) -> LoadModelReply:
    """Load the model under a share of the device of so many bytes, for it and its work."""
    memory = ModelMemoryOptimization(memory_fraction=limit_bytes / bench.engine.keeper.room().total)
    command = c.LoadModel(model_id=SD15, configuration=ModelLoadConfiguration(memory_optimization=memory))
    return bench.reply(LoadModelReply, command, SD15)


def picture(bench: Bench, **fields: Any) -> Outcome:
    outcome = bench.run(draw(SD15, **fields), SD15)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome


def halfway(bench: Bench) -> int:
    """Bytes that have room for the model and for half of a run's work."""
    outcome = picture(bench)
    assert outcome.facts is not None and outcome.facts.peak_bytes is not None
    resident = bench.engine.cache.get(SD15)
    assert resident is not None
    return (outcome.facts.peak_bytes + resident.bytes) // 2


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Rung, ...]]:
    """The rung of every run that was begun."""
    seen: list[tuple[Rung, ...]] = []
    inner = TorchModel.draw

    def watched(self: TorchModel, order: DrawOrder, job: Any) -> Any:
        seen.append(order.rung)
        return inner(self, order, job)

    monkeypatch.setattr(TorchModel, "draw", watched)
    return seen


def test_a_picture_that_does_not_fit_is_drawn_with_less_and_says_so(cpu: Bench, tries: list[tuple[Rung, ...]]) -> None:
    first = picture(cpu).attachments
    used = bounded(cpu, halfway(cpu)).memory_usage
    tries.clear()
    outcome = picture(cpu)
    assert outcome.attachments == first
    (warning,) = outcome.reply.warnings
    assert Rung.OFFLOADING.value in warning and Rung.TILING.value in warning
    assert tries[-1] == (Rung.TILING, Rung.SLICING, Rung.OFFLOADING) and tries[0] == ()
    assert cpu.engine.device.gauge().used == used
    tries.clear()
    assert picture(cpu).attachments == first
    assert tries == [(Rung.TILING, Rung.SLICING, Rung.OFFLOADING)]
    bounded(cpu, cpu.engine.keeper.room().total)


def test_where_that_is_not_allowed_it_is_refused_with_what_would_help(cpu: Bench) -> None:
    used = bounded(cpu, halfway(cpu)).memory_usage
    for _ in range(3):
        error = cpu.error(draw(SD15, allow_degraded=False), SD15)
        assert error.code is ErrorCode.INSUFFICIENT_MEMORY and error.details["total_bytes"] > 0
        assert error.recovery[0].action == "generate" and error.recovery[0].parameters["allow_degraded"] is True
        assert cpu.engine.device.gauge().used == used
    assert picture(cpu).reply.warnings


def test_a_share_that_no_rung_fits_is_refused_and_everything_is_as_it_was(
    cpu: Bench, tries: list[tuple[Rung, ...]]
) -> None:
    first = picture(cpu).attachments
    weights = cpu.engine.device.gauge().used
    bounded(cpu, weights + 1)
    tries.clear()
    error = cpu.error(draw(SD15, width=512, height=512, num_images=4, steps=1), SD15)
    assert error.code is ErrorCode.INSUFFICIENT_MEMORY and "however it was drawn" in error.message
    assert (Rung.TILING, Rung.SLICING, Rung.SPLITTING) in tries
    assert cpu.engine.device.gauge().used == weights
    bounded(cpu, cpu.engine.keeper.room().total)
    assert picture(cpu).attachments == first


def test_forced_failures_leave_no_bytes_and_no_change(cpu: Bench) -> None:
    first = picture(cpu).attachments
    used = bounded(cpu, halfway(cpu)).memory_usage
    components = len(cpu.engine.device.components)  # type: ignore[attr-defined]
    for index in range(2):
        assert picture(cpu).attachments == first
        cpu.error(draw(SD15, allow_degraded=False, seed=index), SD15)
        assert cpu.engine.device.gauge().used == used
    assert len(cpu.engine.device.components) == components  # type: ignore[attr-defined]


def test_a_tiled_vae_is_as_it_was_afterwards() -> None:
    class Vae:
        use_tiling, use_slicing = False, True

    vae = Vae()
    with pytest.raises(KeyError), tiled(vae):
        assert vae.use_tiling and vae.use_slicing
        raise KeyError
    assert not vae.use_tiling and vae.use_slicing
