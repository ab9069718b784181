"""The allow-list: every pipeline and component class that a model folder may name, and every key that it may not.

Classes come from the families' records, and those that all families share from here.

Decides what is safe to hand to a loader. Loaders of diffusers and transformers follow code paths named in
configuration files even without being told to trust them; what is not in these tables is refused before they see it.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfiles import families
from protocol.enums import ComponentType

PIPELINES = frozenset(name for family in families.ALL for name in family.pipelines)

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)

COMPONENTS: Mapping[tuple[str, str], ComponentType] = {
    **{pair: kind for family in families.ALL for pair, kind in family.classes.items()},
    **{("diffusers", name): ComponentType.Scheduler for name in SCHEDULERS},
    ("transformers", "CLIPImageProcessor"): ComponentType.Unknown,
    ("transformers", "CLIPFeatureExtractor"): ComponentType.Unknown,
    ("transformers", "SiglipImageProcessor"): ComponentType.Unknown,
    ("transformers", "CLIPVisionModelWithProjection"): ComponentType.ImageEncoder,
    ("transformers", "SiglipVisionModel"): ComponentType.ImageEncoder,
    ("stable_diffusion", "StableDiffusionSafetyChecker"): ComponentType.SafetyChecker,
}
"""(library, class) as `model_index.json` names them; Unknown are the parts that the host has no name for."""

WEIGHTED = frozenset(
    {
        ComponentType.UNet,
        ComponentType.VAE,
        ComponentType.Transformer,
        ComponentType.ControlNet,
        ComponentType.TextEncoder,
        ComponentType.ImageEncoder,
        ComponentType.SafetyChecker,
    }
)
"""Parts that cannot be without weights."""

SAFE_CLASSES = (
    frozenset(name for _, name in COMPONENTS)
    | frozenset(PIPELINES)
    | {name for family in families.ALL for names in family.equivalents.values() for name in names}
    | {
        "CLIPModel",
        "CLIPProcessor",
        "PreTrainedTokenizerFast",
        "SiglipModel",
        "T5ForConditionalGeneration",
        "TokenizersBackend",
    }
)
"""Every class that a part's own configuration may name."""

NUMBERED = {
    "text_encoder_2": ComponentType.TextEncoder2,
    "text_encoder_3": ComponentType.TextEncoder3,
}
"""Names that make a text encoder the second or third."""

NAMED_PARTS: Mapping[str, ComponentType] = {
    "unet": ComponentType.UNet,
    "transformer": ComponentType.Transformer,
    "vae": ComponentType.VAE,
    "text_encoder": ComponentType.TextEncoder,
    **NUMBERED,
    "image_encoder": ComponentType.ImageEncoder,
    "controlnet": ComponentType.ControlNet,
    "safety_checker": ComponentType.SafetyChecker,
    "tokenizer": ComponentType.Tokenizer,
    "scheduler": ComponentType.Scheduler,
    "lora": ComponentType.LoRA,
}
"""What a part is by its name, where no class stands beside it (virtual profiles)."""

CODE_KEYS = frozenset(
    {
        "auto_map",
        "custom_pipeline",
        "custom_pipelines",
        "custom_generate",
        "trust_remote_code",
        "remote_code",
        "code_revision",
        "kernel_config",
        "kernel_mapping",
        "use_kernels",
        "_blocks_class_name",
        "_component_manager",
        "__reduce__",
    }
)
"""Keys that make a loader look for code."""

ATTENTION_KEYS = frozenset({"attn_implementation", "_attn_implementation", "_attn_implementation_internal"})
ATTENTION_WORDS = frozenset({"eager", "sdpa", "flash_attention_2", "flex_attention"})
"""Any other word names a kernel to fetch and run."""

PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
"""Suffixes of files whose reading executes what they hold."""
