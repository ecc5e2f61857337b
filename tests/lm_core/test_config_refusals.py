"""Configurations that are wrong or unsupported: each refused by name, and none ends in another error."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoints import KINDS, MISTRAL, NEWER, OLDER, QWEN2
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core.config import LlamaConfig
from lm_core.errors import ConfigError
from lm_core.rotary import RotaryTables, inverse_frequencies

HUGE = pytest.param(10**400, id="10**400")
"""A whole number that no float can hold."""


def refused(raw: dict[str, Any], *words: str) -> None:
    """The configuration is refused in one sentence that has these words."""
    with pytest.raises(ConfigError) as error:
        LlamaConfig.from_dict(raw)
    message = str(error.value)
    assert message.startswith("config.json ")
    assert "\n" not in message
    for word in words:
        assert word in message


COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


@pytest.mark.parametrize("name", COUNTS)
def test_missing_fields(name: str) -> None:
    """Named, whether absent or null."""
    refused({field: value for field, value in OLDER.items() if field != name}, name)
    refused({**OLDER, name: None}, name)


@pytest.mark.parametrize("name", [*COUNTS, "num_key_value_heads", "head_dim"])
@pytest.mark.parametrize(
    "value", [0, -1, True, False, 64.0, "64", [64], {}, 1 << 31, 1 << 63, HUGE, float("nan")]
)
def test_wrong_counts(name: str, value: Any) -> None:
    """Not positive whole numbers, or beyond what any model has."""
    refused({**OLDER, name: value}, name)


@pytest.mark.parametrize(
    "value", [0, -1e-6, True, "1e-6", [1e-6], float("nan"), float("inf"), -float("inf"), HUGE]
)
@pytest.mark.parametrize("name", ["rms_norm_eps", "rope_theta"])
def test_wrong_numbers(name: str, value: Any) -> None:
    """Python reads NaN, infinities and integers of any length from JSON; none is a number here."""
    refused({**OLDER, name: value}, name)


@pytest.mark.parametrize("name", ["tie_word_embeddings", "attention_bias", "mlp_bias"])
@pytest.mark.parametrize("value", [0, 1, "true", []])
def test_wrong_flags(name: str, value: Any) -> None:
    """Only true and false."""
    refused({**OLDER, name: value}, name)


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [-1, 96, True, 1.0, "1", {}])
def test_wrong_token_ids(name: str, value: Any) -> None:
    """Tokens that the vocabulary does not have, alone or in a list."""
    refused({**OLDER, name: value}, name)
    if name == "eos_token_id":
        refused({**OLDER, name: [2, value]}, name)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"architectures": ["GPT2LMHeadModel"]}, ["GPT2LMHeadModel", "LlamaForCausalLM"]),
        ({"architectures": ["MixtralForCausalLM"]}, ["MixtralForCausalLM"]),
        ({"architectures": []}, ["architectures"]),
        ({"architectures": "LlamaForCausalLM"}, ["architectures"]),
        ({"architectures": [None]}, ["None"]),
        ({"architectures": [["LlamaForCausalLM"]]}, ["architecture"]),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ["quantized"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        ({"hidden_act": None}, ["hidden_act"]),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            ["num_attention_heads 4", "num_key_value_heads 3"],
        ),
        (
            {"num_attention_heads": 2, "num_key_value_heads": 4},
            ["num_attention_heads 2", "num_key_value_heads 4"],
        ),
        ({"num_attention_heads": 6, "num_key_value_heads": 3}, ["hidden_size 64", "num_attention_heads 6"]),
        ({"head_dim": 15}, ["head_dim 15", "even"]),
        ({"num_hidden_layers": 5000}, ["num_hidden_layers 5000"]),
        ({"head_dim": 2, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, ["head_dim 2", "dynamic"]),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, ["longrope", "dynamic"]),
        ({"rope_scaling": {"rope_type": None, "factor": 4.0}}, ["RoPE type"]),
        ({"rope_scaling": {"rope_type": ["linear"], "factor": 4.0}}, ["RoPE type"]),
        ({"rope_scaling": [1]}, ["RoPE"]),
        ({"rope_scaling": "linear"}, ["RoPE", "linear"]),
        ({"rope_scaling": {"rope_type": "linear"}}, ["factor"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            ["partial_rotary_factor"],
        ),
    ],
)
def test_unsupported_models(changes: dict[str, Any], words: list[str]) -> None:
    """What is asked for is named, and so is what could be."""
    refused({**OLDER, **changes}, *words)


@pytest.mark.parametrize("model_type", ["gpt2", None, ["llama"]])
def test_unsupported_model_types(model_type: Any) -> None:
    """What stands in for the architecture must be as well known."""
    raw = {name: value for name, value in OLDER.items() if name != "architectures"}
    refused({**raw, "model_type": model_type}, "model_type", str(model_type).strip("[]'"))


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "llama3", "yarn"])
@pytest.mark.parametrize("factor", [0.5, 0, -2, "4", True, float("nan"), float("inf"), HUGE])
def test_wrong_rope_factors(rope_type: str, factor: Any) -> None:
    """Below one they would shorten the context."""
    scaling = {"rope_type": rope_type, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    refused({**OLDER, "rope_scaling": scaling}, "factor")


@pytest.mark.parametrize(
    "changes",
    [
        {"low_freq_factor": 4.0, "high_freq_factor": 4.0},
        {"low_freq_factor": 0},
        {"high_freq_factor": None},
        {"low_freq_factor": "1"},
        {"original_max_position_embeddings": 0},
        {"original_max_position_embeddings": 64.5},
    ],
)
def test_wrong_llama3_parameters(changes: dict[str, Any]) -> None:
    """Bounds that divide by zero, or are not numbers."""
    refused(
        {**OLDER, "rope_scaling": {**KINDS["llama3"].config["rope_scaling"], **changes}}, next(iter(changes))
    )


@pytest.mark.parametrize("name", ["beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"])
@pytest.mark.parametrize("value", ["many", [32], True, -1, float("nan"), float("inf"), HUGE])
def test_wrong_yarn_parameters(name: str, value: Any) -> None:
    """They go into logarithms and tables; none may end in another error later."""
    refused({**OLDER, "rope_scaling": {**KINDS["yarn"].config["rope_scaling"], name: value}}, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["full_attention"]},
        {"layer_types": ["full_attention", "linear_attention"]},
        {"layer_types": "full_attention"},
        {"layer_types": [["full_attention"], {}]},
        {"max_window_layers": "1"},
        {"max_window_layers": True},
        {"sliding_window": 0},
        {"sliding_window": "40"},
        {"use_sliding_window": 1},
    ],
)
def test_wrong_windows(changes: dict[str, Any]) -> None:
    """A window that is none, or for layers that are none."""
    refused({**QWEN2, "sliding_window": 40, "use_sliding_window": True, **changes}, next(iter(changes)))


SCALARS = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        2,
        1.0,
        1.5,
        1e-300,
        1e300,
        float("nan"),
        float("inf"),
        10**400,
        "",
        "x",
        (),
        "default",
        "yarn",
    ]
) | st.integers(-5, 5000)
VALUES = (
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "factor"]), SCALARS, max_size=2)
)
ROPE = st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["default", "linear", "dynamic", "llama3", "yarn"])},
    optional={
        name: SCALARS
        for name in (
            "factor",
            "rope_theta",
            "original_max_position_embeddings",
            "low_freq_factor",
            "high_freq_factor",
            "beta_fast",
            "beta_slow",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
            "truncate",
        )
    },
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    base=st.sampled_from([OLDER, NEWER, MISTRAL, {**QWEN2, "use_sliding_window": True, "sliding_window": 9}]),
    changes=st.dictionaries(
        st.sampled_from([*OLDER, "head_dim", "sliding_window", "layer_types", "max_window_layers"]),
        VALUES,
        max_size=3,
    ),
    rope=st.none() | ROPE,
)
def test_anything_else_is_read_or_refused(
    base: dict[str, Any], changes: dict[str, Any], rope: dict[str, Any] | None
) -> None:
    """No configuration ends in another exception, and one that is accepted has frequencies and tables."""
    raw = {**base, **changes}
    if rope is not None:
        raw["rope_parameters"] = rope
    try:
        config = LlamaConfig.from_dict(raw)
    except ConfigError:
        return
    if config.head_dim < 10_000:
        assert config.context_length >= 1
        inverse_frequencies(config, 10_000)
        RotaryTables(config).rows(0, 1, 1)
