"""What a file says of itself: what it predicts, and how its numbers are packed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from model_bytes import SD15_NAMES, pipeline_folder, tensor_file

from modelfiles.model import ModelFile, inspect
from modelfiles.paths import Roots
from modelfiles.statements import Statement

V = "v_prediction"


def inspected(tmp_path: Path, more: list[str] | None = None, metadata: dict[str, str] | None = None) -> ModelFile:
    path = tensor_file(tmp_path / "m.safetensors", [*SD15_NAMES, *(more or [])], metadata)
    return inspect(path, Roots([tmp_path]))


@pytest.mark.parametrize(
    ("tensors", "metadata", "expected"),
    [
        ([], {}, Statement()),
        (["v_pred"], {}, Statement(prediction=V, source="its tensor v_pred")),
        (["v_pred", "ztsnr"], {}, Statement(prediction=V, zero_snr=True, source="its tensor v_pred")),
        (["ztsnr"], {}, Statement(zero_snr=True, source="its tensor ztsnr")),
        (
            ["edm_vpred.sigma_max", "edm_vpred.sigma_min"],
            {},
            Statement(prediction=V, edm=True, source="its tensor edm_vpred.sigma_max"),
        ),
        (["edm_mean", "edm_std"], {}, Statement(prediction="epsilon", edm=True, source="its tensor edm_mean")),
        (
            [],
            {"modelspec.prediction_type": "v"},
            Statement(prediction=V, source="modelspec.prediction_type in its header"),
        ),
        (
            [],
            {"modelspec.prediction_type": "Epsilon "},
            Statement(prediction="epsilon", source="modelspec.prediction_type in its header"),
        ),
        ([], {"modelspec.prediction_type": "nonsense"}, Statement()),
        (["v_pred"], {"modelspec.prediction_type": "epsilon"}, Statement(prediction=V, source="its tensor v_pred")),
        ([], {"ss_v_parameterization": "True"}, Statement(prediction=V, source="ss_v_parameterization in its header")),
        ([], {"ss_v_parameterization": "False"}, Statement()),
        (
            [],
            {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"},
            Statement(prediction=V, zero_snr=True, source="ss_v_parameterization in its header"),
        ),
        (
            [],
            {"ss_zero_terminal_snr": "True"},
            Statement(zero_snr=True, source="ss_zero_terminal_snr in its header"),
        ),
    ],
)
def test_marks_in_the_weights_come_before_words_in_the_header(
    tmp_path: Path, tensors: list[str], metadata: dict[str, str], expected: Statement
) -> None:
    assert inspected(tmp_path, tensors, metadata).says == expected


UNET = "model.diffusion_model.input_blocks.1.1.proj_in"
PACKED = {
    "scaled fp8": [
        f"{UNET}.scale_weight",
        f"{UNET}.weight_scale",
        f"{UNET}.scale_input",
        f"{UNET}.input_scale",
        "scaled_fp8",
        "model.diffusion_model.scaled_fp8",
    ],
    "quantization by layers": [f"{UNET}.comfy_quant"],
    "NVFP4 or MXFP8 with block scales": [f"{UNET}.weight_scale_2"],
    "bitsandbytes NF4 or FP4": [f"{UNET}.weight.quant_state.bitsandbytes__nf4", f"{UNET}.weight.quant_map"],
    "bitsandbytes": [f"{UNET}.weight.absmax"],
    "bitsandbytes 8-bit": [f"{UNET}.SCB"],
    "GPTQ or AWQ": [f"{UNET}.qweight"],
    "SVDQuant": [f"{UNET}.smooth_factor"],
    "Quanto": [f"{UNET}.weight._data"],
}


@pytest.mark.parametrize(("name", "tensor"), [(name, tensor) for name in PACKED for tensor in PACKED[name]])
def test_packed_numbers_are_named_with_the_tensor_that_says_so(tmp_path: Path, name: str, tensor: str) -> None:
    assert inspected(tmp_path, [tensor]).packed == f"{name} ({tensor})"


@pytest.mark.parametrize(
    "tensor",
    [f"{UNET}.weight", f"{UNET}.scale_shift_table", "model.diffusion_model.weight_scales_of_justice", f"{UNET}.scale"],
)
def test_plain_numbers_are_not_packed(tmp_path: Path, tensor: str) -> None:
    assert inspected(tmp_path, [tensor]).packed == ""


def test_a_folders_weights_are_looked_at_too_and_adapters_are_what_they_are(tmp_path: Path) -> None:
    folder = pipeline_folder(tmp_path / "sd")
    tensor_file(folder / "unet/diffusion_pytorch_model.safetensors", ["conv_in.weight", "conv_in.weight_scale"])
    assert inspect(folder, Roots([tmp_path])).packed == "scaled fp8 (conv_in.weight_scale)"
    lora = tensor_file(tmp_path / "lora.safetensors", ["x.lora_down.weight", "x.lora_up.weight", "x.scale_weight"])
    assert inspect(lora, Roots([tmp_path])).packed == ""


def beside(tmp_path: Path, note: str, metadata: dict[str, str] | None = None) -> Statement:
    path = tensor_file(tmp_path / "m.safetensors", SD15_NAMES, metadata=metadata or {})
    (tmp_path / "m.swarm.json").write_text(note)
    return inspect(path, Roots([tmp_path])).says


@pytest.mark.parametrize("key", ["prediction_type", "modelspec.prediction_type"])
def test_a_note_beside_a_file_says_what_the_file_leaves_open(tmp_path: Path, key: str) -> None:
    says = beside(tmp_path, json.dumps({key: "v"}))
    assert (says.prediction, says.source) == ("v_prediction", "prediction_type in m.swarm.json")
    assert beside(tmp_path, json.dumps({key: "v"}), {"modelspec.prediction_type": "epsilon"}).prediction == "epsilon"


@pytest.mark.parametrize("note", ["{", "[]", '{"prediction_type": 3}', '{"prediction_type": "sideways"}'])
def test_a_note_that_says_nothing_readable_costs_nobody_the_file(tmp_path: Path, note: str) -> None:
    assert beside(tmp_path, note) == Statement()
