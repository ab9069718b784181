"""Checked files to a pipeline's components in host memory, every weight a private copy.

Decides classes from the allow-list that checked the folder, never from a name of its own finding. Component by
component, so that a cancel is heard and progress is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import torch
import transformers
from diffusers.pipelines import stable_diffusion
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from modelfiles import families, folders
from modelfiles.allowed import COMPONENTS, NAMED_PARTS
from modelfiles.families import Family
from modelfiles.headers import Header, read_header
from modelfiles.jsonfile import JsonObject, corrupted, incompatible, read_object
from modelfiles.model import ModelFile, Part
from modelfiles.modes import modes_of
from protocol.drawing import Mode
from protocol.enums import ComponentType, ModelPrecision
from protocol.errors import ErrorCode, Fault
from settings.logs import Logger
from worker import originals, schedules
from worker.configurations import Configuration, configuration_source, own_tokenizers
from worker.devices.base import Build, PartBytes
from worker.job import Job
from worker.pipelines import Pipelines, pipeline_arguments, pipeline_class
from worker.skeleton import CONFIG, SCHEDULER_CONFIG, Held, check_folder, check_module, check_scheduler
from worker.staging import Staging
from worker.vocabularies import bound_tokenizers

DTYPES = {
    ModelPrecision.Float32: torch.float32,
    ModelPrecision.Float16: torch.float16,
    ModelPrecision.BFloat16: torch.bfloat16,
}
LIBRARIES = {"diffusers": diffusers, "transformers": transformers, "stable_diffusion": stable_diffusion}
"""What an index calls a library → where its classes are."""

Tell = Callable[[str, int], None]
log = Logger()

for _library in (diffusers_logging, transformers_logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()


def load(
    build: Build, configuration: Configuration | None, staging: Staging, job: Job, tell: Tell
) -> tuple[Pipelines, list[PartBytes]]:
    """The components of a checked model, and what each weighs; read from `staging` alone.

    Raises Fault MODEL_LOADING_FAILED, MODEL_INCOMPATIBLE, MODEL_CORRUPTED.
    """
    job.phases["build_ms"] = job.phases["read_ms"] = 0.0
    if configuration is not None:
        pipelines = _single_file(build, configuration, staging, job, tell)
    else:
        pipelines = _folder(build, staging, job, tell)
    with _told(Path(build.file.path).name):
        # What a pipeline refuses is told now, not at a picture.
        pipelines.pipeline((modes_of(build.file) or (Mode.TEXT,))[0], "")
    bound_tokenizers(pipelines.components, pipelines.family.chat_template)
    return pipelines, _weighed(build.file, pipelines)


@contextmanager
def _told(
    what: str, code: ErrorCode = ErrorCode.MODEL_INCOMPATIBLE, why: Callable[[Exception], str] = lambda _: ""
) -> Iterator[None]:
    """Whatever a library raises, as a Fault of this code; MODEL_LOADING_FAILED where a file or a module is not there.

    Only libraries' own calls belong in it: an error of ours is an incident.
    """
    try:
        yield
    except (Fault, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # What libraries say may show paths and code: the log has it, the client has the kind.
        log.exception("a library could not load a model", model=what)
        if isinstance(error, OSError | ImportError):
            code = ErrorCode.MODEL_LOADING_FAILED
        raise Fault(code, f"{what} could not be built: {type(error).__name__}{why(error)}") from None


def _folder(build: Build, staging: Staging, job: Job, tell: Tell) -> Pipelines:
    file = build.file
    family = _family(file.class_name, file.family, Path(file.path).name)
    components: dict[str, Any] = {}
    done = 0
    for part in file.parts:
        job.check()
        tell("build", done)
        began = time.perf_counter()
        component = build_part(part, staging.folder(part.name, part.reads), build.precision)
        built = time.perf_counter()
        done += make_private(component)
        job.phases["build_ms"] += (built - began) * 1000
        job.phases["read_ms"] += (time.perf_counter() - built) * 1000
        components[part.name] = component
    index = staging.file(str(Path(file.path) / folders.INDEX), folders.INDEX)
    return _pipelines(family, components, read_object(Path(index)))


def _pipelines(family: Family, components: dict[str, Any], index: dict[str, Any]) -> Pipelines:
    """The components with the optional ones that a folder lacks, and the settings that its index holds."""
    accepted = pipeline_arguments(family)
    optional: dict[str, Any] = {}
    optional |= {name: None for name in ("safety_checker", "feature_extractor", "image_encoder") if name in accepted}
    optional |= {name: None for name in accepted if name.startswith(("text_encoder", "tokenizer"))}
    settings = {key: value for key, value in index.items() if key in accepted and isinstance(value, bool | int | float)}
    if components.get("safety_checker") is None and "requires_safety_checker" in accepted:
        settings["requires_safety_checker"] = False
    return Pipelines(family, {**optional, **components}, settings)


def _family(class_name: str, name: str, what: str) -> Family:
    """The family whose pipelines draw with a folder. Raises Fault MODEL_INCOMPATIBLE for one that has none of them."""
    found = families.named(name)
    if found is None or class_name not in found.modes.values():
        known = sorted({one for family in families.ALL for one in family.modes.values()})
        text = f"{what} is {class_name or 'one component'}: this worker runs {', '.join(known)}"
        raise Fault(ErrorCode.MODEL_INCOMPATIBLE, text)
    return found


def build_part(part: Part, folder: str, precision: ModelPrecision) -> Any:
    """One part of a checked folder, in host memory; `folder` holds its files. Raises Fault."""
    if (part.library, part.class_name) not in COMPONENTS:
        raise Fault(
            ErrorCode.UNSAFE_MODEL, f"{part.name} names {part.class_name[:80]!r}, not on the list of safe classes"
        )
    cls = _class(part)
    if part.type is ComponentType.Scheduler:
        check_scheduler(part.name, cls, Path(folder))
    if not part.files:
        return _readable(part, lambda: cls.from_pretrained(folder, local_files_only=True))
    check_folder(part.name, cls, Path(folder))
    wanted = {"dtype" if issubclass(cls, transformers.PreTrainedModel) else "torch_dtype": DTYPES[precision]}
    with _told(part.name):
        model, info = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **wanted
        )
    missing = sorted(info["missing_keys"])
    if missing:
        names = ", ".join(missing[:3])
        text = f"{part.name} lacks {len(missing)} tensors that its configuration asks for: {names}"
        raise Fault(ErrorCode.MODEL_CORRUPTED, text, details={"missing": missing[:20]})
    return model.eval()


def _readable(part: Part, read: Callable[[], Any]) -> Any:
    """A part without weights. Raises Fault MODEL_CORRUPTED for a vocabulary or a configuration that no library reads.

    tokenizers is another language's, whose panics are no Exception.
    """
    try:
        return read()
    except (KeyboardInterrupt, SystemExit, MemoryError, Fault):
        raise
    except BaseException as error:
        log.exception("a library could not read a part", part=part.name)
        raise corrupted(f"{part.name} cannot be read: {type(error).__name__}", part=part.name) from None


def _class(part: Part) -> Any:
    return getattr(LIBRARIES[part.library], part.class_name)


def _single_file(build: Build, configuration: Configuration, staging: Staging, job: Job, tell: Tell) -> Pipelines:
    file = build.file
    folder = staging.folder("configuration", {})
    for name, path in configuration.reads.items():
        staging.folder(f"configuration/{Path(name).parent}", {Path(name).name: path})
    family = _family(configuration.class_name, configuration.family, Path(file.path).name)
    job.check()
    tell("build", 0)
    began = time.perf_counter()
    weights = staging.file(file.path, "model.safetensors")
    _check_single(build, configuration, family, Path(folder), read_header(Path(weights)))
    tokenizers = own_tokenizers(configuration)

    def why(error: Exception) -> str:
        part = _named_in(str(error), Path(configuration.path))
        return f"{f' at its {part}' if part else ''}; its weights do not fit {configuration_source(build)}"

    with _told(Path(file.path).name, ErrorCode.MODEL_LOADING_FAILED, why):
        pipeline = pipeline_class(family, Mode.TEXT).from_single_file(
            weights, config=folder, local_files_only=True, torch_dtype=DTYPES[build.precision], **tokenizers
        )
    built = time.perf_counter()
    components = dict(pipeline.components)
    schedule = Path(folder) / "scheduler" / SCHEDULER_CONFIG
    config = None if configuration.is_family or not schedule.is_file() else read_object(schedule)
    components["scheduler"] = _stated_scheduler(build, components["scheduler"], weights, config, job)
    for component in components.values():
        make_private(component)
    job.phases["build_ms"] += (built - began) * 1000
    job.phases["read_ms"] += (time.perf_counter() - built) * 1000
    return _pipelines(family, components, read_object(Path(folder) / folders.INDEX))


def _stated_scheduler(build: Build, own: Any, weights: str, config: JsonObject | None, job: Job) -> Any:
    """The scheduler of a single file, as its weights say that they must be drawn; `config` is what somebody wrote."""
    says = build.file.says
    if not says.source:
        return own
    sigmas = schedules.edm_sigmas(weights, read_header(Path(weights))) if says.edm else {}
    made, warnings = schedules.stated(own, says, config, sigmas)
    job.warnings += warnings
    return made


def _check_single(build: Build, configuration: Configuration, family: Family, folder: Path, header: Header) -> None:
    """Each part's configuration against its tensors in the file. Raises Fault MODEL_INCOMPATIBLE, or, where nobody gave
    a configuration, MODEL_LOADING_FAILED saying which would be needed."""
    index = read_object(folder / folders.INDEX)
    schedule = index.get("scheduler")
    missing = [
        part.name
        for part in family.file_parts
        if not any(tensor.name.startswith(part.prefixes) for tensor in header.tensors)
    ]
    if missing:
        name, kind = Path(build.file.path).name, build.file.type.value
        text = f"{name} ({kind}) has no {' and no '.join(missing)}; {configuration.class_name} needs it"
        raise incompatible(text, missing=missing[0])
    try:
        if isinstance(schedule, list):
            check_scheduler("scheduler", getattr(diffusers, str(schedule[1])), folder / "scheduler")
        for part in build.file.parts:
            pair, config = index.get(part.name), folder / part.name / CONFIG
            if isinstance(pair, list) and config.is_file():
                starts = tuple(part.prefixes) or ("",)
                tensors = [tensor for tensor in header.tensors if tensor.name.startswith(starts)]
                named = msgspec.structs.replace(part, library=str(pair[0]), class_name=str(pair[1]))
                module = check_module(part.name, _class(named), read_object(config), Held.of(tensors, exact=False))
                _refuse_lacking(build, named, originals.lacking(family, named.class_name, module, tensors))
    except Fault as fault:
        if fault.code is ErrorCode.MODEL_CORRUPTED:
            raise
        text = f"{fault.info.message}; its weights do not fit {configuration_source(build)}"
        code = ErrorCode.MODEL_LOADING_FAILED if configuration.is_family else fault.code
        raise Fault(code, text, details=fault.info.details) from None


def _refuse_lacking(build: Build, part: Part, absent: list[str]) -> None:
    """Raise Fault MODEL_CORRUPTED for a single file without some tensors of a part."""
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        text = f"{Path(build.file.path).name} lacks the tensor {absent[0]}{more} of its {part.name}"
        raise corrupted(text, part=part.name, tensor=absent[0], missing=absent[:20])


def _named_in(error: str, folder: Path) -> str:
    """The part whose class a library's error names; "" where none is."""
    index = read_object(folder / folders.INDEX)
    pairs = {name: pair[1] for name, pair in index.items() if isinstance(pair, list) and len(pair) == 2 and pair[1]}
    return next((name for name, cls in pairs.items() if str(cls) in error), "")


def make_private(component: object) -> int:
    """Give every parameter and buffer memory of its own, so that no weight stays mapped to a file. Bytes copied."""
    if not isinstance(component, torch.nn.Module):
        return 0
    component.requires_grad_(False)
    copied = 0
    for name, tensor in (*component.named_parameters(), *component.named_buffers()):
        if tensor.is_meta:
            raise Fault(ErrorCode.MODEL_CORRUPTED, f"the tensor {name} is in no file")
        tensor.data = tensor.data.clone()
        copied += tensor_bytes(tensor)
    return copied


def tensor_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _weighed(file: ModelFile, pipelines: Pipelines) -> list[PartBytes]:
    """Every part: bytes of its parameters and buffers, tied ones once."""
    files = {part.name: part for part in file.parts}
    weights = {
        name: sum(tensor_bytes(tensor) for tensor in (*module.parameters(), *module.buffers()))
        for name, module in pipelines.named_modules()
    }
    present = [name for name, component in pipelines.components.items() if component is not None]
    return [
        PartBytes(
            name=name,
            type=files[name].type if name in files else NAMED_PARTS.get(name, ComponentType.Unknown),
            path=files[name].path if name in files else file.path,
            bytes=weights.get(name, 0),
        )
        for name in present
    ]
