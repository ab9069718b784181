"""Residency and commands on a virtual device: the whole engine without torch."""

from __future__ import annotations

import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from protocol import commands as c
from protocol.enums import (
    Delivery,
    Lane,
    LoadPriority,
    LoadSource,
    ModelPrecision,
    Tier,
    ValidationLevel,
)
from protocol.errors import ErrorCode
from protocol.link import ModelChanged, Prefetch, Report
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization, ModelPerformanceOptimization
from protocol.replies import (
    GenerateReply,
    ListComponentsReply,
    LoadModelReply,
    PinModelReply,
    UnloadModelReply,
    ValidateModelReply,
)
from tests.worker.bench import Bench, model_ref, worker_spec
from tests.worker.conftest import Clock, write_profile
from worker import host
from worker.host import HostReader
from worker.job import Job, Progress
from worker.outputs import OutputFolder
from worker.validation.outlook import STEPS

ONE, TWO, FIVE, SLOW = "one.vmodel.json", "two.vmodel.json", "five.vmodel.json", "slow.vmodel.json"


def load(bench: Bench, name: str, **fields: object) -> LoadModelReply:
    return bench.reply(LoadModelReply, c.LoadModel(model_id=name, **fields), name)  # type: ignore[arg-type]


def unload(bench: Bench, name: str, clear_cache: bool = False) -> UnloadModelReply:
    return bench.reply(UnloadModelReply, c.UnloadModel(model_id=name, clear_cache=clear_cache), name)


def tiers(bench: Bench) -> dict[str, Tier]:
    return {entry.model_id: entry.tier for entry in bench.engine.cache.listing()}


def test_a_load_counts_exactly_the_bytes_of_the_profile(virtual: Bench) -> None:
    reply = load(virtual, ONE)
    assert (reply.memory_usage, reply.memory_added, reply.cache.source) == (1000, 1000, LoadSource.DISK)
    assert virtual.engine.device.gauge().used == 1000
    assert reply.coordination is None
    assert [option.option for option in reply.options] == ["precision"]
    assert virtual.moves() == [(ONE, "vram", "loaded")]


def test_a_second_load_is_a_use_and_adds_nothing(virtual: Bench) -> None:
    first = load(virtual, ONE)
    again = load(virtual, ONE, configuration=ModelLoadConfiguration())
    assert (again.memory_added, again.cache.source, again.loaded_at) == (0, LoadSource.VRAM, first.loaded_at)
    assert "cache.page_cache_ratio" in again.not_measured


def test_force_and_another_configuration_load_anew(virtual: Bench) -> None:
    load(virtual, ONE)
    assert load(virtual, ONE, force=True).cache.source is LoadSource.DISK
    other = ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(memory_fraction=0.5))
    assert load(virtual, ONE, configuration=other).cache.source is LoadSource.DISK
    assert load(virtual, ONE, configuration=other).cache.source is LoadSource.VRAM
    assert load(virtual, ONE).cache.source is LoadSource.VRAM
    assert virtual.engine.device.gauge().used == 1000


def test_a_rebuild_keeps_the_pin(virtual: Bench) -> None:
    load(virtual, ONE, pin=True)
    load(virtual, ONE, force=True)
    assert virtual.engine.cache.listing()[0].pinned


def test_the_least_recently_used_model_leaves_first(virtual: Bench, clock: Clock) -> None:
    for name in (ONE, TWO):
        load(virtual, name)
        clock.now += 1
    load(virtual, ONE)
    clock.now += 1
    assert load(virtual, FIVE).memory_added == 5000
    assert tiers(virtual) == {ONE: Tier.VRAM, TWO: Tier.RAM, FIVE: Tier.VRAM}
    assert (TWO, "ram", f"evicted: room for {FIVE}") in virtual.moves()


def test_lower_priority_leaves_before_less_recent_use(virtual: Bench, clock: Clock) -> None:
    load(virtual, ONE, priority=LoadPriority.High)
    clock.now += 1
    load(virtual, TWO, priority=LoadPriority.Low)
    clock.now += 1
    load(virtual, FIVE)
    assert tiers(virtual)[ONE] is Tier.VRAM
    assert tiers(virtual)[TWO] is Tier.RAM


def test_a_refusal_evicts_nobody_and_names_the_numbers_and_the_way_out(virtual: Bench) -> None:
    load(virtual, ONE)
    load(virtual, TWO, pin=True)
    error = virtual.error(c.LoadModel(model_id=FIVE), FIVE)
    assert error.code is ErrorCode.INSUFFICIENT_MEMORY and error.retryable
    assert error.details == {
        "needed_bytes": 5000,
        "free_bytes": 3000,
        "evictable_bytes": 1000,
        "pinned_bytes": 2000,
        "total_bytes": 6000,
    }
    assert tiers(virtual) == {ONE: Tier.VRAM, TWO: Tier.VRAM}
    recovery = error.recovery[0]
    assert (recovery.action, recovery.parameters) == ("unpin_model", {"model_id": TWO, "device_id": "virtual:0"})
    virtual.run(c.UnpinModel(**recovery.parameters), lane=Lane.CONTROL)
    assert load(virtual, FIVE).memory_usage == 5000


def test_a_model_larger_than_the_device_is_not_retryable(virtual: Bench) -> None:
    from tests.worker.conftest import write_profile  # noqa: PLC0415

    name = write_profile(virtual.root, "six", 6001)
    error = virtual.error(c.LoadModel(model_id=name), name)
    assert error.code is ErrorCode.INSUFFICIENT_MEMORY and not error.retryable
    assert virtual.engine.sampler.pressure().level.value == "normal"


def test_unload_goes_to_ram_and_back_from_there(virtual: Bench) -> None:
    load(virtual, ONE, pin=True)
    reply = unload(virtual, ONE)
    assert (reply.memory_freed, reply.ram_freed, reply.cache_cleared) == (1000, 0, False)
    held = virtual.engine.cache.listing()[0]
    assert (held.tier, held.pinned, held.memory.cache_memory_bytes) == (Tier.RAM, False, 1000)
    assert load(virtual, ONE).cache.source is LoadSource.RAM


def test_clear_cache_takes_a_model_out_of_both_tiers(virtual: Bench) -> None:
    load(virtual, ONE)
    assert unload(virtual, ONE, clear_cache=True).cache_cleared
    load(virtual, TWO)
    unload(virtual, TWO)
    out = unload(virtual, TWO, clear_cache=True)
    assert (out.memory_freed, out.ram_freed, out.cache_cleared) == (0, 2000, True)
    assert tiers(virtual) == {}


def test_a_model_that_the_ram_tier_cannot_hold_leaves_for_good_and_the_reply_says_so(virtual: Bench) -> None:
    load(virtual, FIVE)
    reply = unload(virtual, FIVE)
    assert reply.cache_cleared and "do not fit the RAM tier of 3000" in reply.message


def test_the_ram_tier_drops_what_was_used_longest_ago(virtual: Bench, clock: Clock) -> None:
    for name in (ONE, TWO):
        load(virtual, name)
        unload(virtual, name)
        clock.now += 1
    from tests.worker.conftest import write_profile  # noqa: PLC0415

    name = write_profile(virtual.root, "more", 1000)
    load(virtual, name)
    unload(virtual, name)
    assert tiers(virtual) == {TWO: Tier.RAM, name: Tier.RAM}


def test_unload_of_what_is_not_held_succeeds_with_a_warning(virtual: Bench) -> None:
    reply = unload(virtual, ONE)
    assert (reply.success, reply.memory_freed, len(reply.warnings)) == (True, 0, 1)


def test_keep_alive_expires_after_the_last_use_but_not_while_pinned(virtual: Bench, clock: Clock) -> None:
    load(virtual, ONE, keep_alive=10)
    load(virtual, TWO, keep_alive=10, pin=True)
    assert virtual.engine.cache.next_expiry() == clock.now + 10
    clock.now += 9.9
    assert not virtual.engine.idle()
    clock.now += 0.1
    assert virtual.engine.idle()
    assert tiers(virtual) == {ONE: Tier.RAM, TWO: Tier.VRAM}
    assert virtual.moves()[-1] == (ONE, "ram", "expired")


def test_keep_alive_zero_leaves_as_soon_as_nothing_uses_it(virtual: Bench) -> None:
    load(virtual, ONE, keep_alive=0)
    assert tiers(virtual) == {ONE: Tier.RAM}


def test_pin_needs_the_model_on_the_device(virtual: Bench) -> None:
    error = virtual.error(c.PinModel(model_id=ONE), ONE, lane=Lane.CONTROL)
    assert error.code is ErrorCode.INVALID_ARGUMENT
    load(virtual, ONE)
    assert virtual.reply(PinModelReply, c.PinModel(model_id=ONE), ONE, lane=Lane.CONTROL).pinned
    assert virtual.engine.sampler.pressure().reclaimable_bytes == 0


def test_every_flag_is_answered(virtual: Bench) -> None:
    configuration = ModelLoadConfiguration(
        memory_optimization=ModelMemoryOptimization(enable_attention_slicing=True),
        performance_optimization=ModelPerformanceOptimization(enable_onnx=True),
        parameters={"turbo": 1},
    )
    options = load(virtual, ONE, configuration=configuration).options
    named = {option.option: option for option in options}
    assert list(named) == ["precision", "enable_attention_slicing", "enable_onnx", "parameters.turbo"]
    assert named["precision"].applied and not named["enable_onnx"].applied
    assert all(option.reason for option in options if not option.applied)


def test_a_parameter_that_contradicts_a_field_is_refused(virtual: Bench) -> None:
    configuration = ModelLoadConfiguration(parameters={"enable_onnx": True})
    error = virtual.error(c.LoadModel(model_id=ONE, configuration=configuration), ONE)
    assert error.code is ErrorCode.INVALID_ARGUMENT and "enable_onnx" in error.message


def test_a_share_of_the_device_bounds_the_model(virtual: Bench) -> None:
    configuration = ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(memory_fraction=0.1))
    error = virtual.error(c.LoadModel(model_id=ONE, configuration=configuration), ONE)
    assert error.code is ErrorCode.INSUFFICIENT_MEMORY and error.details["limit_bytes"] == 600


def test_a_precision_that_the_device_lacks_is_refused_with_those_it_has(virtual: Bench) -> None:
    configuration = ModelLoadConfiguration(precision=ModelPrecision.Int4)
    error = virtual.error(c.LoadModel(model_id=ONE, configuration=configuration), ONE)
    assert error.code is ErrorCode.NOT_SUPPORTED
    assert error.recovery[0].parameters["configuration"] == {"precision": "Float16"}


def test_generate_draws_a_real_png_from_the_seed(virtual: Bench) -> None:
    draw = c.Generate(model_id=ONE, prompt="a", steps=2, seed=5, width=16, height=8, num_images=2)
    first, again = virtual.run(draw, ONE), virtual.run(draw, ONE)
    assert isinstance(first.reply, GenerateReply)
    assert first.attachments == again.attachments
    assert [image[:8] for image in first.attachments] == [b"\x89PNG\r\n\x1a\n"] * 2
    pixels = zlib.decompress(first.attachments[0][41:-16])
    assert len(pixels) == 8 * (1 + 16 * 3)
    assert first.attachments[0] != first.attachments[1]
    assert first.facts is not None and first.facts.load_ms is not None
    assert again.facts is not None and (again.facts.load_ms, again.facts.images) == (None, 2)


def test_a_seed_is_chosen_and_reported(virtual: Bench) -> None:
    free = c.Generate(model_id=ONE, prompt="a", steps=1)
    first = virtual.run(free, ONE)
    assert isinstance(first.reply, GenerateReply)
    again = virtual.run(c.Generate(model_id=ONE, prompt="a", steps=1, seed=first.reply.seed), ONE)
    assert first.attachments == again.attachments


def test_images_can_be_files_or_text(virtual: Bench) -> None:
    for delivery in (Delivery.PATH, Delivery.BASE64):
        draw = c.Generate(model_id=ONE, prompt="a", steps=1, delivery=delivery)
        outcome = virtual.run(draw, ONE)
        assert isinstance(outcome.reply, GenerateReply)
        image = outcome.reply.images[0]
        assert outcome.attachments == [] and outcome.reply.attachments == []
        if delivery is Delivery.PATH:
            assert image.path is not None and image.path.startswith(virtual.engine.spec.outputs)
        else:
            assert image.data is not None


def test_generate_without_leave_to_load_says_how(virtual: Bench) -> None:
    error = virtual.error(c.Generate(model_id=ONE, prompt="a", load_if_needed=False), ONE)
    assert error.code is ErrorCode.INVALID_ARGUMENT and error.recovery[0].action == "load_model"


def test_a_cancel_ends_a_load_and_leaves_nothing(virtual: Bench) -> None:
    def stop(job: Job, _: Progress) -> None:
        threading.Timer(0.02, job.cancel, (ErrorCode.CANCELLED, "enough")).start()

    outcome = virtual.run(c.LoadModel(model_id=SLOW), SLOW, on_progress=stop)
    assert outcome.reply.state.value == "cancelled" and outcome.reply.message == "enough"
    assert virtual.engine.device.gauge().used == 0 and tiers(virtual) == {}


def test_a_deadline_ends_a_run(virtual: Bench) -> None:
    error = virtual.error(c.LoadModel(model_id=SLOW), SLOW, deadline_ms=20.0)
    assert error.code is ErrorCode.TIMEOUT and error.retryable


def test_components_are_listed_with_their_bytes(virtual: Bench) -> None:
    load(virtual, ONE)
    reply = virtual.reply(ListComponentsReply, c.ListComponents(model_id=ONE), ONE, lane=Lane.CONTROL)
    assert [(part.name, part.bytes, part.tier) for part in reply.components] == [
        ("unet", 900, Tier.VRAM),
        ("vae", 100, Tier.VRAM),
    ]


def test_a_profile_is_validated_by_what_it_says(virtual: Bench) -> None:
    command = c.ValidateModel(model_id=TWO, estimate_performance=True, validation_level=ValidationLevel.COMPREHENSIVE)
    reply = virtual.reply(ValidateModelReply, command, TWO)
    assert reply.is_valid and reply.is_compatible and reply.validation_results.driver_validation.passed
    memory = reply.validation_results.memory_validation.details
    assert (memory["weights_bytes"], memory["peak_bytes"], memory["peak_basis"]) == (2000, 3000, "profile")
    expected = reply.performance_estimation
    assert expected is not None and (expected.confidence_score, expected.estimated_memory_usage) == (1.0, 3000)
    assert expected.estimated_inference_time == STEPS * 2, "as many steps of 2 ms"
    assert expected.estimated_throughput == 1000 / expected.estimated_inference_time


def test_a_profile_whose_peak_does_not_fit_is_scored_by_the_share_that_does(virtual: Bench) -> None:
    memory = virtual.reply(
        ValidateModelReply, c.ValidateModel(model_id=FIVE), FIVE
    ).validation_results.memory_validation
    assert (memory.passed, memory.score) == (True, 1.0), "a peak of 6000 bytes on a device of 6000"
    tight = Bench(virtual.root, worker_spec(virtual.root, "virtual:0", budget_bytes=5500))
    reply = tight.reply(ValidateModelReply, c.ValidateModel(model_id=FIVE), FIVE)
    assert reply.is_compatible and reply.validation_results.memory_validation.score == 5500 / 6000
    assert reply.issues[0].code is ErrorCode.INSUFFICIENT_MEMORY


def test_a_real_model_is_valid_on_a_virtual_device_and_does_not_suit_it(profiles: Path) -> None:
    empty = (b'{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0\0\x80?")
    (profiles / "real.safetensors").write_bytes(len(empty[0]).to_bytes(8, "little") + empty[0] + empty[1])
    bench = Bench(profiles, worker_spec(profiles, "virtual:0"))
    reply = bench.reply(ValidateModelReply, c.ValidateModel(model_id="r"), "real.safetensors")
    assert reply.is_valid and not reply.is_compatible
    assert "cuda and cpu devices alone" in reply.validation_results.platform_validation.message


def test_an_unforeseen_failure_is_an_incident(virtual: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual.engine.keeper, "admit", None)
    error = virtual.error(c.LoadModel(model_id=ONE), ONE)
    assert error.code is ErrorCode.INTERNAL_ERROR and error.details["incident_id"] in error.message


def test_a_virtual_device_imports_no_torch() -> None:
    text = (
        "import sys, worker.session, worker.actions, worker.devices.virtual;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", text], check=False).returncode == 0


def test_telemetry_names_each_absent_reading(virtual: Bench) -> None:
    sample = virtual.engine.sampler.sample()
    assert sample.utilization is None and sample.missing["utilization"]
    assert sample.memory.total == 6000 and sample.host.rss_bytes


def test_a_sample_is_taken_at_every_move_and_tells_the_memory_after_it(virtual: Bench) -> None:
    virtual.reply(LoadModelReply, c.LoadModel(model_id=ONE), "one.vmodel.json")
    moved = [index for index, message in enumerate(virtual.told) if isinstance(message, ModelChanged)]
    after = virtual.told[moved[-1] + 1]
    assert isinstance(after, Report) and after.models is None and after.telemetry is not None
    assert after.telemetry.memory.used == virtual.engine.device.gauge().used > 0


def test_a_processs_own_bytes_are_those_that_no_other_has() -> None:
    reading, missing = HostReader().read(0)
    assert "host.uss_bytes" not in missing
    assert 0 < (reading.uss_bytes or 0) <= (reading.rss_bytes or 0)


def test_what_costs_the_kernel_a_walk_is_read_less_often_the_longer_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, walks = [0.0], [0]

    def walk() -> int:
        now[0] += 0.02
        walks[0] += 1
        return walks[0]

    monkeypatch.setattr(host, "_uss", walk)
    reader = HostReader(lambda: now[0])
    assert reader.read(0)[0].uss_bytes == 1
    now[0] += 19.9
    assert reader.read(0)[0].uss_bytes == 1, "1000 x 20 ms have not passed"
    now[0] += 0.2
    assert reader.read(0)[0].uss_bytes == 2


def test_an_output_folder_that_takes_no_file_is_told_before_anything_is_drawn(profiles: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file where the folder should be")
    bench = Bench(profiles, worker_spec(profiles, "virtual:0", outputs=str(tmp_path / "outputs")))
    command = c.Generate(model_id=ONE, prompt="x", steps=2, delivery=Delivery.PATH)
    error = bench.error(command, "one.vmodel.json")
    assert (error.code, error.details["field"]) == (ErrorCode.INFERENCE_FAILED, "delivery")
    assert "File exists" in error.message or "Not a directory" in error.message
    assert error.recovery[0].parameters == {"delivery": "attachment"}


def test_a_picture_that_cannot_be_written_after_all_is_attached(
    profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(profiles, worker_spec(profiles, "virtual:0", outputs=str(tmp_path / "outputs")))
    monkeypatch.setattr(OutputFolder, "check", lambda _: (tmp_path / "outputs").write_text("in the way"))
    outcome = bench.run(c.Generate(model_id=ONE, prompt="x", steps=2, delivery=Delivery.PATH), "one.vmodel.json")
    assert isinstance(outcome.reply, GenerateReply) and len(outcome.attachments) == 1
    assert outcome.reply.images[0].path is None
    assert [attachment.name for attachment in outcome.reply.attachments] == ["image-0"]
    assert any("image-0 is attached instead" in warning for warning in outcome.reply.warnings)


def test_a_virtual_run_has_the_phases_of_a_real_one(virtual: Bench) -> None:
    reply = virtual.reply(GenerateReply, c.Generate(model_id=ONE, prompt="x", steps=1), ONE)
    timing = reply.timing
    assert all(
        isinstance(ms, float) for ms in (timing.encode_ms, timing.denoise_ms, timing.decode_ms, timing.per_step_ms)
    )


def test_limits_are_the_brokers_to_hold_not_the_workers(virtual: Bench) -> None:
    assert virtual.reply(GenerateReply, c.Generate(model_id=ONE, prompt="x" * 20_000, steps=1), ONE).steps_done == 1


def ahead(bench: Bench, name: str) -> None:
    """Read a model ahead, to the end."""
    bench.engine.prefetcher.want(Prefetch(model=model_ref(bench.root, name)))
    for _ in range(2000):
        if bench.engine.prefetcher.idle():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it is still read")


def test_a_model_that_was_read_ahead_comes_from_ram(virtual: Bench) -> None:
    ahead(virtual, ONE)
    assert not virtual.engine.cache.listing() and virtual.engine.device.gauge().used == 0
    assert virtual.engine.ram.used_bytes == 1000
    assert load(virtual, ONE).cache.source is LoadSource.RAM
    assert unload(virtual, ONE, clear_cache=True).ram_freed == 1000
    assert load(virtual, ONE).cache.source is LoadSource.DISK


def test_of_what_was_read_ahead_only_what_left_is_read_again(virtual: Bench) -> None:
    ahead(virtual, ONE)
    held = virtual.engine.ram
    assert held.reserve({"other": held.budget_bytes - 100}, evict=False) is not None, "one of two parts goes for it"
    assert 0 < held.used_bytes - (held.budget_bytes - 100) < 1000
    held.abandon("other")
    ahead(virtual, ONE)
    assert held.used_bytes == 1000
    assert load(virtual, ONE).cache.source is LoadSource.RAM


def test_what_was_read_ahead_goes_first_where_a_model_leaves_for_ram(tmp_path: Path) -> None:
    for name, size in (("one", 1000), ("five", 5000)):
        write_profile(tmp_path, name, size)
    bench = Bench(tmp_path, worker_spec(tmp_path, "virtual:0", budget_bytes=10_000, ram_budget_bytes=5500))
    ahead(bench, ONE)
    load(bench, FIVE)
    unload(bench, FIVE)
    left = bench.engine.ram.used_bytes
    assert tiers(bench) == {FIVE: Tier.RAM} and left < 6000
    ahead(bench, ONE)
    assert tiers(bench) == {FIVE: Tier.RAM} and bench.engine.ram.used_bytes == left, "nothing is driven out for it"


@pytest.mark.parametrize(("budget", "left"), [(9000, {FIVE, TWO, ONE}), (8999, {TWO, ONE})])
def test_a_run_that_would_not_fit_evicts_the_cheapest(
    profiles: Path, clock: Clock, budget: int, left: set[str]
) -> None:
    bench = Bench(profiles, worker_spec(profiles, "virtual:0", budget_bytes=budget, ram_budget_bytes=0), clock)
    for name in (FIVE, TWO, ONE):
        load(bench, name)
        clock.now += 1
    bench.reply(GenerateReply, c.Generate(model_id=ONE, prompt="x", steps=1), ONE)
    assert tiers(bench) == dict.fromkeys(left, Tier.VRAM)
    if budget < 9000:
        assert bench.moves()[-1] == (FIVE, "disk", f"evicted: room for a run of {ONE}")


def test_for_a_run_that_fits_in_no_case_nobody_leaves(profiles: Path) -> None:
    bench = Bench(profiles, worker_spec(profiles, "virtual:0", budget_bytes=6500, ram_budget_bytes=0))
    load(bench, FIVE, pin=True)
    load(bench, ONE)
    assert bench.run(c.Generate(model_id=FIVE, prompt="x", steps=1), FIVE).reply.error is None
    assert set(tiers(bench)) == {FIVE}, "1000 bytes are there once the other one has left"
    bench = Bench(profiles, worker_spec(profiles, "virtual:0", budget_bytes=7900, ram_budget_bytes=0))
    load(bench, FIVE, pin=True)
    load(bench, TWO, pin=True)
    assert bench.run(c.Generate(model_id=FIVE, prompt="x", steps=1), FIVE).reply.error is None
    assert set(tiers(bench)) == {FIVE, TWO}
