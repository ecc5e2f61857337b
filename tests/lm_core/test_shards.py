"""Weights in several files, and the index that names them: a stranger's file that must not be believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import KINDS, RandomCheckpoint
from comparisons import assert_same_bits
from conftest import CheckpointFolder
from safetensors_file import write_safetensors
from small_checkpoint import SOUND, TENSORS, refused

from lm_core.checkpoint import Checkpoint
from lm_core.errors import CheckpointError, ModelNotFound


def sharded(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A folder in three shards, and its index, to be changed and written again."""
    RandomCheckpoint(KINDS["sharded"]).write(folder)
    return folder, json.loads((folder / "model.safetensors.index.json").read_text())


def write_index(folder: Path, index: Any) -> None:
    """Replace the index."""
    (folder / "model.safetensors.index.json").write_text(
        index if isinstance(index, str) else json.dumps(index)
    )


def test_shards_hold_what_one_file_holds(checkpoint_folder: CheckpointFolder) -> None:
    """Every tensor from whichever file it lies in."""
    whole, shards = Checkpoint.open(checkpoint_folder("llama")), Checkpoint.open(checkpoint_folder("sharded"))
    assert set(shards.tensors) == set(whole.tensors)
    assert len({tensor.file for tensor in shards.tensors.values()}) == 3
    for name in whole.tensors:
        assert_same_bits(shards[name], whole[name])


def test_a_single_file_comes_before_an_index(tmp_path: Path) -> None:
    """As in other programs: an index beside it is left over."""
    folder, _ = sharded(tmp_path)
    write_safetensors(folder / "model.safetensors", TENSORS)
    assert set(Checkpoint.open(folder).tensors) == set(TENSORS)


def test_a_missing_shard(tmp_path: Path) -> None:
    """Named, as a file that is not there."""
    folder, _ = sharded(tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "'model-00002-of-00003.safetensors'" in refused(folder, ModelNotFound)


def test_a_damaged_shard(tmp_path: Path) -> None:
    """Named, as the file that is damaged."""
    folder, _ = sharded(tmp_path)
    shard = folder / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "model-00003-of-00003.safetensors is not a valid" in refused(folder)


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "./a.safetensors",
        "..",
        ".",
        "",
        "a\0b",
    ],
)
def test_a_shard_is_a_sibling(shard: str, tmp_path: Path) -> None:
    """A downloaded index must not map another file of the machine, even a sound one."""
    (tmp_path / "secret.safetensors").write_bytes(SOUND)
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "model.safetensors").write_bytes(SOUND)
    folder, index = sharded(tmp_path / "model")
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = shard
    write_index(folder, index)
    with pytest.raises((CheckpointError, ModelNotFound)) as error:
        Checkpoint.open(folder)
    assert "secret" not in str(error.value) or "plain file name" in str(error.value)


def test_a_shard_with_an_endless_name(tmp_path: Path) -> None:
    """The system refuses it with an error of its own."""
    folder, index = sharded(tmp_path)
    index["weight_map"] = dict.fromkeys(index["weight_map"], "x" * 5000)
    write_index(folder, index)
    with pytest.raises((CheckpointError, ModelNotFound)):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": ["b"]}}',
        "[" * 9999,
    ],
)
def test_an_index_of_garbage(index: str, tmp_path: Path) -> None:
    """It is part of the weights, so the error is theirs."""
    folder, _ = sharded(tmp_path)
    write_index(folder, index)
    assert "model.safetensors.index.json" in refused(folder)


def test_an_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    """A tensor that is elsewhere than the index says, or nowhere."""
    folder, index = sharded(tmp_path)
    (first, file), *others = index["weight_map"].items()
    elsewhere = next(other for _, other in others if other != file)
    swapped = {**index["weight_map"], first: elsewhere}
    write_index(folder, {"weight_map": swapped})
    assert f"'{first}'" in refused(folder)
    write_index(folder, {"weight_map": {**index["weight_map"], "nowhere": index["weight_map"][first]}})
    assert "'nowhere'" in refused(folder)
    without = {name: file for name, file in index["weight_map"].items() if name != first}
    write_index(folder, {"weight_map": without})
    assert f"'{first}'" in refused(folder)


def test_an_empty_index(tmp_path: Path) -> None:
    """It names no tensor at all, which is the model's business."""
    folder, _ = sharded(tmp_path)
    write_index(folder, {"weight_map": {}})
    assert dict(Checkpoint.open(folder).tensors) == {}
