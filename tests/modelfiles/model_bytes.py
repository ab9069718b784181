"""Model files written byte by byte: what a test needs of a format, without the libraries that usually write it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelfiles.headers import DTYPE_BITS


def header_file(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """A safetensors file of this header and data; `length` overrides the true header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def tensor_file(
    path: Path,
    shapes: Mapping[str, Sequence[int]] | Sequence[str],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: str = "F32",
    holes: bool = False,
) -> Path:
    """A sound file of zeros; bare names get the shape [1]. With `holes` its data take no room."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    named = shapes if isinstance(shapes, Mapping) else {name: [1] for name in shapes}
    end = 0
    for name, shape in named.items():
        begin = end
        count = 1
        for side in shape:
            count *= side
        end += count * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    if not holes:
        return header_file(path, header, bytes(end))
    header_file(path, header)
    os.truncate(path, path.stat().st_size + end)
    return path


def json_file(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


SD_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.0",
    "requires_safety_checker": False,
    "feature_extractor": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
UNET = {"conv_in.weight": [4, 4], "down_blocks.0.resnets.0.conv1.weight": [2]}


def pipeline_folder(folder: Path, *, cross_attention_dim: object = 768) -> Path:
    """A whole Stable Diffusion folder of a few bytes."""
    json_file(folder / "model_index.json", SD_INDEX)
    json_file(folder / "scheduler/scheduler_config.json", {"_class_name": "PNDMScheduler"})
    json_file(folder / "tokenizer/tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"})
    json_file(folder / "tokenizer/vocab.json", {"a": 0})
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    json_file(folder / "text_encoder/config.json", {"architectures": ["CLIPTextModel"]})
    unet = {"_class_name": "UNet2DConditionModel", "cross_attention_dim": cross_attention_dim, "sample_size": 64}
    json_file(folder / "unet/config.json", unet)
    json_file(folder / "vae/config.json", {"_class_name": "AutoencoderKL"})
    tensor_file(folder / "text_encoder/model.safetensors", ["embeddings.token_embedding.weight"])
    tensor_file(folder / "unet/diffusion_pytorch_model.safetensors", UNET)
    tensor_file(
        folder / "vae/diffusion_pytorch_model.safetensors", ["decoder.conv_in.weight", "encoder.conv_in.weight"]
    )
    return folder


SD15_NAMES = [
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.out.2.weight",
    "first_stage_model.decoder.conv_in.weight",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
]

PROFILE = {
    "family": "SDXL",
    "bytes": 300,
    "load_ms": 10,
    "step_ms": 1.5,
    "peak_bytes": 400,
    "components": {"unet": 200, "vae": 100},
}
