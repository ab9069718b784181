"""`python -m worker SPEC`: one worker process, from its environment to its exit status."""

from __future__ import annotations

import signal
import sys

from protocol.enums import DeviceKind
from protocol.link import Message, WorkerSpec, decode_worker_spec, encode
from settings import lifeline, logs
from worker import environment
from worker.devices.base import Device


def main() -> int:
    """Run the worker that the one argument describes; its exit status."""
    spec = decode_worker_spec(sys.argv[1])
    environment.pin(spec)
    lifeline.hold()
    logs.configure("worker", device_id=spec.device_id, generation=spec.generation)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return serve(spec)


def serve(spec: WorkerSpec) -> int:
    """Everything after the environment is pinned."""
    import zmq  # noqa: PLC0415 - nothing is opened before the lifeline holds

    from ramtier.tier import PrivateTier, SharedTier  # noqa: PLC0415
    from worker.engine import Engine  # noqa: PLC0415
    from worker.mailbox import Mailbox, Parcel  # noqa: PLC0415
    from worker.session import Session  # noqa: PLC0415

    mailbox = Mailbox()

    def tell(message: Message) -> None:
        mailbox.post(Parcel(frames=[encode(message)]))

    budget, channel = spec.ram_budget_bytes, spec.ram_tier_fd
    ram = SharedTier.inherited(channel, budget) if channel >= 0 else PrivateTier(budget)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    session = Session(context, Engine(spec, open_device(spec), tell, ram=ram), mailbox)
    signal.signal(signal.SIGTERM, lambda *_: session.ask_stop())
    status = session.run()
    context.term()
    return status


def open_device(spec: WorkerSpec) -> Device:
    """The device that the spec names; none of them imports torch before its `start`."""
    kind = DeviceKind(spec.device_id.partition(":")[0])
    match kind:
        case DeviceKind.VIRTUAL:
            from worker.devices.virtual import VirtualDevice  # noqa: PLC0415 - a process needs one kind alone

            return VirtualDevice(spec)
        case DeviceKind.CPU:
            from worker.devices.cpu import CpuDevice  # noqa: PLC0415

            return CpuDevice(spec)
        case DeviceKind.CUDA:
            from worker.devices.cuda import CudaDevice  # noqa: PLC0415

            return CudaDevice(spec)


if __name__ == "__main__":
    # The device thread may sit in torch: an orderly interpreter shutdown would wait for it or tear it apart.
    logs.leave(main())
