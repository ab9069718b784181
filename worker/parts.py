"""One part of a checked model in host memory: its class from the allow-list, its weights private copies.

Decides how a part of a folder is built, and how what libraries raise is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines import stable_diffusion
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from modelfiles.allowed import COMPONENTS
from modelfiles.jsonfile import corrupted
from modelfiles.model import Part
from protocol.enums import ComponentType, ModelPrecision
from protocol.errors import ErrorCode, Fault
from settings.logs import Logger
from worker.skeleton import check_folder, check_scheduler

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

for _library in (diffusers_logging, transformers_logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()


@contextmanager
def told(
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


def build_part(part: Part, folder: str, precision: ModelPrecision) -> Any:
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
    check_folder(part.name, cls, Path(folder))
    wanted = {"dtype" if issubclass(cls, transformers.PreTrainedModel) else "torch_dtype": DTYPES[precision]}
    with told(part.name):
        model, info = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **wanted
        )
    missing = sorted(info["missing_keys"])
    if missing:
        names = ", ".join(missing[:3])
        text = f"{part.name} lacks {len(missing)} tensors that its configuration asks for: {names}"
        raise Fault(ErrorCode.MODEL_CORRUPTED, text, details={"missing": missing[:20]})
    return model.eval()


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


def class_of(part: Part) -> Any:
    return getattr(LIBRARIES[part.library], part.class_name)


def make_private(component: object, copied: Collection[str] = ()) -> int:
    """Give every parameter and buffer memory of its own, so that no weight stays mapped to a file. Bytes of all.

    Those named in `copied` have it already.
    """
    if not isinstance(component, torch.nn.Module):
        return 0
    component.requires_grad_(False)
    size = 0
    for name, tensor in (*component.named_parameters(), *component.named_buffers()):
        if tensor.is_meta:
            raise Fault(ErrorCode.MODEL_CORRUPTED, f"the tensor {name} is in no file")
        if name not in copied:
            tensor.data = tensor.data.clone()
        size += tensor_bytes(tensor)
    return size


def tensor_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
