"""Values of configurations: both sides of each range, and that every key of a real one passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelfiles.ranges import LONGEST_BETAS, LONGEST_LIST, MOST_TIMESTEPS
from modelfiles.values import DEEPEST, VALUES, check_values
from protocol.errors import ErrorCode, Fault

FAMILIES = Path(__file__).parents[2] / "modelfiles" / "configurations"
BOTH_SIDES: dict[str, tuple[list[object], list[object]]] = {
    "num_train_timesteps": (
        [1, 1000, MOST_TIMESTEPS],
        [0, -1, MOST_TIMESTEPS + 1, 10**8, 1000.0, True, None, "1000", []],
    ),
    "num_hidden_layers": ([1, 1024], [0, 1025, 20_000, -3, None, {}]),
    "num_attention_heads": ([1, None, [2, 4]], [0, [], [0], [2, None], "2", 1025]),
    "norm_num_groups": ([1, 32, None], [0, -1, 1.5]),
    "layers_per_block": ([1, [1, 2]], [0, [], 3000, [[1]], None]),
    "transformer_layers_per_block": ([1, [1, 2, 10], [[1, 2], 3]], [0, [], [[]], [[[1]]]]),
    "block_out_channels": ([[320], [1] * LONGEST_LIST], [[], [0], [1] * (LONGEST_LIST + 1), 320, [1 << 18], None]),
    "max_position_embeddings": ([1, 77, 1 << 17], [0, 20_000_000, (1 << 17) + 1]),
    "vocab_size": ([1, 49408, 4 << 20], [0, (4 << 20) + 1, 12_500_000]),
    "sample_size": ([8, 128, [64, 96], None], [0, -1, 1 << 15, [], "64"]),
    "model_max_length": ([2, 77, 10**30], [1, 0, -1, "77", None]),
    "beta_end": ([1, 0.012], [0, -0.1, 1.1, None, "0.012"]),
    "trained_betas": ([None, [0.1], [0.1] * LONGEST_BETAS], [[], [0.1] * (LONGEST_BETAS + 1), [2], 0.1]),
    "beta_schedule": (["linear", "scaled_linear"], ["", "other", None, 1, ["linear"]]),
    "use_linear_projection": ([True, False, None], [1, 0, "true", []]),
    "only_cross_attention": ([True, [True, False]], [[], [1]]),
    "norm_eps": ([1e-20, 1e-5, 1], [0, -1e-5, 2, None]),
    "dropout": ([0, 0.5, 1], [-0.1, 1.1, None]),
    "act_fn": (["silu", "gelu"], ["", "evil", None, 7]),
    "size": ([224, {"shortest_edge": 224}], [0, 10**9, {"height": 10**9}, {"height": "x"}, []]),
    "shift": ([0.5, 3], [0, -1, 1e7]),
}
WELL = [(key, value) for key, (values, _) in BOTH_SIDES.items() for value in values]
BAD = [(key, value) for key, (_, values) in BOTH_SIDES.items() for value in values]


@pytest.mark.parametrize(("key", "value"), WELL)
def test_values_up_to_each_limit_are_taken(key: str, value: object) -> None:
    check_values({key: value, "more": "x"}, "unet/config.json")


@pytest.mark.parametrize(("key", "value"), BAD)
def test_values_beyond_are_refused_naming_file_key_and_value(key: str, value: object) -> None:
    with pytest.raises(Fault) as caught:
        check_values({"more": "x", key: value}, "unet/config.json")
    fault = caught.value
    assert fault.code is ErrorCode.MODEL_INCOMPATIBLE
    assert fault.info.details == {"config": "unet/config.json", "key": key}
    assert f"unet/config.json: {key} is {repr(value)[:20]}" in fault.info.message and len(fault.info.message) < 600


def test_configurations_within_a_configuration_are_looked_at() -> None:
    config: dict[str, object] = {"hidden_size": 0}
    for _ in range(DEEPEST):
        config = {"text_config": config}
    with pytest.raises(Fault, match="hidden_size is 0"):
        check_values(config, "safety_checker/config.json")


def test_the_projects_own_configurations_pass() -> None:
    looked = 0
    for path in FAMILIES.rglob("*.json"):
        config = json.loads(path.read_text())
        check_values(config, path.name)
        looked += len(set(config) & set(VALUES))
    assert looked > 100
