"""Where an answer ends: ``generation_config.json``, ``config.json`` and the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import OLDER
from shared_files import shared_model, story_model
from tiny_tokenizers import byte_level

from lm_core.config import LlamaConfig
from lm_core.errors import ConfigError
from lm_core.stop_tokens import stop_token_ids
from lm_core.tokenizer import Tokenizer

CONFIG = LlamaConfig.from_dict({**OLDER, "vocab_size": 266, "eos_token_id": [7, 8]})
WITHOUT_END = Tokenizer(byte_level(), {})
WITH_END = Tokenizer(byte_level(), {"eos_token": "<|im_end|>"})


def stops(folder: Path, generation_config: Any = None, tokenizer: Tokenizer = WITHOUT_END) -> set[int]:
    """The stop tokens with this ``generation_config.json``, which is not written for None."""
    if generation_config is not None:
        content = generation_config if isinstance(generation_config, str) else json.dumps(generation_config)
        (folder / "generation_config.json").write_text(content)
    return set(stop_token_ids(folder, CONFIG, tokenizer))


@pytest.mark.parametrize(
    ("generation_config", "expected"),
    [
        ({"eos_token_id": 5}, {5}),
        ({"eos_token_id": [5, 6, 5]}, {5, 6}),
        ({"eos_token_id": 0}, {0}),
        ({"eos_token_id": 265}, {265}),
        ({"eos_token_id": []}, set()),
        ({"eos_token_id": None}, {7, 8}),
        ({}, {7, 8}),
        (None, {7, 8}),
    ],
)
def test_a_number_or_a_list_or_else_config_json(
    generation_config: Any, expected: set[int], tmp_path: Path
) -> None:
    """The file that says how to generate comes before the one that describes the model."""
    assert stops(tmp_path, generation_config) == expected
    assert stops(tmp_path, generation_config, WITH_END) == expected | {2}


@pytest.mark.parametrize(
    "value", [-1, 266, 1 << 70, True, 2.0, "2", {}, [[2]], [{}], [2, None], [2, "3"], [2, -1], [2, 266]]
)
def test_tokens_that_do_not_exist(value: Any, tmp_path: Path) -> None:
    """An answer would never end; the file and the value are named."""
    with pytest.raises(ConfigError, match=r"generation_config\.json has eos_token_id .*below 266") as refused:
        stops(tmp_path, {"eos_token_id": value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "\x00"])
def test_a_damaged_file_is_not_taken_for_missing(content: str, tmp_path: Path) -> None:
    """The model would otherwise talk past its end."""
    with pytest.raises(ConfigError, match=r"generation_config\.json") as refused:
        stops(tmp_path, content)
    assert "\n" not in str(refused.value)


def test_of_the_story_model() -> None:
    """Its end-of-story token really is one."""
    tokenizer = Tokenizer.from_pretrained(story_model())
    found = stop_token_ids(story_model(), LlamaConfig.from_pretrained(story_model()), tokenizer)
    assert found == {tokenizer.token_id("<|end|>")} != {None}


@pytest.mark.parametrize(("name", "expected"), [("minueza-32m-ultrachat", {32000}), ("story-656k", {2})])
def test_of_published_models(name: str, expected: set[int]) -> None:
    """As their authors declare them."""
    folder = shared_model(name)
    config, tokenizer = LlamaConfig.from_pretrained(folder), Tokenizer.from_pretrained(folder)
    assert stop_token_ids(folder, config, tokenizer) == expected
