"""`pin_model` and `unpin_model`: protection from eviction and expiry. Table work alone: runs in the I/O thread."""

from __future__ import annotations

from protocol import commands as c
from protocol.errors import invalid
from protocol.replies import PinModelReply, UnpinModelReply
from worker.engine import Engine, common
from worker.job import Job


def pin_model(engine: Engine, job: Job, command: c.PinModel) -> PinModelReply:
    """Pin a model that is on the device. Raises Fault INVALID_ARGUMENT where it is not."""
    if engine.cache.pin(command.model_id, pinned=True) is None:
        raise invalid("model_id", command.model_id, f"a model that is on {engine.spec.device_id}")
    fields = {**common(job), "model_id": command.model_id}
    return PinModelReply(**fields, message=f"{command.model_id} is pinned", pinned=True)


def unpin_model(engine: Engine, job: Job, command: c.UnpinModel) -> UnpinModelReply:
    """Lift a pin; of a model that is not on the device there is none to lift, which a warning says."""
    if engine.cache.pin(command.model_id, pinned=False) is None:
        job.warnings.append(f"{command.model_id} is not on {engine.spec.device_id}")
    fields = {**common(job), "model_id": command.model_id}
    return UnpinModelReply(**fields, message=f"{command.model_id} is not pinned", pinned=False)
