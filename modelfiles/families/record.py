"""What is said of a family of models: the record, and the words that several families share.

A family is one module beside this one with a record `FAMILY`; nothing else in the project names it. Classes are those
of diffusers and transformers by their names, so that nothing here needs them to be installed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from modelfiles.ranges import COUNT, FLAG, WIDTH, Value, keys, real, whole
from protocol.drawing import Mode
from protocol.enums import ComponentType, ModelType
from protocol.records import Record

DIFFUSION = "model.diffusion_model."
"""What begins a denoiser's names in files of the original layouts."""


class SchedulerKind(enum.Enum):
    """What a model was trained to undo, of which schedulers know one kind."""

    NOISE = "noise"
    FLOW = "flow"
    EDM = "edm"


class Signature(Record, frozen=True, kw_only=True):
    """A mark of single files: of each group one beginning must be there (an exact name begins itself).

    `widths`: tensors whose last size must be so, as a file tells it that shares all names. `without`: beginnings that
    none may have, which are another family's.
    """

    groups: tuple[tuple[str, ...], ...]
    slots: Mapping[str, tuple[str, ...]] = {}
    widths: Mapping[str, int] = {}
    without: tuple[str, ...] = ()

    @property
    def marks(self) -> int:
        """How particular it is."""
        return len(self.groups) + len(self.widths) + bool(self.without)


class FilePart(Record, frozen=True, kw_only=True):
    """A part of a single file: all tensors whose names begin with one of the `prefixes`."""

    name: str
    type: ComponentType
    prefixes: tuple[str, ...]


class Denoiser(Record, frozen=True, kw_only=True):
    """The part that takes noise away, and the tensor that sees the channels of what it is given.

    `first` is that tensor's name in a folder, `originals` those in single files. A denoiser of transformers may see
    several latent pixels as one: `packed` of them in its configuration's `in_channels`, `packed_tensor` in the tensor.
    """

    part: str
    first: str
    originals: tuple[str, ...]
    packed: int = 1
    packed_tensor: int = 1


class Key(Record, frozen=True, kw_only=True):
    """How a tensor of the original layout becomes its class's own.

    In the names `{}` stands for a block's number, `{last}` for that of the last one; names that end with a dot keep
    what follows. Several of its `own` are its rows in that order, as many as each has; `swapped`: its two halves of
    rows change places, as shift and scale do between the two layouts.
    """

    original: str
    own: tuple[str, ...]
    swapped: bool = False


def layout(names: Mapping[str, str | tuple[str, ...]], swapped: Mapping[str, str]) -> tuple[Key, ...]:
    """Keys by their original names, those that are swapped first: of several that fit a tensor, the first counts."""
    first = [Key(original=original, own=(own,), swapped=True) for original, own in swapped.items()]
    others = [Key(original=k, own=own if isinstance(own, tuple) else (own,)) for k, own in names.items()]
    return (*first, *others)


class Guidance(Record, frozen=True, kw_only=True):
    """How a family is guided: the pipeline's argument for `guidance_scale`, and whether it takes a negative prompt.

    `switch` is a key of the denoiser's configuration that says whether guidance means anything to it; where it means
    nothing, the model was distilled for `few_steps`. `empty_negative` stands for a negative prompt where none is given
    and the pipeline would otherwise not guide.
    """

    argument: str = "guidance_scale"
    negative: bool = True
    empty_negative: str | None = None
    switch: str = ""
    few_steps: int = 4


class Family(Record, frozen=True, kw_only=True):
    """One family of models that draw pictures.

    `name` is what people call it, `type` the wire's word (Diffusion where the wire has none of its own).

    Recognised: single files by `signatures`; folders by their pipeline's class, one of `modes` or of `relatives`, and,
    where families share it, by `config_marks`, values of the denoiser's configuration, and by the parts that they lack,
    `lacks`. Adapters by the beginnings of `adapters`, or by `context_width`, the width of the text embeddings that a
    UNet attends to.

    Made of: `needed` parts, without which nothing can be drawn, of `classes`; in single files `file_parts`, of which
    the `spare` ones may be missing though the configuration names them. Their tensors have their class's own names or
    those of the original layout, which the keys of `layout` bring to the class's own for the denoiser, and
    `conversions` for other parts: a class's name → a function of diffusers' single-file loader. `configuration` is the
    project's own for such files, a folder of `modelfiles/configurations`.

    `slots` are the parts for which not every class will do, and those that will. `widths` are keys of the denoiser's
    configuration and what they must be: the sum of these keys of these parts. `values` bound what their configurations
    may hold beside what every family's may, `vocabularies` are the sets of files of which a tokenizer of a class needs
    one, `equivalents` the classes whose configuration serves another too.
    `chat_template` is how a prompt is put to a text encoder that was trained to chat: a model's own is never run.

    Drawn: `modes` with the pipeline's class for each, `controls` likewise with a ControlNet. `has_inpainting_models`:
    there are some whose denoiser takes the channels of a mask and of the masked picture beside its own, and which draw
    within a mask alone. `latent_key` is where the VAE's configuration has its channels, `latent_factor` the pixels to a
    side of one latent pixel. Sides are pixels: `native_side` it was trained for, `greatest_default` is drawn where
    nobody asks, all are multiples of `side_multiple`.
    `working_bytes_per_pixel` is the memory beside its weights, in half precision.
    """

    name: str
    type: ModelType
    signatures: tuple[Signature, ...]
    modes: Mapping[Mode, str]
    relatives: tuple[str, ...] = ()
    config_marks: Mapping[str, tuple[object, ...]] = {}
    needed: frozenset[str]
    lacks: frozenset[str] = frozenset()
    spare: frozenset[str] = frozenset()
    classes: Mapping[tuple[str, str], ComponentType]
    file_parts: tuple[FilePart, ...]
    conversions: Mapping[str, str] = {}
    layout: tuple[Key, ...] = ()
    configuration: str = ""
    denoiser: Denoiser
    scheduler: SchedulerKind
    latent_key: str = "latent_channels"
    latent_factor: int = 8
    native_side: int
    greatest_default: int = 1024
    side_multiple: int = 8
    working_bytes_per_pixel: int = 2_800
    guidance: Guidance = Guidance()
    has_inpainting_models: bool = False
    controls: Mapping[Mode, str] = {}
    adapters: tuple[str, ...] = ()
    context_width: int = 0
    slots: Mapping[str, tuple[str, ...]] = {}
    widths: Mapping[str, tuple[tuple[str, str], ...]] = {}
    values: Mapping[str, Value] = {}
    vocabularies: Mapping[str, tuple[tuple[str, ...], ...]] = {}
    equivalents: Mapping[str, frozenset[str]] = {}
    chat_template: str = ""

    @property
    def has_control_nets(self) -> bool:
        return bool(self.controls)

    @property
    def pipelines(self) -> frozenset[str]:
        """Every pipeline class that a folder of this family may name."""
        return frozenset(self.modes.values()) | frozenset(self.relatives)


UNET = Denoiser(part="unet", first="conv_in.weight", originals=(DIFFUSION + "input_blocks.0.0.weight",))
LATENT_TENSORS = ("first_stage_model.decoder.conv_in.weight", "vae.decoder.conv_in.weight")
"""The first tensors of a single file's VAE that see a latent picture: their second size is its channels."""

UNET_BLOCKS = (DIFFUSION + "input_blocks.",)
UNET_CLASSES = {
    ("diffusers", "UNet2DConditionModel"): ComponentType.UNet,
    ("diffusers", "ControlNetModel"): ComponentType.ControlNet,
}
CLIP_CLASSES = {
    ("transformers", "CLIPTextModel"): ComponentType.TextEncoder,
    ("transformers", "CLIPTextModelWithProjection"): ComponentType.TextEncoder,
    ("transformers", "CLIPTokenizer"): ComponentType.Tokenizer,
    ("transformers", "CLIPTokenizerFast"): ComponentType.Tokenizer,
}
T5_CLASSES = {
    ("transformers", "T5EncoderModel"): ComponentType.TextEncoder,
    ("transformers", "T5Tokenizer"): ComponentType.Tokenizer,
    ("transformers", "T5TokenizerFast"): ComponentType.Tokenizer,
}
QWEN_CLASSES = {
    ("transformers", "Qwen2Tokenizer"): ComponentType.Tokenizer,
    ("transformers", "Qwen2TokenizerFast"): ComponentType.Tokenizer,
}
QWEN_VOCABULARIES = dict.fromkeys(
    ("Qwen2Tokenizer", "Qwen2TokenizerFast"), (("tokenizer.json",), ("vocab.json", "merges.txt"))
)
QWEN_CHAT = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN_VALUES = {
    **keys(COUNT, "num_key_value_heads", "max_window_layers"),
    "head_dim": WIDTH.or_null(),
    "sliding_window": whole(1, 1 << 20).or_null(),
    "rope_theta": real(1e-6, 1e12),
    "rms_norm_eps": real(1e-20, 1),
    **keys(FLAG, "attention_bias", "use_sliding_window"),
}
CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
T5_TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast")
QWEN_TOKENIZERS = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
KL_VAES = ("AutoencoderKL", "AutoencoderTiny")
UNET_SLOTS = {"unet": ("UNet2DConditionModel",), "vae": KL_VAES}
KL_CLASSES = {
    ("diffusers", "AutoencoderKL"): ComponentType.VAE,
    ("diffusers", "AutoencoderTiny"): ComponentType.VAE,
}
VAE_CONVERSION = {"AutoencoderKL": "convert_ldm_vae_checkpoint"}
UNET_CONVERSIONS = {"UNet2DConditionModel": "convert_ldm_unet_checkpoint", **VAE_CONVERSION}
VAE_PART = FilePart(name="vae", type=ComponentType.VAE, prefixes=("first_stage_model.", "vae."))
UNET_PART = FilePart(name="unet", type=ComponentType.UNet, prefixes=(DIFFUSION,))
TRANSFORMER_PART = FilePart(name="transformer", type=ComponentType.Transformer, prefixes=(DIFFUSION,))
"""A file without any part's beginnings is the denoiser alone."""


def encoder_part(number: int, *prefixes: str) -> FilePart:
    """The first, second or third text encoder of a single file."""
    kinds = (ComponentType.TextEncoder, ComponentType.TextEncoder2, ComponentType.TextEncoder3)
    name = "text_encoder" if number == 1 else f"text_encoder_{number}"
    return FilePart(name=name, type=kinds[number - 1], prefixes=prefixes)


def either(*starts: str) -> tuple[str, ...]:
    """Beginnings of a denoiser's names in a whole checkpoint and in a file of the denoiser alone."""
    return (*(DIFFUSION + start for start in starts), *starts)
