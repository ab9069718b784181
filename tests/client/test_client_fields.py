"""The typed fields of the helper methods are the fields of the commands."""

from __future__ import annotations

import pytest
from msgspec import Struct

from client import fields as f
from client.aio_calls import AsyncCalls
from client.calls import Calls
from protocol import commands as c
from protocol.actions import BY_COMMAND

METHODS: dict[str, tuple[type | None, type[Struct]]] = {
    "ping": (f.Common, c.Ping),
    "hello": (f.HelloFields, c.Hello),
    "devices": (f.Common, c.ListDevices),
    "models": (f.ListModelsFields, c.ListModels),
    "info": (f.GetModelInfoFields, c.GetModelInfo),
    "search": (f.SearchModelsFields, c.SearchModels),
    "update_metadata": (f.UpdateMetadataFields, c.UpdateMetadata),
    "scan": (f.ScanModelsFields, c.ScanModels),
    "register": (f.RegisterModelFields, c.RegisterModel),
    "unregister": (f.Common, c.UnregisterModel),
    "status": (f.StatusFields, c.GetVramModelStatus),
    "load": (f.LoadFields, c.LoadModel),
    "plan": (f.LoadFields, c.Plan),
    "unload": (f.UnloadFields, c.UnloadModel),
    "pin": (f.Common, c.PinModel),
    "unpin": (f.Common, c.UnpinModel),
    "validate": (f.ValidateFields, c.ValidateModel),
    "optimize": (f.OptimizeFields, c.OptimizeModel),
    "benchmark": (f.BenchmarkFields, c.BenchmarkModel),
    "load_component": (f.ComponentFields, c.LoadComponent),
    "unload_component": (f.ComponentFields, c.UnloadComponent),
    "components": (f.Common, c.ListComponents),
    "generate": (f.GenerateFields, c.Generate),
    "cancel": (f.TargetFields, c.Cancel),
    "result": (None, c.GetResult),
    "explain": (f.TargetFields, c.Explain),
    "drain_device": (None, c.DrainDevice),
    "resume_device": (None, c.ResumeDevice),
    "restart_worker": (None, c.RestartWorker),
}
SUBJECTS = {"model_id", "model_path", "target_request_id", "query", "metadata", "component", "prompt", "device_id"}
LEFT_OUT = {"wait_for_completion", "stream_progress", "attachments", "force_unload"}


@pytest.mark.parametrize("method", list(METHODS))
def test_a_method_takes_every_field_of_its_command(method: str) -> None:
    fields, command = METHODS[method]
    assert hasattr(Calls, method) and hasattr(AsyncCalls, method)
    if fields is not None:
        keys = set(fields.__annotations__)
        known = set(command.__struct_fields__)
        assert keys <= known
        assert known - keys <= SUBJECTS | LEFT_OUT


def test_every_action_has_a_method() -> None:
    assert {command for _, command in METHODS.values()} == set(BY_COMMAND)
