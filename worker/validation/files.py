"""What a model's files are, level by level: whole and safe, of one family, without values that are no numbers, of the
shapes that their classes ask for, and their digests. Every refusal of a load is found here by the same checks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from modelfiles.complete import check_complete
from modelfiles.headers import Header, Tensor, read_header
from modelfiles.model import Kind, ModelFile, inspect
from modelfiles.modes import check_channels, check_parts, family_of, modes_of
from modelfiles.recognition import recognise, used
from modelfiles.text import shown
from protocol.commands import FileValidationContext
from protocol.enums import ModelType, Severity
from protocol.errors import ErrorCode, Fault, Recovery
from worker import pagecache, precision
from worker.devices.base import Build
from worker.engine import Engine
from worker.job import Job
from worker.options import Resolved
from worker.validation.digests import DigestCache
from worker.validation.findings import Findings

LOADED_BY_COMPONENT = frozenset({ModelType.LoRA, ModelType.ControlNet, ModelType.VAE, ModelType.TextEncoder})
SHA256_KEY = "modelspec.hash_sha256"
"""Where a file says what its tensors' digest was when it was written."""


class FileChecks:
    """The checks of one command; what they find goes to `findings`, how long they took to the job's phases."""

    def __init__(self, engine: Engine, job: Job, findings: Findings) -> None:
        self._engine = engine
        self._job = job
        self._findings = findings

    def inspect(self, path: str, field: str) -> ModelFile | None:
        """What lies there; None where it is no model, which is an issue. Raises Fault for a path beyond the roots."""
        self._engine.roots.resolve(path, field)
        with self._phase("header_ms"):
            try:
                file = inspect(path, self._engine.roots, field)
            except Fault as fault:
                # Of a model known by its id, nobody sent a path.
                self._findings.fault(fault)
                exists = fault.code is not ErrorCode.MODEL_NOT_FOUND
                self._findings.details["file"] = {"exists": exists, "name": shown(Path(path).name)}
                return None
        self._describe(file)
        return file

    def _describe(self, file: ModelFile) -> None:
        family = family_of(file)
        says = {key: value for key, value in msgspec.structs.asdict(file.says).items() if value}
        self._findings.details["file"] = {
            "exists": True,
            "path": file.path,
            "size_bytes": file.size_bytes,
            "kind": file.kind.value,
            "type": file.type.value,
            "family": file.family or None,
            "dtype": file.dtype or None,
            "dtype_bytes": file.dtype_bytes,
            "tensor_bytes": file.tensor_bytes,
            "unused_bytes": file.unused_bytes,
            "parts": {part.name: part.tensor_bytes for part in file.parts},
            "draws": [mode.value for mode in modes_of(file)],
            "states": msgspec.to_builtins(says, enc_hook=str),
            "packed": file.packed or None,
        }
        classes = {part.name: f"{part.library}.{part.class_name}" for part in file.parts if part.class_name}
        self._findings.details["safety"] = {
            "format": "profile" if file.kind is Kind.VIRTUAL else "safetensors",
            "holds_code": False,
            "classes": classes,
            "pipeline": file.class_name or (sorted(set(family.modes.values())) if family else None),
        }

    def fit(self, file: ModelFile, config_path: str) -> None:
        """Whether its parts belong together and nothing that its family needs is absent."""
        configured = bool(config_path or file.config_path)
        with self._phase("header_ms"):
            for check in (precision.refuse_packed, check_channels, check_parts):
                self._tried(check, file)
            self._tried(partial(check_complete, configured=configured), file)
        if family_of(file) is None and file.profile is None:
            self._tell_part(file)

    def _tried(self, check: Callable[[ModelFile], None], file: ModelFile) -> None:
        try:
            check(file)
        except Fault as fault:
            self._findings.fault(fault)

    def _tell_part(self, file: ModelFile) -> None:
        """What draws nothing by itself."""
        if file.type in LOADED_BY_COMPONENT:
            parameters = {"component": file.type.value.lower(), "path": file.path}
            recovery = [Recovery(action="load_component", description="load it into a model", parameters=parameters)]
            text = f"it is a {file.type.value}: it draws nothing by itself"
            self._findings.add(Severity.INFO, ErrorCode.NOT_SUPPORTED, text, recovery=recovery)
        else:
            text = "its tensors fit no known family: nothing here draws with it"
            self._findings.add(Severity.WARNING, ErrorCode.MODEL_INCOMPATIBLE, text, "model_type")

    def compare(self, context: FileValidationContext | None, declared: str, file: ModelFile | None) -> None:
        """What the host believes of the file, against what it is."""
        exists = self._findings.details["file"]["exists"]
        beliefs: list[tuple[str, object, object]] = []
        if context is not None:
            beliefs.append(("file_exists", context.file_exists, exists))
            if file is not None:
                beliefs += [("file_size", context.file_size, file.size_bytes)]
                beliefs += [("model_type", context.model_type, file.type.value)]
                cached = None if file.profile is not None else pagecache.ratio(file.weight_files or [Path(file.path)])
                self._findings.details["cache"] = {
                    "host_says": context.cache_available,
                    "page_cache_ratio": cached,
                }
        if declared and file is not None and not (context and context.model_type):
            beliefs.append(("model_type", declared, file.type.value))
        for name, believed, found in beliefs:
            if believed is not None and _plain(believed) != _plain(found):
                text = f"{name} is {believed!r}, and the file's is {found!r}"
                self._findings.add(Severity.WARNING, ErrorCode.INVALID_ARGUMENT, text[:300], name)

    def finite(self, file: ModelFile, *, whole: bool) -> None:
        """Values that are no numbers or infinite: among samples, or among all."""
        from worker.validation.contents import not_finite  # noqa: PLC0415 - a virtual device reads no weights

        with self._phase("tensors_ms"):
            found = not_finite(
                [(header, _used(file, header)) for header in _headers(file)], self._job.check, whole=whole
            )
        self._findings.details["values"] = msgspec.to_builtins(found)
        for name in found.not_numbers:
            text = f"the tensor {shown(name)} holds values that are no numbers"
            self._findings.add(Severity.ERROR, ErrorCode.MODEL_CORRUPTED, text, name)
        for name in found.infinite:
            text = f"the tensor {shown(name)} holds infinite values"
            self._findings.add(Severity.WARNING, ErrorCode.MODEL_CORRUPTED, text, name)

    def digests(self, file: ModelFile, cache: DigestCache, *, make: bool) -> None:
        """The digests of its files: those that are known, and with `make` all."""
        from worker.validation.contents import digests  # noqa: PLC0415 - as above

        told: dict[str, object] = {}
        total, done = sum(Path(name).stat().st_size for name in map(str, (file.weight_files or [Path(file.path)]))), 0
        with self._phase("hash_ms"):
            for header in _headers(file):
                found = cache.get(header.fingerprint)
                if found is None and make:
                    before = done
                    found = digests(
                        header,
                        self._job.check,
                        lambda offset, before=before: self._job.stage("hash", before + offset, total),  # type: ignore[misc]
                    )
                    cache.keep(header.fingerprint, found)
                done += header.fingerprint.size
                if found is None:
                    continue
                told[_within(file, header)] = msgspec.to_builtins(found)
                stated = header.metadata.get(SHA256_KEY, "").lower().removeprefix("0x")
                if stated and stated != found.tensor_sha256:
                    text = f"{SHA256_KEY} says {stated[:16]}…, and the tensors are {found.tensor_sha256[:16]}…"
                    self._findings.add(Severity.WARNING, ErrorCode.MODEL_CORRUPTED, text, SHA256_KEY)
        if told:
            self._findings.details["hashes"] = told

    def shapes(self, file: ModelFile, resolved: Resolved, config_path: str) -> None:
        """Every part built without memory, and held against its tensors' shapes."""
        build = Build(
            file=file, precision=resolved.precision, compute=resolved.compute, config_path=config_path, anew=True
        )
        with self._phase("shapes_ms"):
            try:
                self._findings.details["shapes"] = {"parts": self._engine.device.examine(build, self._job)}
            except Fault as fault:
                if fault.code in (ErrorCode.CANCELLED, ErrorCode.SUPERSEDED, ErrorCode.TIMEOUT):
                    raise
                self._findings.fault(fault)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._job.phases[name] = self._job.phases.get(name, 0.0) + (time.perf_counter() - began) * 1000


def _headers(file: ModelFile) -> list[Header]:
    return [read_header(path) for path in (file.weight_files or [Path(file.path)])]


def _used(file: ModelFile, header: Header) -> Sequence[Tensor]:
    """The tensors that a load would read."""
    return used(recognise(header.tensors), header.tensors) if file.kind is Kind.SINGLE else header.tensors


def _within(file: ModelFile, header: Header) -> str:
    """A file's name as the model has it: of a folder the path within it."""
    path = Path(header.fingerprint.path)
    root = Path(file.path)
    return str(path.relative_to(root)) if path.is_relative_to(root) and path != root else path.name


def _plain(value: object) -> object:
    return value.casefold() if isinstance(value, str) else value
