"""The flags of a configuration on a real model: applied with evidence that is true, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from demo.inventory import DemoModel
from protocol import commands as c
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization, ModelPerformanceOptimization
from protocol.replies import LoadModelReply, OptionOutcome
from tests.worker.bench import Bench
from tests.worker.test_cpu import SD15, drawn
from worker import attention

SLICING = ModelMemoryOptimization(enable_attention_slicing=True)
FLASH = ModelPerformanceOptimization(enable_flash_attention=True)


def account(bench: Bench, name: str, **fields: Any) -> dict[str, OptionOutcome]:
    command = c.LoadModel(model_id=name, configuration=ModelLoadConfiguration(**fields))
    reply = bench.reply(LoadModelReply, command, name)
    assert [one.option for one in reply.options if one.applied] == reply.optimizations_applied
    return {option.option: option for option in reply.options}


class Calls:
    """What attention is asked for while it is watched: (heads, flash first)."""

    def __init__(self) -> None:
        self.heads: list[int] = []
        self.orders: list[bool] = []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    seen = Calls()
    parts, order = attention.Sliced._parts, attention.flash

    def sliced(self: attention.Sliced, query: torch.Tensor, *rest: Any, **named: Any) -> Any:
        found = parts(self, query, *rest, **named)
        seen.heads += [one[0][0].shape[1] for one in found or ()]
        return found

    def first() -> Any:
        seen.orders.append(True)
        return order()

    monkeypatch.setattr(attention.Sliced, "_parts", sliced)
    monkeypatch.setattr(attention, "flash", first)
    yield seen


@pytest.mark.parametrize("heads", [(4, 4), (6, 6), (5, 5), (8, 2), (6, 3)])
@pytest.mark.parametrize("mask", ["none", "shared", "each head", "causal", "flat"])
def test_sliced_attention_is_equal_to_the_whole(heads: tuple[int, int], mask: str) -> None:
    torch.manual_seed(3)
    many, few = heads
    query, key, value = torch.randn(2, many, 9, 8), torch.randn(2, few, 9, 8), torch.randn(2, few, 9, 8)
    masks = {"shared": (2, 1, 9, 9), "each head": (2, many, 9, 9), "flat": (9, 9)}
    settings: dict[str, Any] = {"is_causal": mask == "causal", "enable_gqa": many != few}
    if mask in masks:
        settings["attn_mask"] = torch.randn(masks[mask])
    whole = attend(query, key, value, **settings)
    with attention.Sliced() as sliced:
        assert torch.equal(attend(query, key, value, **settings), whole)
        named = {key: value for key, value in settings.items() if key != "attn_mask"}
        if not named["is_causal"]:
            assert torch.equal(attend(query, key, value, settings.get("attn_mask"), **named), whole)
    assert sliced.calls >= 1


def test_one_head_or_none_is_left_whole() -> None:
    one, flat = torch.randn(1, 1, 5, 8), torch.randn(4, 5, 8)
    with attention.Sliced() as sliced:
        attend(one, one, one)
        attend(flat, flat, flat)
    assert sliced.calls == 0


@pytest.mark.parametrize("name", [DemoModel.SD15, DemoModel.FLUX, DemoModel.SD3, DemoModel.Z_IMAGE])
def test_attention_slicing_acts_on_every_family_and_ends_with_its_configuration(
    cpu: Bench, calls: Calls, name: str
) -> None:
    first = drawn(cpu, name).attachments
    option = account(cpu, name, memory_optimization=SLICING)["enable_attention_slicing"]
    assert option.applied and option.evidence is not None and option.evidence["attention_layers"] > 0
    assert not calls.heads
    assert drawn(cpu, name).attachments == first
    assert len(calls.heads) >= 2 * option.evidence["slices"]
    assert list(account(cpu, name)) == ["precision"]
    calls.heads.clear()
    assert drawn(cpu, name).attachments == first and not calls.heads


def test_flash_attention_names_the_kernel_that_torch_runs(cpu: Bench, calls: Calls) -> None:
    first = drawn(cpu, SD15).attachments
    option = account(cpu, SD15, performance_optimization=FLASH)["enable_flash_attention"]
    assert option.applied and option.evidence is not None
    assert "flash_attention" in option.evidence["kernel"]
    assert option.evidence["with_kernel"] == option.evidence["attention_layers"] > 0
    assert drawn(cpu, SD15).attachments == first and calls.orders == [True]


def test_flash_attention_that_torch_lacks_is_refused(cpu: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that sets a name and changes nothing is not believed."""
    monkeypatch.setattr(attention, "flash_kernel", lambda *_: "")
    option = account(cpu, SD15, performance_optimization=FLASH)["enable_flash_attention"]
    assert not option.applied and option.evidence is None and "no flash kernel" in (option.reason or "")


def test_a_kernel_is_named_only_where_it_runs() -> None:
    host = torch.device("cpu")
    assert "flash" in attention.flash_kernel(host, torch.float32, 64)
    assert attention.flash_kernel(host, torch.int32, 64) == ""


def test_of_flags_that_exclude_each_other_the_first_that_can_be_had_is_applied(cpu: Bench) -> None:
    options = account(cpu, SD15, memory_optimization=SLICING, performance_optimization=FLASH)
    assert options["enable_attention_slicing"].applied and not options["enable_flash_attention"].applied
    assert "enable_attention_slicing" in (options["enable_flash_attention"].reason or "")
    everything = ModelPerformanceOptimization(
        enable_tensor_rt=True, enable_onnx=True, enable_compilation=True, enable_flash_attention=True
    )
    options = account(cpu, SD15, performance_optimization=everything)
    assert options["enable_flash_attention"].applied
    assert not options["enable_tensor_rt"].applied and "TensorRT" in (options["enable_tensor_rt"].reason or "")
    assert not options["enable_onnx"].applied and "ONNX" in (options["enable_onnx"].reason or "")


def test_a_load_that_asks_for_no_configuration_leaves_the_flags(cpu: Bench, calls: Calls) -> None:
    account(cpu, SD15, memory_optimization=SLICING)
    reply = cpu.reply(LoadModelReply, c.LoadModel(model_id=SD15), SD15)
    assert "enable_attention_slicing" in reply.optimizations_applied
    drawn(cpu, SD15)
    assert calls.heads


def test_two_models_of_one_part_run_each_under_its_own_flags(cpu: Bench, calls: Calls) -> None:
    account(cpu, SD15, memory_optimization=SLICING)
    other = "tiny-sd15-single.safetensors"
    drawn(cpu, other)
    assert not calls.heads
    drawn(cpu, SD15)
    assert calls.heads
