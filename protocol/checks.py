"""Limits on the values of a command: on the limit everything works, one past it is refused with the limit in the text.

Types are the decoders' work; here stands what a well-typed command may ask for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from protocol import commands as c
from protocol.drawing import given
from protocol.enums import ModelOptimizationTarget, OptimizationTargetWord
from protocol.errors import ErrorCode, Fault, invalid, missing
from protocol.records import ModelLoadConfiguration
from protocol.replies import Limits

LONGEST_ID = 128
MODEL_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_ID - 1}}}")
"""What a model id looks like."""

ID_FORM = f"letters, digits, '.', '_' and '-', 1 to {LONGEST_ID} of them, the first a letter or digit"

OPTIMIZED_FOLDER = "optimized"
"""Beneath the first model root: where optimised models are saved, each in a folder of its name."""

MOST_PARAMETERS = 256
MOST_METADATA = 1000
"""Keys of free content: each is answered by an entry of its own."""

_PRINTABLE = re.compile(r"[!-~]+")

MAX_SEED = 2**63 - 1

OPTIMIZATION_TARGETS = {
    OptimizationTargetWord.PERFORMANCE: ModelOptimizationTarget.Speed,
    OptimizationTargetWord.SPEED: ModelOptimizationTarget.Speed,
    OptimizationTargetWord.MEMORY: ModelOptimizationTarget.Memory,
    OptimizationTargetWord.QUALITY: ModelOptimizationTarget.Quality,
    OptimizationTargetWord.BALANCED: ModelOptimizationTarget.Balanced,
}
"""The seed's words for the host's targets."""


def check(command: c.Command, limits: Limits) -> None:
    """Raise the Fault of the first value that is past its limit."""
    _envelope(command, limits)
    model_id = getattr(command, "model_id", "")
    if model_id:
        _model_id_form(model_id)
    rule = _RULES.get(type(command))
    if rule is not None:
        rule(command, limits)


def check_attachments(declared: Sequence[c.Attachment], sizes: Sequence[int], limits: Limits) -> None:
    """Hold the frames that came against the attachments that the payload names. Sizes in bytes."""
    if not sizes and not declared:
        return
    if len(sizes) > limits.attachments:
        raise invalid("attachments", len(sizes), f"at most {limits.attachments} in a message")
    if sum(sizes) > limits.attachments_bytes:
        raise invalid("attachments", sum(sizes), f"at most {limits.attachments_bytes} bytes in all")
    if len(declared) != len(sizes):
        raise invalid("attachments", len(declared), f"{len(sizes)}, one for each frame behind the payload")
    for index, (attachment, size) in enumerate(zip(declared, sizes, strict=True)):
        if attachment.bytes != size:
            raise invalid(f"attachments[{index}].bytes", attachment.bytes, f"{size}, the length of its frame")


def valid_request_id(text: str, limits: Limits) -> bool:
    """1 to 128 printable ASCII characters without spaces."""
    return len(text) <= limits.request_id_chars and _PRINTABLE.fullmatch(text) is not None


def _envelope(command: c.Command, limits: Limits) -> None:
    if command.request_id is not None and not valid_request_id(command.request_id, limits):
        expected = f"1-{limits.request_id_chars} printable ASCII characters without spaces"
        raise invalid("request_id", command.request_id, expected)
    if command.timeout_seconds is not None:
        _at_least("timeout_seconds", command.timeout_seconds, 0)
    if len(command.attachments) > limits.attachments:
        raise invalid("attachments", len(command.attachments), f"at most {limits.attachments} in a message")
    if command.attachments and not isinstance(command, c.Generate):
        raise invalid("attachments", len(command.attachments), "none with this action")


def _at_least(field: str, value: float, low: float) -> None:
    if not math.isfinite(value) or value < low:
        raise invalid(field, value, f"a number of at least {low:g}")


def _between(field: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise invalid(field, value, f"{low:g} to {high:g}")


def _side(field: str, value: int, limits: Limits) -> None:
    if not limits.min_side <= value <= limits.max_side or value % limits.side_multiple:
        expected = f"{limits.min_side} to {limits.max_side} pixels, a multiple of {limits.side_multiple}"
        raise invalid(field, value, expected)


def _text(field: str, value: str, limits: Limits) -> None:
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > limits.prompt_bytes:
        raise invalid(field, f"{size} bytes", f"at most {limits.prompt_bytes} bytes of UTF-8")


def _model(command: c.ModelCommand, _: Limits) -> None:
    if not command.model_id:
        raise missing("model_id")


def _model_id_form(model_id: str) -> None:
    if not MODEL_ID.fullmatch(model_id):
        raise invalid("model_id", model_id, ID_FORM)


def _load(command: c.LoadFields, _: Limits) -> None:
    if not command.model_id and not command.model_path:
        raise missing("model_id")
    keep_alive = command.keep_alive
    if not math.isfinite(keep_alive) or (keep_alive < 0 and keep_alive != -1):
        raise invalid("keep_alive", keep_alive, "seconds of at least 0, or -1 for until evicted")
    if command.configuration is not None:
        _configuration(command.configuration)


def _few_keys(field: str, value: Mapping[str, object], most: int) -> None:
    if len(value) > most:
        raise invalid(field, f"{len(value)} keys", f"at most {most}")


def _metadata(command: c.UpdateMetadata, limits: Limits) -> None:
    _model(command, limits)
    _few_keys("metadata", command.metadata, MOST_METADATA)


def _configuration(configuration: ModelLoadConfiguration) -> None:
    _few_keys("configuration.parameters", configuration.parameters, MOST_PARAMETERS)
    fraction = configuration.memory_optimization.memory_fraction
    _between("configuration.memory_optimization.memory_fraction", fraction, 0, 1)


def _register(command: c.RegisterModel, _: Limits) -> None:
    if not command.model_path:
        raise missing("model_path")
    if command.model_id:
        _model_id_form(command.model_id)


def _page(command: c.ListModels | c.SearchModels, limits: Limits) -> None:
    if command.page < 1:
        raise invalid("page", command.page, "at least 1")
    _between("page_size", command.page_size, 1, limits.page_size)
    if isinstance(command, c.SearchModels) and command.min_rating is not None:
        _between("min_rating", command.min_rating, 0, 5)


def _generate(command: c.Generate, limits: Limits) -> None:
    _model(command, limits)
    if command.prompt is None:
        raise missing("prompt")
    _text("prompt", command.prompt, limits)
    _text("negative_prompt", command.negative_prompt, limits)
    for field, side in (("width", command.width), ("height", command.height)):
        if side is not None:
            _side(field, side, limits)
    if command.steps is not None:
        _between("steps", command.steps, 1, limits.steps)
    _between("num_images", command.num_images, 1, limits.num_images)
    if command.guidance_scale is not None:
        _at_least("guidance_scale", command.guidance_scale, 0)
    if command.seed is not None:
        _between("seed", command.seed, 0, MAX_SEED)
    for index, lora in enumerate(command.loras or ()):
        if not math.isfinite(lora.scale):
            raise invalid(f"loras[{index}].scale", lora.scale, "a finite number")
    _source_image(command)


def _source_image(command: c.Generate) -> None:
    found = given(command.attachments)
    if command.strength is not None:
        _between("strength", command.strength, 0, 1)
        if found.picture is None:
            raise missing("attachments", ": strength asks for image-to-image, which needs one attachment")


def _benchmark(command: c.BenchmarkModel, limits: Limits) -> None:
    _model(command, limits)
    configuration = command.configuration
    _side("configuration.input_width", configuration.input_width, limits)
    _side("configuration.input_height", configuration.input_height, limits)
    _between("configuration.batch_size", configuration.batch_size, 1, limits.num_images)
    _between("configuration.inference_steps", configuration.inference_steps, 1, limits.steps)
    _between("benchmark_runs", command.benchmark_runs, 1, limits.benchmark_runs)
    _between("warmup_runs", command.warmup_runs, 0, limits.warmup_runs)


def optimization_target(command: c.OptimizeModel) -> ModelOptimizationTarget:
    """The one target that the two fields name. Raises Fault where they name none or two."""
    word = None if command.optimization_target is None else OPTIMIZATION_TARGETS[command.optimization_target]
    if word is None and command.target is None:
        raise missing("optimization_target", " (or target)")
    if word is not None and command.target is not None and word is not command.target:
        raise invalid("optimization_target", word.value, f"{command.target.value}, as target says")
    return cast(ModelOptimizationTarget, word or command.target)


def optimized_name(command: c.OptimizeModel) -> str:
    """What the optimised model is called: as the command says, else `<id>-<target>-<level>` in lower case.

    Raises Fault INVALID_ARGUMENT for what is no id.
    """
    if command.optimized_model_name:
        if not MODEL_ID.fullmatch(command.optimized_model_name):
            raise invalid("optimized_model_name", command.optimized_model_name, ID_FORM)
        return command.optimized_model_name
    ending = f"-{optimization_target(command).value}-{command.level.value}".lower()
    return command.model_id[: LONGEST_ID - len(ending)].lower() + ending


def _optimize(command: c.OptimizeModel, limits: Limits) -> None:
    _model(command, limits)
    optimization_target(command)
    _few_keys("parameters", command.parameters, MOST_PARAMETERS)


def _validate(command: c.ValidateModel, _: Limits) -> None:
    if not command.model_id and not command.model_path:
        raise missing("model_id")


def _component(command: c.LoadComponent | c.UnloadComponent, limits: Limits) -> None:
    _model(command, limits)
    if command.component is None:
        raise missing("component")
    if not math.isfinite(command.scale):
        raise invalid("scale", command.scale, "a finite number")


def _target(command: c.TargetCommand, _: Limits) -> None:
    if not command.target_request_id:
        raise missing("target_request_id")


def _device(command: c.Command, _: Limits) -> None:
    if command.device_id in ("", "auto"):
        raise missing("device_id")


_RULES: dict[type[c.Command], Callable[[Any, Limits], None]] = {
    c.ListModels: _page,
    c.SearchModels: _page,
    c.GetModelInfo: _model,
    c.UpdateMetadata: _metadata,
    c.RegisterModel: _register,
    c.UnregisterModel: _model,
    c.LoadModel: _load,
    c.Plan: _load,
    c.UnloadModel: _model,
    c.PinModel: _model,
    c.UnpinModel: _model,
    c.ValidateModel: _validate,
    c.OptimizeModel: _optimize,
    c.BenchmarkModel: _benchmark,
    c.LoadComponent: _component,
    c.UnloadComponent: _component,
    c.ListComponents: _model,
    c.Generate: _generate,
    c.Cancel: _target,
    c.GetResult: _target,
    c.Explain: _target,
    c.DrainDevice: _device,
    c.ResumeDevice: _device,
    c.RestartWorker: _device,
}


def unsupported(what: str, reason: str) -> Fault:
    """The command is understood and cannot be had here."""
    return Fault(ErrorCode.NOT_SUPPORTED, f"{what} is not supported: {reason}")
