"""``config.json``: both generations are read alike, and everything unsupported is refused by name."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from checkpoints import KINDS, MISTRAL, NEWER, OLDER, QWEN2

from lm_core.config import LARGEST_CONFIG_BYTES, LlamaConfig, RopeParameters
from lm_core.errors import ConfigError, ModelNotFound


def test_the_two_generations_say_the_same() -> None:
    """``rope_theta``, ``rope_scaling`` and ``torch_dtype`` against ``rope_parameters`` and ``dtype``."""
    assert LlamaConfig.from_dict(OLDER) == LlamaConfig.from_dict(NEWER)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].config.get("rope_scaling")])
@pytest.mark.parametrize("type_field", ["type", "rope_type"])
def test_the_two_generations_of_every_rope_type(kind: str, type_field: str) -> None:
    """Also ``type``, as it was called before ``rope_type``."""
    older = dict(KINDS[kind].config)
    scaling = dict(older["rope_scaling"])
    rope_type = scaling.pop("rope_type", scaling.pop("type", None))
    newer = {
        name: value
        for name, value in older.items()
        if name not in ("rope_theta", "rope_scaling", "torch_dtype")
    }
    newer["rope_parameters"] = {type_field: rope_type, "rope_theta": older["rope_theta"], **scaling}
    newer["dtype"] = "float32"
    assert LlamaConfig.from_dict(newer) == LlamaConfig.from_dict(older)
    assert LlamaConfig.from_dict(newer).rope.rope_type == rope_type != "default"


def test_every_field_arrives() -> None:
    """One value each that is not the default."""
    raw = {
        **KINDS["biased"].config,
        "vocab_size": 101,
        "hidden_size": 66,
        "intermediate_size": 103,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 22,
        "max_position_embeddings": 107,
        "rms_norm_eps": 1e-4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        "bos_token_id": 7,
        "eos_token_id": [8, 9],
    }
    assert LlamaConfig.from_dict(raw) == LlamaConfig(
        architecture="LlamaForCausalLM",
        vocab_size=101,
        hidden_size=66,
        intermediate_size=103,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=22,
        max_position_embeddings=107,
        rms_norm_eps=1e-4,
        rope=RopeParameters(rope_theta=1000.0),
        tie_word_embeddings=False,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        sliding_windows=(None, None, None),
        bos_token_id=7,
        eos_token_ids=(8, 9),
    )


def test_what_may_be_left_out() -> None:
    """Fields with a published default, also when they are null."""
    optional = (
        "num_key_value_heads",
        "rms_norm_eps",
        "hidden_act",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "rope_theta",
        "rope_scaling",
        "torch_dtype",
    )
    bare = {name: value for name, value in OLDER.items() if name not in optional}
    config = LlamaConfig.from_dict(bare)
    assert (config.num_key_value_heads, config.head_dim, config.rms_norm_eps) == (4, 16, 1e-6)
    assert (config.tie_word_embeddings, config.bos_token_id, config.eos_token_ids) == (False, None, ())
    assert config.rope == RopeParameters()
    assert (
        LlamaConfig.from_dict({**bare, **{name: None for name in optional if name != "hidden_act"}}) == config
    )


@pytest.mark.parametrize(
    "model_type, architecture",
    [("llama", "LlamaForCausalLM"), ("mistral", "MistralForCausalLM"), ("qwen2", "Qwen2ForCausalLM")],
)
def test_model_type_stands_in_for_the_architecture(model_type: str, architecture: str) -> None:
    """Some exports have no ``architectures``."""
    raw = {name: value for name, value in OLDER.items() if name != "architectures"}
    assert LlamaConfig.from_dict({**raw, "model_type": model_type}).architecture == architecture


@pytest.mark.parametrize(
    "changes, windows",
    [
        ({"sliding_window": 40}, (40, 40)),
        ({"sliding_window": None}, (None, None)),
    ],
)
def test_windows_of_mistral(changes: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    """The whole model slides, or nothing does."""
    assert LlamaConfig.from_dict({**MISTRAL, **changes}).sliding_windows == windows


@pytest.mark.parametrize(
    "changes, windows",
    [
        ({"sliding_window": 40}, (None, None)),
        ({"sliding_window": 40, "use_sliding_window": False, "max_window_layers": 0}, (None, None)),
        ({"sliding_window": 40, "use_sliding_window": True}, (None, None)),
        ({"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 1}, (None, 40)),
        ({"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 0}, (40, 40)),
        ({"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0}, (None, None)),
        (
            {
                "sliding_window": 40,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (40, None),
        ),
    ],
)
def test_windows_of_qwen2(changes: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    """Layers from ``max_window_layers`` on slide, or those that ``layer_types`` names."""
    assert LlamaConfig.from_dict({**QWEN2, **changes}).sliding_windows == windows


def test_llama_has_no_window() -> None:
    """The field is left over in some configurations and means nothing there."""
    assert LlamaConfig.from_dict({**OLDER, "sliding_window": 8}).sliding_windows == (None, None)


def test_biases() -> None:
    """Qwen2 has them on queries, keys and values always; Mistral never, whatever its file says."""
    every = {"attention_bias": True, "mlp_bias": True}
    biases = {
        raw["model_type"]: (config.qkv_bias, config.o_bias, config.mlp_bias)
        for raw in (OLDER, MISTRAL, QWEN2)
        for config in [LlamaConfig.from_dict({**raw, **every})]
    }
    assert biases == {
        "llama": (True, True, True),
        "mistral": (False, False, False),
        "qwen2": (True, False, False),
    }


def test_context_length() -> None:
    """What scaling adds to the trained length."""
    lengths = {kind: LlamaConfig.from_dict(KINDS[kind].config).context_length for kind in KINDS}
    assert lengths["llama"] == lengths["llama3"] == 512
    assert lengths["linear"] == lengths["dynamic_within"] == 1024
    assert lengths["dynamic"] == lengths["yarn_implicit"] == 384
    assert lengths["yarn"] == 512


def test_yarn_factor_may_be_null() -> None:
    """It is then the ratio of the extended to the original length."""
    raw = {
        **OLDER,
        "rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 128},
    }
    assert LlamaConfig.from_dict(raw).rope.factor == 4.0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b'"llama"',
        b"null",
        b"12",
        b"\xff\xfe\x00",
        b'{"vocab_size": ' + b"9" * 5000 + b"}",
        b'{"a":' * 100_000,
        b"[" * 100_000,
    ],
    ids=["empty", "cut", "list", "text", "null", "number", "binary", "digits", "deep_objects", "deep_lists"],
)
def test_files_that_are_no_configuration(content: bytes, tmp_path: Path) -> None:
    """Each is one clear sentence of the right class."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json") as refused:
        LlamaConfig.from_pretrained(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """Ten megabytes are refused by their size, before they take memory."""
    (tmp_path / "config.json").write_bytes(b" " * 10_000_000 + json.dumps(OLDER).encode())
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="larger than"):
            LlamaConfig.from_pretrained(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < LARGEST_CONFIG_BYTES
    finally:
        tracemalloc.stop()


def test_missing_files(tmp_path: Path) -> None:
    """A folder that is not there, is a file, or has no configuration."""
    for folder in (tmp_path / "nowhere", tmp_path, Path(__file__)):
        with pytest.raises(ModelNotFound) as missing:
            LlamaConfig.from_pretrained(folder)
        assert folder.name in str(missing.value)
