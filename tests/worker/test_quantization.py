"""Weights in fewer than 16 bits: the formulas, whole models, and that bytes are truly saved."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from demo.inventory import DemoModel
from protocol import commands as c
from protocol.enums import LoadingStrategy, LoadSource, ModelPrecision
from protocol.records import ModelLoadConfiguration
from protocol.replies import GenerateReply, LoadModelReply
from tests.worker.bench import Bench, model_ref
from tests.worker.test_cpu import SD15, drawn, load, weights
from worker.quantization import GROUP, Quantized, Scheme, layers_by_type, prepare, quantize

FEWER = [ModelPrecision.Int8, ModelPrecision.Int4, ModelPrecision.Float8]
STEPS = {ModelPrecision.Int8: 1 / 127, ModelPrecision.Float8: 1 / 8, ModelPrecision.Int4: 1 / 7}
"""The greatest error of a weight, as a share of its row's (its group's) greatest."""


def scheme(kind: ModelPrecision, compute: torch.dtype = torch.bfloat16) -> Scheme:
    return Scheme(kind=kind, compute=compute)


def layers(row: int = 64) -> nn.Sequential:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(row, 24), nn.Conv2d(row, 6, 3), nn.Embedding(10, row), nn.LayerNorm(row))
    return module.bfloat16().requires_grad_(False)


def unwatched() -> None:
    pass


@pytest.mark.parametrize("kind", FEWER)
def test_no_weight_is_further_off_than_its_scale_lets(kind: ModelPrecision) -> None:
    plain, module = layers(), quantize(layers(), scheme(kind), unwatched)
    for before, after in zip(plain[:3], module[:3], strict=True):
        own = before.weight.float()
        rows = own.reshape(len(own), -1)
        groups = rows.view(len(rows), -1, GROUP) if kind is ModelPrecision.Int4 else rows.unsqueeze(1)
        error = (own - after.weight.float()).reshape(groups.shape).abs()
        assert (error <= groups.abs().amax(2, keepdim=True) * (STEPS[kind] + 2**-7) + 1e-9).all()
        assert after.weight.dtype is torch.bfloat16 and after.weight.shape == before.weight.shape


@pytest.mark.parametrize("kind", FEWER)
def test_layers_compute_with_what_their_weight_says(kind: ModelPrecision) -> None:
    linear, conv, embedding, _ = quantize(layers(), scheme(kind), unwatched)
    x, ids = torch.randn(2, 64).bfloat16(), torch.tensor([[1, 9, 1], [0, 3, 4]])
    assert torch.equal(linear(x), nn.functional.linear(x, linear.weight, linear.bias))
    image = torch.randn(1, 64, 5, 5).bfloat16()
    assert torch.equal(conv(image), nn.functional.conv2d(image, conv.weight, conv.bias))
    assert torch.equal(embedding(ids), nn.functional.embedding(ids, embedding.weight))


@pytest.mark.parametrize("kind", FEWER)
@pytest.mark.parametrize("row", [7, 8, 31, 32, 33, 40, 64])
def test_rows_of_every_length_have_a_place_that_prepare_knows(kind: ModelPrecision, row: int) -> None:
    made = quantize(layers(row), scheme(kind), unwatched)
    with torch.device("meta"):
        empty = prepare(layers(row), scheme(kind))
    told = {name: (tensor.shape, tensor.dtype) for name, tensor in made.state_dict().items()}
    assert told == {name: (tensor.shape, tensor.dtype) for name, tensor in empty.state_dict().items()}
    narrow = isinstance(made[0], Quantized)
    assert narrow is (row >= 8)
    if narrow:
        expected = "int4" if kind is ModelPrecision.Int4 and row % GROUP == 0 else None
        assert expected is None or expected in layers_by_type(made)


def test_a_row_of_zeros_stays_one_and_nothing_becomes_infinite() -> None:
    for kind in FEWER:
        module = layers()
        module[0].weight[3] = 0
        module[0].weight[4] = 1e-38
        weight = quantize(module, scheme(kind, torch.float16), unwatched)[0].weight
        assert torch.isfinite(weight).all() and (weight[3] == 0).all()


def test_tied_weights_stay_one() -> None:
    module = nn.Module()
    module.one, module.other = nn.Embedding(10, 64), nn.Embedding(10, 64)
    module.other.weight = module.one.weight
    made: Any = quantize(module.bfloat16(), scheme(ModelPrecision.Int8), unwatched)
    assert made.one.quantized is made.other.quantized and len(list(made.buffers())) == 2


def test_quantizing_can_be_ended_half_way() -> None:
    def check() -> None:
        raise KeyError("cancelled")

    with pytest.raises(KeyError):
        quantize(layers(), scheme(ModelPrecision.Int8), check)


def picture(bench: Bench, name: str) -> np.ndarray[Any, Any]:
    outcome = drawn(bench, name)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return np.asarray(Image.open(io.BytesIO(outcome.attachments[0])), dtype=float)


@pytest.mark.parametrize("name", [DemoModel.SD15, DemoModel.FLUX])
def test_a_model_in_fewer_bits_takes_what_is_told_and_draws_alike(cpu: Bench, name: str) -> None:
    half = load(cpu, name, ModelPrecision.BFloat16)
    first = picture(cpu, name)
    for kind, most_share in ((ModelPrecision.Int8, 0.6), (ModelPrecision.Int4, 0.55), (ModelPrecision.Float8, 0.75)):
        reply = load(cpu, name, kind)
        held = weights(cpu, name)
        assert reply.memory_usage == sum({t.data_ptr(): t.nbytes for t in held}.values())
        assert reply.memory_usage == cpu.engine.device.gauge().used < most_share * half.memory_usage
        assert not [t for t in held if isinstance(t, nn.Parameter) and t.dtype.itemsize > 2]
        option = reply.options[0]
        assert option.applied and option.evidence is not None
        assert option.evidence["bytes_after"] == reply.memory_usage and option.evidence["compute"] == "BFloat16"
        narrow = {"Int8": "int8", "Int4": "int4", "Float8": "float8_e4m3fn"}[kind.value]
        assert option.evidence["layers"][narrow] > 20
        assert picture(cpu, name).shape == first.shape
        if kind is ModelPrecision.Int8:
            assert np.abs(picture(cpu, name) - first).mean() < 12
    load(cpu, name, ModelPrecision.BFloat16)
    assert np.array_equal(picture(cpu, name), first)


def test_a_quantized_model_comes_back_from_the_ram_tier_as_it_was(cpu: Bench) -> None:
    load(cpu, SD15, ModelPrecision.Int8)
    first, used = picture(cpu, SD15), cpu.engine.device.gauge().used
    cpu.run(c.UnloadModel(model_id=SD15), SD15)
    assert cpu.engine.device.gauge().used == 0
    configuration = ModelLoadConfiguration(precision=ModelPrecision.Int8)
    command = c.LoadModel(model_id=SD15, configuration=configuration)
    assert cpu.reply(LoadModelReply, command, SD15).cache.source is LoadSource.RAM
    assert cpu.engine.device.gauge().used == used and np.array_equal(picture(cpu, SD15), first)


def test_another_model_of_the_same_files_is_built_from_what_the_tier_has(cpu: Bench) -> None:
    configuration = ModelLoadConfiguration(precision=ModelPrecision.Int4)
    lazy = c.LoadModel(model_id=SD15, configuration=configuration, loading_strategy=LoadingStrategy.LAZY)
    cpu.reply(LoadModelReply, lazy, SD15)
    first = picture(cpu, SD15)
    cpu.run(c.UnloadModel(model_id=SD15), SD15)
    ref = "second"
    command = c.LoadModel(model_id=ref, configuration=configuration)

    model = msgspec.structs.replace(model_ref(cpu.root, SD15), model_id=ref)
    reply = cpu.reply(LoadModelReply, command, model=model)
    assert reply.cache.source is LoadSource.RAM
    outcome = cpu.run(
        c.Generate(model_id=ref, prompt="a small boat", steps=2, seed=7, width=64, height=64), model=model
    )
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(outcome.attachments[0])), dtype=float), first)
