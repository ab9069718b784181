"""What each command does on a device: one file for each, found by the command's type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol import commands as c
from protocol.replies import ModelReply
from worker.actions.benchmark_model import benchmark_model
from worker.actions.components import load_component, unload_component
from worker.actions.generate import generate
from worker.actions.list_components import list_components
from worker.actions.load_model import load_model
from worker.actions.optimize_model import optimize_model
from worker.actions.pin_model import pin_model, unpin_model
from worker.actions.unload_model import unload_model
from worker.actions.validate_model import validate_model
from worker.engine import Engine
from worker.job import Job

Act = Callable[[Engine, Job, Any], ModelReply]


ACTIONS: dict[type[c.Command], Act] = {
    c.LoadModel: load_model,
    c.UnloadModel: unload_model,
    c.Generate: generate,
    c.PinModel: pin_model,
    c.UnpinModel: unpin_model,
    c.ListComponents: list_components,
    c.ValidateModel: validate_model,
    c.OptimizeModel: optimize_model,
    c.BenchmarkModel: benchmark_model,
    c.LoadComponent: load_component,
    c.UnloadComponent: unload_component,
}
