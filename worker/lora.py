"""Low-rank adapters: a file's tensors brought to a model's layers, and the layers that add them while a run lasts.

Decides which layer each tensor belongs to: by the layer's own name, by the name that kohya's trainers make of it, or by
the library's conversions. What is added is `scale * alpha / rank * up(down(x))` (Hu et al., 2021); no weight is ever
changed, so that what is removed leaves the model as it was, bit for bit, whatever its weights are held in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d, linear

from modelfiles.headers import read_header
from modelfiles.jsonfile import corrupted, incompatible
from modelfiles.model import ModelFile
from protocol.enums import ModelType
from protocol.errors import ErrorCode, Fault
from protocol.records import Record
from settings.logs import Logger
from worker.pipelines import Pipelines, pipeline_class
from worker.reader import Reader

HALF = re.compile(
    r"(?P<stem>.+?)[._](?P<half>lora_down|lora_up|lora\.down|lora\.up|lora_linear_layer\.down|lora_linear_layer\.up"
    r"|lora_A|lora_B)(\.default)?\.weight$"
)
PROCESSOR = re.compile(r"(?P<stem>.+?)(\.processor)?\.(?P<to>to_q|to_k|to_v|to_out)_lora\.(?P<half>down|up)\.weight$")
"""As older versions of diffusers name them, and its conversions still do."""

ALPHA = re.compile(r"(?P<stem>.+?)(\.(lora_down|lora\.down|lora_A)(\.default)?\.weight)?\.alpha$")
DOWN = ("down", "A")

BEGINNINGS = ("", "base_model.model.", "diffusion_model.", "model.diffusion_model.", "transformer.", "unet.")
"""What may stand before a denoiser's own names."""

TEXT_PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
KOHYA = {"unet": ("lora_unet_",), "transformer": ("lora_transformer_", "lora_unet_")}
KOHYA_TEXT = {
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
}
WRAPPER = "text_model."

MOST_OF_THE_MODEL = 4
"""A file of more than so many times the model's bytes is not read: full ranks in Float32 are no more."""

log = Logger()


class Half(Record, frozen=True, kw_only=True):
    """A tensor's place: its layer's name as the file has it, and which half of the product it is."""

    stem: str
    is_down: bool


class LoraWeights(nn.Module):
    """An adapter's tensors: for each layer, by (part, name), the two halves and `alpha / rank`."""

    def __init__(self, layers: Mapping[tuple[str, str], tuple[torch.Tensor, torch.Tensor, float]]) -> None:
        super().__init__()
        self.places = list(layers)
        self.factors = [factor for *_, factor in layers.values()]
        self.config = {"places": [list(place) for place in self.places], "factors": self.factors}
        for index, (down, up, _) in enumerate(layers.values()):
            self.register_buffer(f"down_{index}", down)
            self.register_buffer(f"up_{index}", up)

    @property
    def ranks(self) -> list[int]:
        return sorted({len(getattr(self, f"down_{index}")) for index in range(len(self.places))})

    def halves(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(self, f"down_{index}"), getattr(self, f"up_{index}")


def read(file: ModelFile, pipelines: Pipelines, dtype: torch.dtype, reader: Reader) -> LoraWeights:
    """An adapter's tensors in host memory, each with its layer of these pipelines.

    Raises Fault MODEL_INCOMPATIBLE (no adapter, or one for another model: the first name that does not fit),
    NOT_SUPPORTED (an adapter of another kind), MODEL_CORRUPTED (values that are not finite).
    """
    path = Path(file.path)
    if file.type is not ModelType.LoRA:
        raise incompatible(f"{path.name} is no LoRA: it is a {file.type.value}", type=file.type.value)
    header = read_header(path)
    own = sum(tensor.nbytes for module in pipelines.modules() for tensor in module.parameters())
    if header.data_bytes > MOST_OF_THE_MODEL * own:
        text = f"{path.name} has {header.data_bytes} bytes, and this model {own}: that is no LoRA of it"
        raise incompatible(text, found=header.data_bytes, expected=own)
    held = reader.read([(path, header, header.tensors)], lambda _, source: source)
    return matched(path.name, held, pipelines, dtype)


def matched(name: str, held: dict[str, torch.Tensor], pipelines: Pipelines, dtype: torch.dtype) -> LoraWeights:
    """As `read`, for tensors by the names that their file has."""
    for key, tensor in held.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise corrupted(f"{name}: {key[:120]} has values that are not finite", tensor=key[:200])
    table = _table(pipelines)
    halves, alphas, strange = _sorted(held)
    if any(_layer(stem, table) is None for stem in halves):
        converted = _converted(held, pipelines)
        if converted is not None:
            halves, alphas, strange = _sorted(converted)
    if strange:
        text = f"{name}: {strange[0][:120]} is of an adapter that is no plain LoRA"
        raise Fault(ErrorCode.NOT_SUPPORTED, text, details={"tensor": strange[0][:200]})
    if not halves:
        raise incompatible(f"{name} has no tensor of a LoRA")
    layers: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor, float]] = {}
    for stem, pair in halves.items():
        found = _layer(stem, table)
        if found is None:
            text = f"{name}: {stem[:160]} is no layer of this {pipelines.family.name} model"
            raise incompatible(text, key=stem[:200], family=pipelines.family.name)
        place, layer = found
        down, up = _fitted(name, stem, pair, layer)
        alpha = alphas.get(stem, float(len(down)))
        layers[place] = (down.to(dtype).contiguous(), up.to(dtype).contiguous(), alpha / len(down))
    return LoraWeights(layers)


@contextmanager
def added(pipelines: Pipelines, active: Iterable[tuple[LoraWeights, float]]) -> Iterator[None]:
    """While it lasts, layers add what these adapters give at these scales."""
    by_layer: dict[tuple[str, str], list[tuple[torch.Tensor, torch.Tensor, float]]] = {}
    for weights, scale in active:
        for index, place in enumerate(weights.places if scale else ()):
            by_layer.setdefault(place, []).append((*weights.halves(index), scale * weights.factors[index]))
    with ExitStack() as hooks:
        for (part, name), terms in by_layer.items():
            layer = pipelines.components[part].get_submodule(name)
            hooks.callback(layer.register_forward_hook(partial(_add, terms)).remove)
        yield


def _add(
    terms: list[tuple[torch.Tensor, torch.Tensor, float]], layer: Any, given: tuple[torch.Tensor, ...], made: Any
) -> Any:
    x = given[0]
    for down, up, factor in terms:
        first, second = down.to(x.device, x.dtype), up.to(x.device, x.dtype)
        if isinstance(layer, nn.Linear):
            low = linear(linear(x, first), second)
        else:
            low = conv2d(conv2d(x, first, None, layer.stride, layer.padding, layer.dilation), second)
        made = made + low * factor
    return made


def _sorted(
    held: Mapping[str, torch.Tensor],
) -> tuple[dict[str, dict[bool, torch.Tensor]], dict[str, float], list[str]]:
    """The halves by their layer's name, its alpha where one is given, and the names that are neither."""
    halves: dict[str, dict[bool, torch.Tensor]] = {}
    alphas: dict[str, float] = {}
    strange: list[str] = []
    for key, tensor in held.items():
        half = _half(key)
        if half is not None:
            halves.setdefault(half.stem, {})[half.is_down] = tensor
        elif key.endswith(".alpha") and tensor.numel() == 1:
            match = ALPHA.fullmatch(key)
            named = _half(f"{key.removesuffix('.alpha')}")
            stem = named.stem if named is not None else match["stem"] if match else ""
            alphas[stem] = float(tensor)
        else:
            strange.append(key)
    return halves, alphas, strange


def _half(key: str) -> Half | None:
    match = PROCESSOR.fullmatch(key)
    if match is not None:
        to = match["to"]
        if match["stem"].endswith("self_attn"):
            to = TEXT_PROJECTIONS[to]
        elif to == "to_out":
            to = "to_out.0"
        return Half(stem=f"{match['stem']}.{to}", is_down=match["half"] == "down")
    match = HALF.fullmatch(key)
    return None if match is None else Half(stem=match["stem"], is_down=match["half"].endswith(DOWN))


def _table(pipelines: Pipelines) -> dict[str, tuple[tuple[str, str], Any]]:
    """Every layer that an adapter can act on, by each name that a file may have for it."""
    table: dict[str, tuple[tuple[str, str], Any]] = {}
    denoiser = pipelines.family.denoiser.part
    for part, module in pipelines.named_modules():
        dotted = BEGINNINGS if part == denoiser else ()
        flat = KOHYA.get(part, ()) if part == denoiser else KOHYA_TEXT.get(part, ())
        if part != denoiser and part not in KOHYA_TEXT:
            continue
        for name, layer in module.named_modules():
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                continue
            found = ((part, name), layer)
            names = [name, name.removeprefix(WRAPPER) if name.startswith(WRAPPER) else WRAPPER + name]
            for one in names if part in KOHYA_TEXT else names[:1]:
                for beginning in (*dotted, f"{part}."):
                    table.setdefault(beginning + one, found)
                for beginning in flat:
                    table.setdefault(beginning + one.replace(".", "_"), found)
    return table


def _layer(stem: str, table: Mapping[str, tuple[tuple[str, str], Any]]) -> tuple[tuple[str, str], Any] | None:
    return table.get(stem)


def _converted(held: dict[str, torch.Tensor], pipelines: Pipelines) -> dict[str, torch.Tensor] | None:
    """The tensors by the library's own names; None where it knows no such names."""
    mode = next(iter(pipelines.family.modes))
    convert: Any = getattr(pipeline_class(pipelines.family, mode), "lora_state_dict", None)
    if convert is None:
        return None
    try:
        made = convert(dict(held), unet_config=pipelines.denoiser.config)
    except Exception as error:
        log.warning("an adapter's names are not the library's", error=f"{type(error).__name__}: {error}"[:300])
        return None
    tensors, alphas = made if isinstance(made, tuple) else (made, None)
    found = {key: value for key, value in tensors.items() if isinstance(value, torch.Tensor)}
    for key, alpha in (alphas or {}).items():
        found[key if key.endswith(".alpha") else f"{key}.alpha"] = torch.tensor(float(alpha))
    return found


def _fitted(name: str, stem: str, pair: Mapping[bool, torch.Tensor], layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The two halves in the layer's shapes. Raises Fault MODEL_INCOMPATIBLE, MODEL_CORRUPTED."""
    if len(pair) != 2:
        half = "down" if False in pair else "up"
        raise corrupted(f"{name}: {stem[:160]} has no {half} half", tensor=stem[:200])
    down, up = pair[True], pair[False]
    if isinstance(layer, nn.Linear):
        down, up = down.flatten(1), up.flatten(1)
        wanted_down, wanted_up = (layer.in_features,), (layer.out_features,)
    else:
        down = down if down.ndim == 4 else down[:, :, None, None]
        up = up if up.ndim == 4 else up[:, :, None, None]
        wanted_down, wanted_up = (layer.in_channels, *layer.kernel_size), (layer.out_channels,)
    rank = len(down)
    fits = tuple(down.shape[1:]) == wanted_down and (len(up),) == wanted_up and up.shape[1] == rank
    if not fits:
        shapes = {"down": list(down.shape), "up": list(up.shape)}
        text = f"{name}: {stem[:160]} is for a layer of other widths: {shapes['down']} and {shapes['up']}"
        raise incompatible(text, key=stem[:200], **shapes)
    return down, up
