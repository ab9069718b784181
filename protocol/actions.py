"""The table of actions: which struct, which lane, which deadline, which other names.

The one place that says what the protocol can be asked for.
"""

from __future__ import annotations

from typing import NamedTuple

from protocol import commands as c
from protocol import replies as r
from protocol.enums import Lane


class Action(NamedTuple):
    """One command of the wire.

    `timeout_seconds` is its default deadline, counted from arrival; `stored` whether its final reply is kept for
    `get_result`, as those of the device and catalog lanes are; `idempotent` whether it may run again after its worker
    was lost in the middle.
    """

    name: str
    command: type[c.Command]
    reply: type[r.Reply]
    lane: Lane
    timeout_seconds: float = 10.0
    aliases: tuple[str, ...] = ()
    stored: bool = False
    idempotent: bool = False


_TABLE = (
    Action("ping", c.Ping, r.PingReply, Lane.BROKER),
    Action("hello", c.Hello, r.HelloReply, Lane.BROKER),
    Action("list_devices", c.ListDevices, r.ListDevicesReply, Lane.BROKER),
    Action("list_models", c.ListModels, r.ListModelsReply, Lane.CATALOG),
    Action("get_model_info", c.GetModelInfo, r.GetModelInfoReply, Lane.CATALOG, aliases=("get_model",)),
    Action("search_models", c.SearchModels, r.SearchModelsReply, Lane.CATALOG),
    Action(
        "update_metadata",
        c.UpdateMetadata,
        r.UpdateMetadataReply,
        Lane.CATALOG,
        30.0,
        aliases=("update_model_metadata",),
    ),
    Action("scan_models", c.ScanModels, r.ScanModelsReply, Lane.CATALOG, 600.0),
    Action("register_model", c.RegisterModel, r.RegisterModelReply, Lane.CATALOG),
    Action("unregister_model", c.UnregisterModel, r.UnregisterModelReply, Lane.CATALOG),
    Action(
        "get_vram_model_status",
        c.GetVramModelStatus,
        r.GetVramModelStatusReply,
        Lane.CONTROL,
        aliases=("get_model_status",),
    ),
    Action("load_model", c.LoadModel, r.LoadModelReply, Lane.DEVICE, 300.0),
    Action("unload_model", c.UnloadModel, r.UnloadModelReply, Lane.DEVICE, 60.0),
    Action("pin_model", c.PinModel, r.PinModelReply, Lane.CONTROL),
    Action("unpin_model", c.UnpinModel, r.UnpinModelReply, Lane.CONTROL),
    Action("validate_model", c.ValidateModel, r.ValidateModelReply, Lane.DEVICE, 120.0),
    Action("optimize_model", c.OptimizeModel, r.OptimizeModelReply, Lane.DEVICE, 1800.0),
    Action("benchmark_model", c.BenchmarkModel, r.BenchmarkModelReply, Lane.DEVICE, 1800.0),
    Action("load_component", c.LoadComponent, r.LoadComponentReply, Lane.DEVICE, 300.0),
    Action("unload_component", c.UnloadComponent, r.UnloadComponentReply, Lane.DEVICE, 300.0),
    Action("list_components", c.ListComponents, r.ListComponentsReply, Lane.CONTROL),
    Action("generate", c.Generate, r.GenerateReply, Lane.DEVICE, 600.0),
    Action("cancel", c.Cancel, r.CancelReply, Lane.CONTROL),
    Action("get_result", c.GetResult, r.GetResultReply, Lane.BROKER),
    Action("explain", c.Explain, r.ExplainReply, Lane.BROKER),
    Action("plan", c.Plan, r.PlanReply, Lane.BROKER),
    Action("drain_device", c.DrainDevice, r.DrainDeviceReply, Lane.ADMIN),
    Action("resume_device", c.ResumeDevice, r.ResumeDeviceReply, Lane.ADMIN),
    Action("restart_worker", c.RestartWorker, r.RestartWorkerReply, Lane.ADMIN),
)

_STORED = frozenset({Lane.DEVICE, Lane.CATALOG})
_IDEMPOTENT = frozenset(
    {
        "list_models",
        "get_model_info",
        "search_models",
        "scan_models",
        "load_model",
        "unload_model",
        "validate_model",
    }
)

ACTIONS: dict[str, Action] = {
    action.name: action._replace(stored=action.lane in _STORED, idempotent=action.name in _IDEMPOTENT)
    for action in _TABLE
}
"""Every action by its name."""

BY_COMMAND: dict[type[c.Command], Action] = {action.command: action for action in ACTIONS.values()}
"""Every action by its command struct."""

ALIASES: dict[str, str] = {alias: action.name for action in _TABLE for alias in (action.name, *action.aliases)}
"""Every accepted action word, to the action's name."""
