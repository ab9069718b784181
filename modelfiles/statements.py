"""What a file says about itself that decides how it must be drawn: what it predicts, and how its numbers are packed.

Decides by marker tensors first, since they are part of the weights, then by what the header's metadata says. Whoever
loads a file obeys this or refuses it; nobody passes over it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from modelfiles.headers import Tensor
from modelfiles.names import Names
from protocol.records import Record

V_MARKS = ("v_pred", "model.v_pred")
ZERO_SNR_MARKS = ("ztsnr", "model.ztsnr")
EDM_V = "edm_vpred.sigma_max"
EDM = "edm_mean"

PREDICTION = "prediction_type"
SPEC_KEY = f"modelspec.{PREDICTION}"
TRAINER_V, TRAINER_ZERO_SNR = "ss_v_parameterization", "ss_zero_terminal_snr"
YES = frozenset({"true", "1", "yes"})

EPSILON, V_PREDICTION, SAMPLE = "epsilon", "v_prediction", "sample"
WORDS: Mapping[str, str] = {
    "epsilon": EPSILON,
    "eps": EPSILON,
    "v": V_PREDICTION,
    "v_prediction": V_PREDICTION,
    "v-prediction": V_PREDICTION,
    "vpred": V_PREDICTION,
    "v_pred": V_PREDICTION,
    "sample": SAMPLE,
    "x0": SAMPLE,
}
"""How ModelSpec, trainers and people write what a model predicts → diffusers' word."""


class Statement(Record, frozen=True, kw_only=True):
    """What a file says that it predicts, "" where it says nothing, and what says so.

    `zero_snr`: it was trained with betas of zero terminal signal-to-noise ratio (Lin et al., 2023, algorithm 1), `edm`:
    with EDM's preconditioning (Karras et al., 2022).
    """

    prediction: str = ""
    zero_snr: bool = False
    edm: bool = False
    source: str = ""


class _Pack(NamedTuple):
    """A format by the names of what its numbers need; each such name holds one of the words."""

    name: str
    words: tuple[str, ...]
    pattern: re.Pattern[str]


SCALED_FP8 = "scaled fp8"
PACKS = (
    _Pack("quantization by layers", (".comfy_quant",), re.compile(r"\.comfy_quant$")),
    _Pack(
        "bitsandbytes NF4 or FP4",
        ("quant_", "absmax"),
        re.compile(r"\.(quant_state\.|quant_map$|nested_absmax$|nested_quant_map$)"),
    ),
    _Pack("bitsandbytes 8-bit", (".SCB", ".weight_format"), re.compile(r"\.(SCB|weight_format)$")),
    _Pack("bitsandbytes", (".absmax",), re.compile(r"\.absmax$")),
    _Pack("GPTQ or AWQ", (".qweight", ".qzeros", ".g_idx"), re.compile(r"\.(qweight|qzeros|g_idx)$")),
    _Pack("SVDQuant", (".smooth_factor", ".wscales"), re.compile(r"\.(smooth_factor|wscales)$")),
    _Pack("Quanto", (".weight._",), re.compile(r"\.weight\._(data|scale|shift)$")),
    _Pack("NVFP4 or MXFP8 with block scales", ("_scale",), re.compile(r"\.(weight_scale_2|weight_block_scale)$")),
    _Pack(
        SCALED_FP8,
        ("scale",),
        re.compile(r"(^|\.)(scaled_fp8|scale_(weight|input)|(weight|input)_scale)$"),
    ),
)
"""Formats whose numbers mean nothing without others beside them, by the names of those; the most particular first."""


def statement_of(tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> Statement:
    """What the file says that it predicts."""
    names = {tensor.name for tensor in tensors}
    zero_mark = next((mark for mark in ZERO_SNR_MARKS if mark in names), "")
    zero = bool(zero_mark) or metadata.get(TRAINER_ZERO_SNR, "").strip().lower() in YES
    if EDM_V in names:
        return Statement(prediction=V_PREDICTION, edm=True, source=f"its tensor {EDM_V}")
    if EDM in names:
        return Statement(prediction=EPSILON, edm=True, source=f"its tensor {EDM}")
    mark = next((mark for mark in V_MARKS if mark in names), "")
    if mark:
        return Statement(prediction=V_PREDICTION, zero_snr=zero, source=f"its tensor {mark}")
    word = WORDS.get(metadata.get(SPEC_KEY, "").strip().lower(), "")
    if word:
        return Statement(prediction=word, zero_snr=zero, source=f"{SPEC_KEY} in its header")
    if metadata.get(TRAINER_V, "").strip().lower() in YES:
        return Statement(prediction=V_PREDICTION, zero_snr=zero, source=f"{TRAINER_V} in its header")
    source = f"its tensor {zero_mark}" if zero_mark else f"{TRAINER_ZERO_SNR} in its header"
    return Statement(zero_snr=zero, source=source if zero else "")


def packed_format(tensors: Iterable[Tensor]) -> str:
    """The name of the format in which a file's numbers are packed, with a tensor that says so; "" for plain numbers."""
    names = Names(tensor.name for tensor in tensors)
    for pack in PACKS:
        found = names.matching(pack.pattern, pack.words)
        if found:
            return f"{pack.name} ({found[0][:160]})"
    return ""
