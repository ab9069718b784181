"""Devices: `ps`, `devices` and `status`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.screens.bars import MemoryBar, level_text
from cli.screens.grid import Grid, facts_table
from cli.units import ago, duration, size
from protocol.enums import DeviceState, Tier
from protocol.replies import DeviceInfo, GetVramModelStatusReply, HelloReply, ListDevicesReply

LEAST_PREFIX = 4
"""Characters of a request id that are bold at least: fewer are mistyped too easily."""
STATES = {
    DeviceState.STARTING: "yellow",
    DeviceState.READY: "green",
    DeviceState.BUSY: "cyan",
    DeviceState.DRAINING: "yellow",
    DeviceState.DRAINED: "blue",
    DeviceState.LOST: "red",
    DeviceState.DISABLED: "red",
}
TIERS = {Tier.VRAM: "green", Tier.RAM: "cyan", Tier.DISK: "dim"}


def ps_view(reply: ListDevicesReply) -> RenderableType:
    """Each device with its memory, then what runs and waits, then what is resident."""
    return Group(_memory(reply.devices), Text(), _work(reply), Text(), _resident(reply.devices))


def _memory(devices: list[DeviceInfo]) -> RenderableType:
    made = Grid(
        *("DEVICE", "STATE", "VRAM", "USED / TOTAL", "PRESSURE", "QUEUE"),
        right=("USED / TOTAL", "QUEUE"),
        spare=("VRAM", "PRESSURE"),
    )
    for device in devices:
        made.add_row(
            Text(device.device_id, style="bold"),
            state_text(device.state),
            MemoryBar(device.used_vram, device.total_vram, device.memory_pressure),
            f"{size(device.used_vram)} / {size(device.total_vram)}",
            level_text(device.memory_pressure),
            str(device.queue_depth),
        )
    return made


def _work(reply: ListDevicesReply) -> RenderableType:
    """What runs and what waits, each under its request id; what tells it from the others here is bold."""
    running = [(device.device_id, device.running) for device in reply.devices if device.running is not None]
    if not running and not reply.waiting:
        return Text("nothing runs, nothing waits", style="dim")
    ids = [command.request_id for _, command in running] + [command.request_id for command in reply.waiting]
    made = Grid("REQUEST", "DEVICE", "COMMAND", "AT", spare=())
    for device_id, command in running:
        done = f"step {command.step} of {command.steps}" if command.step is not None and command.steps else "runs"
        what = f"{command.action} {command.model_id}".rstrip()
        made.add_row(request_text(command.request_id, ids), device_id, what, Text(done, style="cyan"))
    for waits in reply.waiting:
        what = f"{waits.action} {waits.model_id}".rstrip()
        made.add_row(request_text(waits.request_id, ids), waits.device_id, what, Text("waits", style="dim"))
    unnamed = sum(device.queue_depth for device in reply.devices) - len(reply.waiting)
    return Group(made, Text(f"and {unnamed} more that wait", style="dim")) if unnamed > 0 else made


def request_text(request_id: str, others: Sequence[str]) -> Text:
    """A request id whose beginning, as long as it has to be to name no other of these, is bold."""
    rivals = [other for other in others if other != request_id]
    length = next(
        (
            count
            for count in range(LEAST_PREFIX, len(request_id))
            if not any(other.startswith(request_id[:count]) for other in rivals)
        ),
        len(request_id),
    )
    return Text.assemble((request_id[:length], "bold"), (request_id[length:], "dim"))


def _resident(devices: list[DeviceInfo]) -> RenderableType:
    rows = [(device.device_id, model) for device in devices for model in device.models]
    if not rows:
        return Text("no models are held", style="dim")
    made = Grid(
        *("MODEL", "DEVICE", "TIER", "BYTES", "PRECISION", "SESSIONS", "LAST USED", "PINNED"),
        right=("BYTES", "SESSIONS"),
        spare=("SESSIONS", "LAST USED", "PRECISION"),
    )
    for device_id, model in rows:
        made.add_row(
            model.model_id,
            device_id,
            Text(model.tier.value, style=TIERS[model.tier]),
            size(model.bytes),
            model.precision.value,
            str(model.sessions),
            ago(model.last_used),
            "pinned" if model.pinned else "",
        )
    return made


def state_text(state: DeviceState) -> Text:
    """A device's state in its colour."""
    return Text(state.value, style=STATES[state])


def running_text(device: DeviceInfo) -> Text:
    """What a device does now, with its step where it has one."""
    running = device.running
    if running is None:
        return Text("-", style="dim")
    steps = f" {running.step}/{running.steps}" if running.step is not None and running.steps else ""
    return Text(f"{running.action} {running.model_id}{steps}")


def devices_view(reply: ListDevicesReply) -> RenderableType:
    """Each device as hardware and as a process."""
    return Group(*(part for device in reply.devices for part in (_device_facts(device), Text())))


def _device_facts(device: DeviceInfo) -> Table:
    made = facts_table()
    made.add_row(Text(device.device_id, style="bold"), Text(f"{device.name} ({device.kind.value})"))
    made.add_row("uuid", Text(device.uuid))
    made.add_row("state", state_text(device.state))
    memory = f"{size(device.used_vram)} used, {size(device.free_vram)} free of {size(device.total_vram)}"
    made.add_row("memory", memory)
    made.add_row("pressure", level_text(device.memory_pressure))
    made.add_row("sensors", Text(sensors(device)))
    made.add_row("running", running_text(device))
    made.add_row("queue", str(device.queue_depth))
    worker = f"pid {device.pid or '-'}, generation {device.generation}, restarts {device.restarts}"
    made.add_row("worker", f"{worker}, up {duration(device.uptime_seconds * 1000)}")
    made.add_row("models", Text(", ".join(model.model_id for model in device.models) or "-"))
    return made


def sensors(device: DeviceInfo) -> str:
    """Readings that the device has."""
    sample = device.telemetry
    if sample is None:
        return "-"
    readings = (
        (sample.utilization, "{:.0%} busy"),
        (sample.temperature_c, "{:.0f} °C"),
        (sample.power_w, "{:.0f} W"),
    )
    return ", ".join(text.format(value) for value, text in readings if value is not None) or "none on this device"


def status_view(hello: HelloReply, endpoint: str, reply: GetVramModelStatusReply) -> RenderableType:
    """The broker in one line, each device in one, each model held in one."""
    ready = sum(is_ready(device) for device in reply.devices)
    head = Text.assemble(
        (f"{hello.server} {hello.version}", "bold"),
        f" at {endpoint}, {ready} of {len(reply.devices)} devices ready, epoch {hello.epoch}",
    )
    made = Grid(
        *("DEVICE", "NAME", "STATE", "USED", "TOTAL", "PRESSURE", "MODELS"),
        right=("USED", "TOTAL", "MODELS"),
        spare=("NAME", "PRESSURE", "MODELS"),
    )
    for device in reply.devices:
        made.add_row(
            Text(device.device_id, style="bold"),
            Text(device.name),
            state_text(device.state),
            size(device.used_vram),
            size(device.total_vram),
            level_text(device.memory_pressure),
            str(len(device.models)),
        )
    return Group(head, Text(), made, *_status_models(reply))


def _status_models(reply: GetVramModelStatusReply) -> list[RenderableType]:
    if not reply.models:
        return []
    made = Grid(
        *("MODEL", "DEVICE", "TIERS", "BYTES", "PRECISION", "HEALTH", "LAST USED"),
        right=("BYTES", "HEALTH"),
        spare=("HEALTH", "LAST USED", "PRECISION"),
    )
    for model in reply.models:
        made.add_row(
            Text(model.model_id),
            model.device_id or "-",
            " ".join(tier.value for tier in model.tiers),
            size(model.bytes),
            model.precision.value,
            f"{model.health:.0%}",
            ago(model.last_used),
        )
    return [Text(), made]


def is_ready(device: DeviceInfo) -> bool:
    """Whether a device takes work now."""
    return device.state in (DeviceState.READY, DeviceState.BUSY)
