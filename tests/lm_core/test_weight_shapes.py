"""The tensors of a file against what its configuration asks for, before any is loaded."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from checkpoints import KINDS, RandomCheckpoint
from comparisons import assert_same_bits
from safetensors_file import write_safetensors

from lm_core.errors import CheckpointError, LanguageModelError
from lm_core.model import Llama

Array = npt.NDArray[Any]


def model_refused(folder: Path, error: type[LanguageModelError] = CheckpointError) -> str:
    """Opening the model fails in one sentence, having taken less memory than the weights' file."""
    weights = max(file.stat().st_size for file in folder.iterdir())
    tracemalloc.start()
    try:
        with pytest.raises(error) as failure:
            Llama.from_pretrained(folder, dtype="f32")
        assert tracemalloc.get_traced_memory()[1] < max(weights, 200_000)
    finally:
        tracemalloc.stop()
    assert type(failure.value) is error
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.fixture
def weights() -> dict[str, Array]:
    """The tensors of the "llama" kind, to be changed by a test."""
    return dict(RandomCheckpoint(KINDS["llama"]).weights)


def llama_folder(folder: Path, weights: Mapping[str, Array], config: Mapping[str, Any] | None = None) -> Path:
    """A model folder of these tensors."""
    (folder / "config.json").write_text(json.dumps(config or KINDS["llama"].config))
    write_safetensors(folder / "model.safetensors", weights)
    return folder


def test_a_missing_tensor(weights: dict[str, Array], tmp_path: Path) -> None:
    """One of them by name, and how many more."""
    del weights["model.layers.1.mlp.up_proj.weight"]
    message = model_refused(llama_folder(tmp_path, weights))
    assert "lack 'model.layers.1.mlp.up_proj.weight'" in message and "more" not in message
    del weights["model.norm.weight"], weights["model.layers.0.self_attn.q_proj.weight"]
    assert "2 more" in model_refused(llama_folder(tmp_path, weights))


def test_a_left_over_tensor(weights: dict[str, Array], tmp_path: Path) -> None:
    """A bias or a layer that the configuration does not know would silently change nothing."""
    weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, dtype=np.float32)
    message = model_refused(llama_folder(tmp_path, weights))
    assert "'model.layers.0.self_attn.q_proj.bias'" in message
    weights["model.layers.2.mlp.up_proj.weight"] = np.zeros((112, 64), dtype=np.float32)
    assert "1 more" in model_refused(llama_folder(tmp_path, weights))


def test_derived_frequencies_are_ignored(weights: dict[str, Array], tmp_path: Path) -> None:
    """Old exports carry them; only that very name is let pass."""
    frequencies = np.zeros(8, dtype=np.float32)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = frequencies
    Llama.from_pretrained(llama_folder(tmp_path, weights))
    weights["model.layers.0.self_attn.rotary_emb.inv_freq.other"] = frequencies
    assert "inv_freq.other" in model_refused(llama_folder(tmp_path, weights))


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.self_attn.k_proj.weight"]
)
def test_wrong_shapes(name: str, weights: dict[str, Array], tmp_path: Path) -> None:
    """Both shapes are in the message; a transposed matrix of the right size is wrong too."""
    shape = list(weights[name].shape)
    weights[name] = np.ascontiguousarray(weights[name].T if len(shape) == 2 else weights[name][:-1])
    message = model_refused(llama_folder(tmp_path, weights))
    assert f"'{name}'" in message and str(shape) in message and str(list(weights[name].shape)) in message


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": (1 << 31) - 1, "hidden_size": (1 << 31) - 8, "intermediate_size": (1 << 31) - 1},
        {"head_dim": (1 << 31) - 2},
        {"num_hidden_layers": 4096},
        {
            "max_position_embeddings": (1 << 31) - 1,
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "head_dim": 2,
        },
    ],
)
def test_a_configuration_that_asks_for_too_much(
    changes: dict[str, Any], weights: dict[str, Array], tmp_path: Path
) -> None:
    """Sizes from ``config.json`` are compared with the file before anything of that size is made."""
    model_refused(llama_folder(tmp_path, weights, {**KINDS["llama"].config, **changes}))


def test_tied_models_store_the_embedding_under_either_name(weights: dict[str, Array], tmp_path: Path) -> None:
    """Some exports of tied models hold only the head's name, some both."""
    expected = Llama.from_pretrained(llama_folder(tmp_path, weights))
    logits = expected.forward([5, 6], expected.new_cache())
    embedding = weights.pop("model.embed_tokens.weight")
    for names in (["lm_head.weight"], ["lm_head.weight", "model.embed_tokens.weight"]):
        model = Llama.from_pretrained(llama_folder(tmp_path, {**weights, **dict.fromkeys(names, embedding)}))
        assert_same_bits(model.forward([5, 6], model.new_cache()), logits)


def test_an_untied_model_needs_its_head(weights: dict[str, Array], tmp_path: Path) -> None:
    """And a head alone does not stand in for its embedding."""
    untied = {**KINDS["llama"].config, "tie_word_embeddings": False}
    assert "'lm_head.weight'" in model_refused(llama_folder(tmp_path, weights, untied))
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    assert "'model.embed_tokens.weight'" in model_refused(llama_folder(tmp_path, weights, untied))
