"""One part of a checked model in host memory: its class from the allow-list, its weights private copies.

Decides how a part of a folder is built, and how what libraries raise is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines import stable_diffusion
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from modelfiles import families
from modelfiles.allowed import COMPONENTS
from modelfiles.headers import Header
from modelfiles.jsonfile import corrupted, read_object
from modelfiles.model import Part
from protocol.enums import ComponentType, ModelPrecision
from protocol.errors import ErrorCode, Fault
from settings.logs import Logger
from worker.devices.base import Build
from worker.filling import chooser, filled
from worker.identity import identity
from worker.originals import Names, own_places
from worker.prefetch import Interruption
from worker.quantization import Scheme, quantize
from worker.reader import Choose, Reader
from worker.skeleton import CONFIG, check_folder, check_scheduler
from worker.stock import Stock

DTYPES = {
    ModelPrecision.Float32: torch.float32,
    ModelPrecision.Float16: torch.float16,
    ModelPrecision.BFloat16: torch.bfloat16,
}
LIBRARIES = {"diffusers": diffusers, "transformers": transformers, "stable_diffusion": stable_diffusion}
"""What an index calls a library → where its classes are."""

Tell = Callable[[str, int], None]
"""Told of a stage and the bytes done."""

log = Logger()

Headers = dict[Path, Header]


for _library in (diffusers_logging, transformers_logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()


@contextmanager
def told(what: str, code: ErrorCode = ErrorCode.MODEL_INCOMPATIBLE) -> Iterator[None]:
    """Whatever a library raises, as a Fault of this code; MODEL_LOADING_FAILED where a file or a module is not there.

    Only libraries' own calls belong in it: an error of ours is an incident.
    """
    try:
        yield
    except (Fault, Interruption, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # What libraries say may show paths and code: the log has it, the client has the kind.
        log.exception("a library could not load a model", model=what)
        if isinstance(error, OSError | ImportError):
            code = ErrorCode.MODEL_LOADING_FAILED
        raise Fault(code, f"{what} could not be built: {type(error).__name__}") from None


def scheme_of(build: Build, part: str) -> Scheme | None:
    """How a part of this name holds its weights in fewer than 16 bits; None where it does not."""
    if build.precision in DTYPES:
        return None
    return Scheme.of(build.precision, DTYPES[build.compute], part)


def build_part(part: Part, folder: str, build: Build, stock: Stock) -> Any:
    """One part of a checked folder, in host memory; `folder` holds its files. Raises Fault."""
    if (part.library, part.class_name) not in COMPONENTS:
        raise Fault(
            ErrorCode.UNSAFE_MODEL, f"{part.name} names {part.class_name[:80]!r}, not on the list of safe classes"
        )
    cls = class_of(part)
    if part.type is ComponentType.Scheduler:
        check_scheduler(part.name, cls, Path(folder))
    if not part.files:
        return readable(part, lambda: cls.from_pretrained(folder, local_files_only=True))
    skeleton, headers = check_folder(part.name, cls, Path(folder))
    config = read_object(Path(folder) / CONFIG)

    dtype, scheme = DTYPES[build.compute], scheme_of(build, part.name)

    def fill(found: Names) -> torch.nn.Module:
        module = filled(cls, config, skeleton, found, scheme)
        make_private(module, copied=True)
        return module

    def make() -> torch.nn.Module:
        places = own_places(skeleton, [tensor for header in headers.values() for tensor in header.tensors])
        if places is None:
            made = _by_library(part, cls, folder, dtype)
        else:
            made = filled(cls, config, skeleton, _read(headers, places, chooser(cls, dtype), stock.reader))
            make_private(made, copied=True)
        return made if scheme is None else quantize(made, scheme, stock.reader.check)

    with told(part.name):
        return stock.module(part.name, identity(cls, config, build, headers), fill, make)


def _by_library(part: Part, cls: Any, folder: str, dtype: torch.dtype) -> torch.nn.Module:
    """A part whose files have names of older versions of its class, which its library knows. Raises Fault."""
    wanted = {"dtype" if issubclass(cls, transformers.PreTrainedModel) else "torch_dtype": dtype}
    with told(part.name):
        model, info = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **wanted
        )
    missing = sorted(info["missing_keys"])
    if missing:
        names = ", ".join(missing[:3])
        text = f"{part.name} lacks {len(missing)} tensors that its configuration asks for: {names}"
        raise Fault(ErrorCode.MODEL_CORRUPTED, text, details={"missing": missing[:20]})
    make_private(model)
    built: torch.nn.Module = model.eval()
    return built


def _read(headers: Headers, places: Mapping[str, str], choose: Choose, reader: Reader) -> Names:
    """The tensors of files that have their class's own names, by these: `places` are those and what stands there."""
    used = frozenset(places.values())
    files = [(path, header, [one for one in header.tensors if one.name in used]) for path, header in headers.items()]
    held = reader.read(files, choose)
    return {own: held[name] for own, name in places.items()}


def readable(part: Part, read: Callable[[], Any]) -> Any:
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


def import_classes() -> None:
    """Have the libraries import every class of the allow-list and every pipeline, for which a first load would wait."""
    for library, name in COMPONENTS:
        getattr(LIBRARIES[library], name, None)
    for family in families.ALL:
        for name in family.modes.values():
            getattr(diffusers, name, None)


def class_of(part: Part) -> Any:
    return getattr(LIBRARIES[part.library], part.class_name)


def make_private(component: object, *, copied: bool = False) -> int:
    """Give every parameter and buffer memory of its own, so that no weight stays mapped to a file. Bytes of all.

    `copied`: they have it already, and are only counted.
    """
    if not isinstance(component, torch.nn.Module):
        return 0
    component.requires_grad_(False)
    size = 0
    for name, tensor in (*component.named_parameters(), *component.named_buffers()):
        if tensor.is_meta:
            raise Fault(ErrorCode.MODEL_CORRUPTED, f"the tensor {name} is in no file")
        if not copied:
            tensor.data = tensor.data.clone()
        size += tensor_bytes(tensor)
    return size


def tensor_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
