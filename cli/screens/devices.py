"""Devices: `ps`, `devices` and `status`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.screens.bars import MemoryBar, level_text
from cli.units import ago, duration, size
from protocol.enums import DeviceState, Tier
from protocol.replies import DeviceInfo, GetVramModelStatusReply, HelloReply, ListDevicesReply

NARROW = 100
STATES = {
    DeviceState.STARTING: "yellow",
    DeviceState.READY: "green",
    DeviceState.BUSY: "cyan",
    DeviceState.DRAINING: "yellow",
    DeviceState.LOST: "red",
    DeviceState.DISABLED: "red",
}
TIERS = {Tier.VRAM: "green", Tier.RAM: "cyan", Tier.DISK: "dim"}


def table(*columns: str, right: frozenset[str] = frozenset()) -> Table:
    """A table as all of them look."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def ps_view(reply: ListDevicesReply, width: int) -> RenderableType:
    """Each device with its memory and its running command, then what is resident."""
    return Group(_memory_table(reply.devices, width), Text(), _resident_table(reply.devices, width))


def _memory_table(devices: list[DeviceInfo], width: int) -> Table:
    wide = width >= NARROW
    names = ("DEVICE", "STATE", "VRAM", "USED / TOTAL", "PRESSURE", *(("QUEUE",) if wide else ()), "RUNNING")
    made = table(*names, right=frozenset({"USED / TOTAL", "QUEUE"}))
    for device in devices:
        bar = MemoryBar(device.used_vram, device.total_vram, device.memory_pressure, 24 if wide else 10)
        cells: list[RenderableType] = [
            Text(device.device_id, style="bold"),
            state_text(device.state),
            bar,
            f"{size(device.used_vram)} / {size(device.total_vram)}",
            level_text(device.memory_pressure),
        ]
        if wide:
            cells.append(str(device.queue_depth))
        made.add_row(*cells, running_text(device))
    return made


def _resident_table(devices: list[DeviceInfo], width: int) -> RenderableType:
    rows = [(device.device_id, model) for device in devices for model in device.models]
    if not rows:
        return Text("no models are held", style="dim")
    wide = width >= NARROW
    more = ("PRECISION", "SESSIONS", "LAST USED") if wide else ()
    made = table("MODEL", "DEVICE", "TIER", "BYTES", *more, "PINNED", right=frozenset({"BYTES", "SESSIONS"}))
    for device_id, model in rows:
        extra = (model.precision.value, str(model.sessions), ago(model.last_used)) if wide else ()
        tier = Text(model.tier.value, style=TIERS[model.tier])
        pinned = "pinned" if model.pinned else ""
        made.add_row(Text(model.model_id), device_id, tier, size(model.bytes), *extra, pinned)
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
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
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
        f" at {endpoint}, epoch {hello.epoch}, {ready} of {len(reply.devices)} devices ready",
    )
    made = table("DEVICE", "NAME", "STATE", "USED", "TOTAL", "PRESSURE", "MODELS", right=frozenset({"USED", "TOTAL"}))
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
    made = table("MODEL", "DEVICE", "TIERS", "BYTES", "PRECISION", "HEALTH", "LAST USED", right=frozenset({"BYTES"}))
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
