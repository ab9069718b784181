"""One method for each command, for the client for threads: typed fields in, the command's own reply out.

Every method raises what the client's `send` raises. `client.aio_calls` is its twin.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Unpack

import msgspec

from client import fields as f
from client.answers import Answer, as_kind, stored
from client.images import pictured
from protocol import commands as c
from protocol import replies as r
from protocol.enums import ComponentRole, JobState

R = TypeVar("R", bound=r.Reply)
OnProgress = Callable[[r.ProgressReply], None] | None
POLL_SECONDS = 0.1


class Calls(ABC):
    """The helper methods; the client adds `call`."""

    @abstractmethod
    def call(
        self,
        command: c.Command,
        attachments: Sequence[bytes] = (),
        *,
        timeout: float | None = None,
        on_progress: OnProgress = None,
    ) -> Answer[r.Reply]:
        """Send a command and wait for its final answer."""

    def ask(
        self, command: c.Command, kind: type[R], attachments: Sequence[bytes] = (), on_progress: OnProgress = None
    ) -> Answer[R]:
        """`call` for a command whose kind of reply is known; progress is asked for where somebody listens."""
        if on_progress is not None:
            command = msgspec.structs.replace(command, stream_progress=True)
        return as_kind(self.call(command, attachments, on_progress=on_progress), kind)

    def accept(self, command: c.Command, attachments: Sequence[bytes] = ()) -> r.AcceptedReply:
        """Send a command of the device or catalog lane and return once it is accepted; `wait_for` gives its outcome."""
        hurried = msgspec.structs.replace(command, wait_for_completion=False)
        return (self.ask(hurried, r.AcceptedReply, attachments)).reply

    def result(self, target_request_id: str) -> Answer[r.GetResultReply]:
        """A command's stored final reply, with its attachments, or its live state."""
        return self.ask(c.GetResult(target_request_id=target_request_id), r.GetResultReply)

    def wait_for(self, target_request_id: str) -> Answer[r.Reply]:
        """The outcome of a command that was accepted earlier, here or by another client; waits as long as it runs.

        Raises LookupError where the broker does not know the command.
        """
        while True:
            answer = self.result(target_request_id)
            match answer.reply.job_state:
                case JobState.UNKNOWN:
                    raise LookupError(f"the broker knows no command '{target_request_id}'")
                case JobState.FINAL:
                    return stored(answer)
                case _:
                    time.sleep(POLL_SECONDS)

    def generate(
        self,
        model_id: str,
        prompt: str,
        *,
        image: bytes | None = None,
        mask: bytes | None = None,
        on_progress: OnProgress = None,
        **fields: Unpack[f.GenerateFields],
    ) -> Answer[r.GenerateReply]:
        """Draw images. `client.pictures` reads the answer.

        `image` is the file to start from (image-to-image), `mask` one that is white where to paint on it (inpaint).
        Raises ValueError for a mask without an image.
        """
        names, files = pictured(image, mask)
        command = c.Generate(model_id=model_id, prompt=prompt, attachments=names, **fields)
        return self.ask(command, r.GenerateReply, files, on_progress)

    def ping(self, **fields: Unpack[f.Common]) -> r.PingReply:
        """Whether the broker is alive, and its epoch."""
        return self.ask(c.Ping(**fields), r.PingReply).reply

    def hello(self, **fields: Unpack[f.HelloFields]) -> r.HelloReply:
        """The broker's version, limits and actions; sets this connection's conventions."""
        return self.ask(c.Hello(**fields), r.HelloReply).reply

    def devices(self, **fields: Unpack[f.Common]) -> r.ListDevicesReply:
        """Every device, or the one of `device_id`."""
        return self.ask(c.ListDevices(**fields), r.ListDevicesReply).reply

    def models(self, **fields: Unpack[f.ListModelsFields]) -> r.ListModelsReply:
        """A page of the catalogue."""
        return self.ask(c.ListModels(**fields), r.ListModelsReply).reply

    def info(self, model_id: str, **fields: Unpack[f.GetModelInfoFields]) -> r.GetModelInfoReply:
        """All that is known of one model."""
        return self.ask(c.GetModelInfo(model_id=model_id, **fields), r.GetModelInfoReply).reply

    def search(self, query: str, **fields: Unpack[f.SearchModelsFields]) -> r.SearchModelsReply:
        """Ranked full-text search."""
        return self.ask(c.SearchModels(query=query, **fields), r.SearchModelsReply).reply

    def update_metadata(
        self, model_id: str, metadata: dict[str, Any], **fields: Unpack[f.UpdateMetadataFields]
    ) -> r.UpdateMetadataReply:
        """Change what people say of a model, all or nothing."""
        return self.ask(c.UpdateMetadata(model_id=model_id, metadata=metadata, **fields), r.UpdateMetadataReply).reply

    def scan(self, **fields: Unpack[f.ScanModelsFields]) -> r.ScanModelsReply:
        """Look for models beneath the configured roots."""
        return self.ask(c.ScanModels(**fields), r.ScanModelsReply).reply

    def register(self, model_path: str, **fields: Unpack[f.RegisterModelFields]) -> r.RegisterModelReply:
        """Add one file or folder, as the broker's machine names it."""
        return self.ask(c.RegisterModel(model_path=model_path, **fields), r.RegisterModelReply).reply

    def unregister(self, model_id: str, **fields: Unpack[f.Common]) -> r.UnregisterModelReply:
        """Take a model out of the catalogue, until it is registered again; its files stay."""
        return self.ask(c.UnregisterModel(model_id=model_id, **fields), r.UnregisterModelReply).reply

    def status(self, model_id: str = "", **fields: Unpack[f.StatusFields]) -> r.GetVramModelStatusReply:
        """What is held where: one model, or all."""
        return self.ask(c.GetVramModelStatus(model_id=model_id, **fields), r.GetVramModelStatusReply).reply

    def load(
        self, model_id: str, *, on_progress: OnProgress = None, **fields: Unpack[f.LoadFields]
    ) -> r.LoadModelReply:
        """Bring a model onto a device."""
        return self.ask(c.LoadModel(model_id=model_id, **fields), r.LoadModelReply, on_progress=on_progress).reply

    def plan(self, model_id: str, **fields: Unpack[f.LoadFields]) -> r.PlanReply:
        """What a load would do, without doing it."""
        return self.ask(c.Plan(model_id=model_id, **fields), r.PlanReply).reply

    def unload(self, model_id: str, **fields: Unpack[f.UnloadFields]) -> r.UnloadModelReply:
        """Take a model off its device."""
        return self.ask(c.UnloadModel(model_id=model_id, **fields), r.UnloadModelReply).reply

    def pin(self, model_id: str, **fields: Unpack[f.Common]) -> r.PinModelReply:
        """Protect a model from eviction and expiry."""
        return self.ask(c.PinModel(model_id=model_id, **fields), r.PinModelReply).reply

    def unpin(self, model_id: str, **fields: Unpack[f.Common]) -> r.UnpinModelReply:
        """Lift a pin."""
        return self.ask(c.UnpinModel(model_id=model_id, **fields), r.UnpinModelReply).reply

    def validate(self, model_id: str, **fields: Unpack[f.ValidateFields]) -> r.ValidateModelReply:
        """Check a file and whether it can run on a device."""
        return self.ask(c.ValidateModel(model_id=model_id, **fields), r.ValidateModelReply).reply

    def optimize(self, model_id: str, **fields: Unpack[f.OptimizeFields]) -> r.OptimizeModelReply:
        """Make a model faster, smaller or better, measured."""
        return self.ask(c.OptimizeModel(model_id=model_id, **fields), r.OptimizeModelReply).reply

    def benchmark(self, model_id: str, **fields: Unpack[f.BenchmarkFields]) -> r.BenchmarkModelReply:
        """Time a model on a device."""
        return self.ask(c.BenchmarkModel(model_id=model_id, **fields), r.BenchmarkModelReply).reply

    def load_component(
        self, model_id: str, component: ComponentRole, **fields: Unpack[f.ComponentFields]
    ) -> r.LoadComponentReply:
        """Replace or add one part of a resident model."""
        return self.ask(c.LoadComponent(model_id=model_id, component=component, **fields), r.LoadComponentReply).reply

    def unload_component(
        self, model_id: str, component: ComponentRole, **fields: Unpack[f.ComponentFields]
    ) -> r.UnloadComponentReply:
        """Restore a model's own part, or remove an added one."""
        command = c.UnloadComponent(model_id=model_id, component=component, **fields)
        return self.ask(command, r.UnloadComponentReply).reply

    def components(self, model_id: str, **fields: Unpack[f.Common]) -> r.ListComponentsReply:
        """The parts of a resident model."""
        return self.ask(c.ListComponents(model_id=model_id, **fields), r.ListComponentsReply).reply

    def cancel(self, target_request_id: str, **fields: Unpack[f.TargetFields]) -> r.CancelReply:
        """Stop a command, whatever its stage."""
        return self.ask(c.Cancel(target_request_id=target_request_id, **fields), r.CancelReply).reply

    def explain(self, target_request_id: str, **fields: Unpack[f.TargetFields]) -> r.ExplainReply:
        """Why a command went where it went."""
        return self.ask(c.Explain(target_request_id=target_request_id, **fields), r.ExplainReply).reply

    def drain_device(self, device_id: str) -> r.DrainDeviceReply:
        """Give a device no new work."""
        return self.ask(c.DrainDevice(device_id=device_id), r.DrainDeviceReply).reply

    def resume_device(self, device_id: str) -> r.ResumeDeviceReply:
        """Give a drained device work again."""
        return self.ask(c.ResumeDevice(device_id=device_id), r.ResumeDeviceReply).reply

    def restart_worker(self, device_id: str, *, force: bool = False) -> r.RestartWorkerReply:
        """End a device's worker, once what it runs has ended or at once, and start a fresh one."""
        return self.ask(c.RestartWorker(device_id=device_id, force=force), r.RestartWorkerReply).reply
