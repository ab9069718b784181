"""The broker's side of the link, in a test: a ROUTER that knows one real worker process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq

from protocol import commands as c
from protocol import link
from protocol.codec import decode_reply, encode_command
from protocol.enums import Encoding, ReplyState
from protocol.replies import Reply
from tests.worker.bench import assignment

PATIENCE_SECONDS = 20.0
REPOSITORY = Path(__file__).parents[2]
M = TypeVar("M", bound=link.Message)


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """A final reply and what came before it."""

    update: link.JobUpdate
    reply: Reply
    attachments: list[bytes]
    progress: list[Reply]


class Router:
    """One worker process over a ROUTER socket; everything that it sent is kept in order."""

    def __init__(self, spec: link.WorkerSpec) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.spec = msgspec.structs.replace(spec, link=f"tcp://127.0.0.1:{port}")
        arguments = [sys.executable, "-P", "-m", "worker", link.encode_spec(self.spec)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=REPOSITORY, env=environment
        )
        self.identity = b""
        self.seen: list[tuple[link.FromWorker, list[bytes]]] = []

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._socket.close()
        self._context.term()

    def send(self, message: link.Message, *frames: bytes) -> None:
        self._socket.send_multipart([self.identity, link.encode(message), *frames])

    def wait(self, kind: type[M], when: Callable[[M], bool] = lambda _: True) -> tuple[M, list[bytes]]:
        """The next message of a kind for which `when` holds, with the frames behind its header."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if not self._socket.poll(200):
                assert self.process.poll() is None, f"the worker exited with {self.process.returncode}"
                continue
            self.identity, header, *frames = self._socket.recv_multipart()
            message = link.decode_from_worker(header)
            self.seen.append((message, frames))
            if isinstance(message, kind) and when(message):
                return message, frames
        raise AssertionError(f"no {kind.__name__} came")

    def ready(self) -> link.Register:
        """Welcome the worker and wait until it can work; its registration."""
        register, _ = self.wait(link.Register)
        self.send(link.Welcome(epoch="first"))
        self.wait(link.Report, lambda report: report.ready)
        return register

    def assign(self, command: c.Command, ref: link.ModelRef | None, request_id: str, **changes: object) -> None:
        assign = assignment(command, ref, request_id, device_id=self.spec.device_id, **changes)
        self.send(assign, encode_command(command, Encoding.JSON))

    def final(self, request_id: str) -> Final:
        """The last word on a command."""
        start = len(self.seen)
        update, frames = self.wait(
            link.JobUpdate, lambda u: u.request_id == request_id and u.state is not ReplyState.PROGRESS
        )
        progress = [
            decode_reply(behind[0])
            for message, behind in self.seen[start:]
            if isinstance(message, link.JobUpdate) and message.state is ReplyState.PROGRESS and behind
        ]
        return Final(update=update, reply=decode_reply(frames[0]), attachments=frames[1:], progress=progress)

    def run(self, command: c.Command, ref: link.ModelRef | None, request_id: str, **changes: object) -> Final:
        self.assign(command, ref, request_id, **changes)
        return self.final(request_id)

    def exit_status(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)
