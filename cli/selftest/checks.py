"""What a device has to prove, each check by use: what was seen, and whether that is right.

A check that finds something wrong says so and lets the others go on. Figures are told where there are some; a figure
alone fails nothing.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import psutil

from cli.selftest.private import PrivateBroker
from cli.units import duration, size
from client.answers import CommandFailed
from protocol import commands as c
from protocol.enums import CancelOutcome, DeviceKind, DeviceState, LoadSource, ModelPrecision, Tier
from protocol.errors import ErrorCode, ErrorInfo
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization, ModelPerformanceOptimization, Record
from protocol.replies import DeviceInfo, LoadModelReply

CLOCK_SECONDS = 0.5
DRIFT = 0.02
"""By how much two clocks of this machine may disagree."""

TOLERANCE = {DeviceKind.CUDA: 64 << 20, DeviceKind.CPU: 0, DeviceKind.VIRTUAL: 0}
"""Bytes by which a device's own figure may be off: others use a card, too."""

PROMOTIONS = 5
RSS_TOLERANCE = 0.25
"""Of a process whose memory is read twice, one after the other."""

CANCEL_SECONDS = 5.0
SIDE = 64


class Wrong(Exception):
    """What was seen is not right; the text says what and what was expected."""


class Finding(Record, frozen=True, kw_only=True):
    """One check: its outcome in words, with numbers, and how long it took."""

    check: str
    passed: bool
    text: str
    ms: float


Check = Callable[[PrivateBroker], str]


def run(broker: PrivateBroker) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Every check's name, and what carries it out."""
    for name, check in CHECKS.items():
        yield name, partial(_carried_out, name, check, broker)


def _carried_out(name: str, check: Check, broker: PrivateBroker) -> Finding:
    began = time.perf_counter()
    try:
        passed, text = True, check(broker)
    except Wrong as wrong:
        passed, text = False, str(wrong)
    except CommandFailed as failed:
        passed, text = False, f"a command failed that must not: {failed}"
    except Exception as error:
        passed, text = False, f"the check could not be carried out: {type(error).__name__}: {error}"
    return Finding(check=name, passed=passed, text=text, ms=(time.perf_counter() - began) * 1000)


def must(condition: bool, text: str) -> None:
    if not condition:
        raise Wrong(text)


def clocks(_: PrivateBroker) -> str:
    wall, steady = time.time(), time.monotonic()
    time.sleep(CLOCK_SECONDS)
    passed_wall, passed_steady = time.time() - wall, time.monotonic() - steady
    off = abs(passed_wall - passed_steady)
    must(off < DRIFT, f"the wall clock and the steady one differ by {off * 1000:.0f} ms after {CLOCK_SECONDS} s")
    return f"two clocks differ by {off * 1000:.2f} ms after {CLOCK_SECONDS:g} s"


def identity(broker: PrivateBroker) -> str:
    device = broker.device
    must(device.total_vram > 0, f"the device says that it has {device.total_vram} bytes")
    must(bool(device.uuid and device.name), "the device has no name or no UUID")
    return f"{device.device_id}, {device.name}, {size(device.total_vram)}"


def reading(broker: PrivateBroker) -> str:
    reply = _load(broker, force=True)
    must(reply.cache.source is LoadSource.DISK, f"a forced load came from {reply.cache.source.value}")
    must(reply.memory_usage > 0, "the loaded model has no bytes on the device")
    rate = reply.memory_usage / max(reply.load_time, 0.001) / 1e6
    return f"{size(reply.memory_usage)} from disk in {duration(reply.load_time)}, {rate:.2f} GB/s"


def exact_return(broker: PrivateBroker) -> str:
    client, tolerance = broker.client, TOLERANCE[broker.device.kind]
    client.unload(broker.model, clear_cache=True)
    before = _used(broker)
    loaded = _load(broker).memory_usage
    taken = _used(broker) - before
    must(abs(taken - loaded) <= tolerance, f"the model has {loaded} bytes, and the device {taken} more than before")
    freed = client.unload(broker.model, clear_cache=True).memory_freed
    left = _used(broker) - before
    must(abs(left) <= tolerance, f"{left} bytes did not come back")
    must(abs(freed - loaded) <= tolerance, f"{freed} bytes were said to be freed of {loaded}")
    return f"{size(loaded)} taken and given back{'' if tolerance else ' to the byte'}"


def promotion(broker: PrivateBroker) -> str:
    client = broker.client
    bytes_, times = 0, list[float]()
    _load(broker)
    for _ in range(PROMOTIONS):
        client.unload(broker.model)
        reply = _load(broker)
        must(reply.cache.source is LoadSource.RAM, f"a model that left for RAM came from {reply.cache.source.value}")
        bytes_ = reply.memory_usage
        times.append(reply.timing.promote_ms or reply.load_time)
    median = statistics.median(times)
    limit = _copy_rate(bytes_)
    rate = bytes_ / max(median, 0.001) / 1e6
    return f"{size(bytes_)} from RAM in {duration(median)}, {rate:.2f} GB/s; one copy in memory {limit:.2f} GB/s"


def budget(broker: PrivateBroker) -> str:
    first, before = _picture(broker), _used(broker)
    share = ModelMemoryOptimization(memory_fraction=1e-9)
    beyond = ModelLoadConfiguration(memory_optimization=share)
    error = _error(broker, c.LoadModel(model_id=broker.model, configuration=beyond))
    must(error.code is ErrorCode.INSUFFICIENT_MEMORY, f"a load beyond its share was answered {error.code.value}")
    numbers = {"needed_bytes", "free_bytes", "total_bytes"}
    must(numbers <= error.details.keys(), f"the refusal lacks {', '.join(sorted(numbers - error.details.keys()))}")
    must(abs(_used(broker) - before) <= TOLERANCE[broker.device.kind], "a refused load left bytes behind")
    must(_picture(broker) == first, "after a refused load the same seed draws another picture")
    return "a load beyond its share is refused with the numbers, and changes nothing"


def out_of_memory(broker: PrivateBroker) -> str:
    if broker.device.kind is DeviceKind.VIRTUAL:
        return "a virtual device's runs take no memory of their own"
    first, loaded = _picture(broker), _load(broker).memory_usage
    share = (loaded + (loaded >> 10)) / broker.device.total_vram
    bounded = ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(memory_fraction=share))
    _load(broker, configuration=bounded)
    before = _used(broker)
    draw = _draw(broker, allow_degraded=False)
    for _ in range(3):
        error = _error(broker, draw)
        must(error.code is ErrorCode.INSUFFICIENT_MEMORY, f"a run out of memory was answered {error.code.value}")
        must(abs(_used(broker) - before) <= TOLERANCE[broker.device.kind], "a run out of memory left bytes behind")
    _load(broker, configuration=ModelLoadConfiguration())
    must(_picture(broker) == first, "after running out of memory the same seed draws another picture")
    return "3 runs out of memory: refused each time, no byte left behind, the same picture afterwards"


def pictures(broker: PrivateBroker) -> str:
    first = _picture(broker)
    must(_picture(broker) == first, "the same seed draws two pictures")
    must(_picture(broker, seed=8) != first, "two seeds draw the same picture")
    _load(broker, force=True)
    must(_picture(broker) == first, "loaded anew, the same seed draws another picture")
    return "equal for equal seeds, also loaded anew; others for others"


def options(broker: PrivateBroker) -> str:
    plain = _load(broker, configuration=ModelLoadConfiguration()).memory_usage
    first, applied, refused = _picture(broker), list[str](), list[str]()
    for name, configuration in OPTIONS.items():
        try:
            reply = _load(broker, configuration=configuration)
        except CommandFailed as failed:
            must(failed.code is ErrorCode.NOT_SUPPORTED, f"{name} was answered {failed.code.value}")
            refused.append(name)
            continue
        outcome = next(one for one in reply.options if one.requested not in (None, "Auto", False))
        if not outcome.applied:
            must(bool(outcome.reason), f"{name} is not applied, and nothing says why")
            refused.append(name)
            continue
        must(bool(outcome.evidence), f"{name} is said to be applied without evidence")
        if name in SMALLER and broker.device.kind is not DeviceKind.VIRTUAL:
            must(reply.memory_usage < plain, f"{name} is said to be applied and saves nothing")
        if name in SAME_PICTURE:
            must(_picture(broker) == first, f"{name} changes the picture")
        applied.append(name)
    _load(broker, configuration=ModelLoadConfiguration())
    must(_picture(broker) == first, "with every option undone the same seed draws another picture")
    text = f"applied with evidence: {', '.join(applied) or 'none'}"
    return f"{text}; refused with the reason: {', '.join(refused)}" if refused else text


def telemetry(broker: PrivateBroker) -> str:
    _load(broker)
    device = broker.device
    held = sum(model.bytes for model in device.models if model.tier is Tier.VRAM)
    tolerance = max(TOLERANCE[device.kind], 0)
    if device.kind is DeviceKind.CUDA:
        second = _nvml_used(device.uuid)
        off = abs(device.used_vram - second)
        must(off <= tolerance + held, f"{device.used_vram} bytes are used, NVML says {second}")
    else:
        must(device.used_vram == held, f"{device.used_vram} bytes are used, and its models have {held}")
    sample = device.telemetry
    must(sample is not None, "the device tells nothing of itself")
    assert sample is not None
    silent = [name for name in SENSORS if getattr(sample, name) is None and name not in sample.missing]
    must(not silent, f"{', '.join(silent)}: neither a value nor a reason")
    rss = sample.host.rss_bytes
    if rss is not None and device.pid is not None:
        second = psutil.Process(device.pid).memory_info().rss
        must(abs(rss - second) <= RSS_TOLERANCE * second, f"the worker says it has {rss} bytes, the system {second}")
    return f"{size(device.used_vram)} used by two readings; {len(sample.missing)} absent readings, each with its reason"


def cancelling(broker: PrivateBroker) -> str:
    client, request_id = broker.client, "selftest-cancel"
    client.accept(_draw(broker, steps=5000, request_id=request_id))
    broker.wait("a running picture", lambda: broker.device.state is DeviceState.BUSY)
    began = time.monotonic()
    outcome = client.cancel(request_id).outcome
    must(outcome is not CancelOutcome.UNKNOWN, "a running command is unknown to a cancel")
    ended = "well"
    try:
        client.wait_for(request_id)
    except CommandFailed as failed:
        ended = failed.info.code.value
    seconds = time.monotonic() - began
    must(ended == ErrorCode.CANCELLED.value, f"a cancelled command ended {ended}")
    must(seconds < CANCEL_SECONDS, f"it took {seconds:.1f} s to stop a running picture")
    return f"a running picture stopped after {seconds * 1000:.0f} ms"


def recovery(broker: PrivateBroker) -> str:
    first, pid = _picture(broker), broker.device.pid
    must(pid is not None, "the worker has no process id")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    broker.wait("another worker", lambda: _is_another(broker.device, pid))
    seconds = time.monotonic() - began
    must(_picture(broker) == first, "the next worker draws another picture for the same seed")
    return f"a killed worker was replaced after {seconds:.1f} s, and draws the same picture"


def _is_another(device: DeviceInfo, pid: int) -> bool:
    return device.pid not in (None, pid) and device.state is DeviceState.READY


def _load(broker: PrivateBroker, **fields: object) -> LoadModelReply:
    command = c.LoadModel(model_id=broker.model, **fields)  # type: ignore[arg-type]
    reply = broker.client.call(command).reply
    assert isinstance(reply, LoadModelReply)
    return reply


def _draw(broker: PrivateBroker, **fields: object) -> c.Generate:
    chosen: dict[str, object] = {"prompt": "a boat", "steps": 2, "seed": 7, "width": SIDE, "height": SIDE, **fields}
    return c.Generate(model_id=broker.model, **chosen)  # type: ignore[arg-type]


def _picture(broker: PrivateBroker, **fields: object) -> bytes:
    answer = broker.client.call(_draw(broker, **fields))
    must(bool(answer.attachments), "a picture came without its file")
    return answer.attachments[0]


def _error(broker: PrivateBroker, command: c.Command) -> ErrorInfo:
    """The error of a command that is to fail."""
    try:
        broker.client.call(command)
    except CommandFailed as failed:
        return failed.info
    raise Wrong(f"{type(command).__name__} succeeded, and must not")


def _used(broker: PrivateBroker) -> int:
    return broker.client.devices().devices[0].used_vram


def _copy_rate(count: int) -> float:
    """Gigabytes a second of one copy of so many bytes in memory that is there already."""
    source, target = bytearray(count), bytearray(count)
    times = []
    for _ in range(PROMOTIONS):
        began = time.perf_counter()
        target[:] = source
        times.append(time.perf_counter() - began)
    return count / max(statistics.median(times), 1e-9) / 1e9


def _nvml_used(uuid: str) -> int:
    import pynvml  # noqa: PLC0415 - on CUDA alone

    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid)).used)


def _memory(**fields: bool) -> ModelLoadConfiguration:
    return ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(**fields))


def _performance(**fields: bool) -> ModelLoadConfiguration:
    return ModelLoadConfiguration(performance_optimization=ModelPerformanceOptimization(**fields))


OPTIONS = {
    "Float16": ModelLoadConfiguration(precision=ModelPrecision.Float16),
    "Int8": ModelLoadConfiguration(precision=ModelPrecision.Int8),
    "Int4": ModelLoadConfiguration(precision=ModelPrecision.Int4),
    "Float8": ModelLoadConfiguration(precision=ModelPrecision.Float8),
    "attention slicing": _memory(enable_attention_slicing=True),
    "CPU offloading": _memory(enable_cpu_offloading=True),
    "splitting": _memory(enable_model_splitting=True),
    "flash attention": _performance(enable_flash_attention=True),
    "compilation": _performance(enable_compilation=True),
    "TensorRT": _performance(enable_tensor_rt=True),
    "ONNX": _performance(enable_onnx=True),
}
SMALLER = frozenset({"Float16", "Int8", "Int4", "Float8", "CPU offloading", "splitting"})
"""Options that take fewer bytes of the device than a model in Float32 whole on it."""

SAME_PICTURE = frozenset({"CPU offloading", "splitting"})
SENSORS = ("utilization", "temperature_c", "power_w", "energy_j", "torch")

CHECKS: dict[str, Check] = {
    "clocks": clocks,
    "identity": identity,
    "reading": reading,
    "exact return": exact_return,
    "promotion": promotion,
    "budget": budget,
    "out of memory": out_of_memory,
    "pictures": pictures,
    "options": options,
    "telemetry": telemetry,
    "cancelling": cancelling,
    "recovery": recovery,
}
