"""Checked files to a pipeline's components in host memory, every weight a private copy.

Decides classes from the allow-list that checked the folder, never from a name of its own finding. Component by
component, so that a cancel is heard and progress is told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelfiles import families, folders
from modelfiles.allowed import NAMED_PARTS
from modelfiles.families import Family
from modelfiles.jsonfile import read_object
from modelfiles.model import ModelFile
from modelfiles.modes import modes_of
from protocol.drawing import Mode
from protocol.enums import ComponentType
from protocol.errors import ErrorCode, Fault
from worker.configurations import Configuration
from worker.devices.base import Build, PartBytes
from worker.job import Job
from worker.parts import Tell, build_part, tensor_bytes, told
from worker.pipelines import Pipelines, pipeline_arguments
from worker.singles import Single
from worker.staging import Staging
from worker.stock import Stock
from worker.vocabularies import bound_tokenizers


def load(
    build: Build, configuration: Configuration | None, staging: Staging, stock: Stock, *, job: Job, tell: Tell
) -> tuple[Pipelines, list[PartBytes]]:
    """The components of a checked model, and what each weighs; from `stock` where it has them, else from `staging`.

    Raises Fault MODEL_LOADING_FAILED, MODEL_INCOMPATIBLE, MODEL_CORRUPTED.
    """
    job.phases["build_ms"] = job.phases["read_ms"] = 0.0
    if configuration is not None:
        pipelines = _single(build, configuration, staging, stock, job=job, tell=tell)
    else:
        pipelines = _folder(build, staging, stock, job, tell)
    with told(Path(build.file.path).name):
        # What a pipeline refuses is told now, not at a picture.
        pipelines.pipeline((modes_of(build.file) or (Mode.TEXT,))[0], "")
    bound_tokenizers(pipelines.components, pipelines.family.chat_template)
    return pipelines, _weighed(build.file, pipelines, stock.keys)


def read_parts(build: Build, configuration: Configuration | None, staging: Staging, stock: Stock) -> None:
    """The parts of a checked model that have weights, given to `stock` one after the other. Raises Fault."""
    if configuration is not None:
        family = _family(configuration.class_name, configuration.family, Path(build.file.path).name)
        Single(build, configuration, family, staging, stock).read_parts()
        return
    for part in build.file.parts:
        if part.files:
            build_part(part, staging.folder(part.name, part.reads), build, stock)


def small_parts(build: Build, configuration: Configuration | None, staging: Staging, stock: Stock) -> int:
    """The parts of a checked folder that have no weights, built and let go; how many. Raises Fault."""
    if configuration is not None:
        return 0
    small = [part for part in build.file.parts if not part.files]
    for part in small:
        build_part(part, staging.folder(part.name, part.reads), build, stock)
    return len(small)


def _folder(build: Build, staging: Staging, stock: Stock, job: Job, tell: Tell) -> Pipelines:
    file = build.file
    family = _family(file.class_name, file.family, Path(file.path).name)
    components: dict[str, Any] = {}
    reader = stock.reader
    began = time.perf_counter()
    for part in file.parts:
        job.check()
        tell("build", reader.bytes)
        components[part.name] = build_part(part, staging.folder(part.name, part.reads), build, stock)
    job.phases["read_ms"] = reader.seconds * 1000
    job.phases["build_ms"] = (time.perf_counter() - began - reader.seconds) * 1000
    index = staging.file(str(Path(file.path) / folders.INDEX), folders.INDEX)
    return _pipelines(family, components, read_object(Path(index)))


def _single(
    build: Build, configuration: Configuration, staging: Staging, stock: Stock, *, job: Job, tell: Tell
) -> Pipelines:
    family = _family(configuration.class_name, configuration.family, Path(build.file.path).name)
    single = Single(build, configuration, family, staging, stock)
    return _pipelines(family, single.components(job, tell), single.index)


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


def _weighed(file: ModelFile, pipelines: Pipelines, keys: Mapping[str, str]) -> list[PartBytes]:
    """Every part with the key that it is known by: bytes of its parameters and buffers, tied ones once."""
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
            key=keys.get(name, ""),
        )
        for name in present
    ]
