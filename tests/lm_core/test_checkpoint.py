"""Weights: mapped and not copied; and every way a file can be damaged, in one clear sentence each."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import assert_same_bits
from conftest import CheckpointFolder
from safetensors_file import write_safetensors
from small_checkpoint import SOUND, TENSORS, Array, refused

from lm_core import linear
from lm_core.checkpoint import Checkpoint
from lm_core.errors import ModelNotFound
from lm_core.model import Llama


@pytest.mark.parametrize("padding", range(8))
def test_tensors_as_they_were_written(padding: int, tmp_path: Path) -> None:
    """Names, shapes, dtypes and bits, at every alignment that a header's length can cause."""
    write_safetensors(tmp_path / "model.safetensors", TENSORS, padding=padding)
    checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint.tensors) == set(TENSORS)
    assert "a" in checkpoint and "z" not in checkpoint
    for name, tensor in TENSORS.items():
        assert_same_bits(checkpoint[name], tensor)
        assert not checkpoint[name].flags.writeable


def test_the_library_writes_what_is_read(tmp_path: Path) -> None:
    """A file by ``safetensors`` itself, with metadata as exporters leave it."""
    from safetensors.numpy import save_file

    written = {name: tensor for name, tensor in TENSORS.items() if tensor.dtype != np.uint16}
    save_file(written, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint.tensors) == set(written)
    for name, tensor in written.items():
        assert_same_bits(checkpoint[name], tensor)


def test_tensors_share_one_mapping(tmp_path: Path) -> None:
    """Nothing is read: two looks at a tensor are the same memory, which is the file's."""
    write_safetensors(tmp_path / "model.safetensors", TENSORS)
    checkpoint = Checkpoint.open(tmp_path)
    assert np.shares_memory(checkpoint["a"], checkpoint["a"])
    memory: Any = checkpoint["a"]
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    assert "mmap" in type(memory.base).__name__


def test_what_was_released_can_be_read_again(tmp_path: Path) -> None:
    """Of any tensor, wherever it begins and ends; its neighbours on the same pages are as they were."""
    write_safetensors(tmp_path / "model.safetensors", TENSORS)
    checkpoint = Checkpoint.open(tmp_path)
    for name in TENSORS:
        checkpoint.release(name)
        for other, tensor in TENSORS.items():
            assert_same_bits(checkpoint[other], tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is resident")
def test_what_was_released_is_not_resident(tmp_path: Path) -> None:
    """Twice the model was in memory where its weights had been read only to be converted."""

    def resident_file_bytes() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("RssFile:")[2].split()[0])

    tensor = np.ones((4096, 2048), dtype=np.float32)
    write_safetensors(tmp_path / "model.safetensors", {"a": tensor})
    checkpoint = Checkpoint.open(tmp_path)
    before = resident_file_bytes()
    assert checkpoint["a"].sum() == tensor.size
    assert resident_file_bytes() - before > tensor.nbytes // 2
    checkpoint.release("a")
    assert resident_file_bytes() - before < tensor.nbytes // 8


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_what_is_converted_is_released(
    dtype: str, checkpoint_folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is used in place is not: it would be read from the disk again."""
    released: list[str] = []
    monkeypatch.setattr(Checkpoint, "release", lambda _, name: released.append(name))
    folder = checkpoint_folder("llama")
    Llama.from_pretrained(folder, dtype)
    matrices = [name for name, tensor in Checkpoint.open(folder).tensors.items() if len(tensor.shape) == 2]
    assert sorted(released) == (sorted(matrices) if dtype == "bf16" else [])


def test_opening_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    """Forty megabytes of zeros, as a hole in a file."""
    name, count = "a", 10_000_000
    header = json.dumps({name: {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * count)
    tracemalloc.start()
    try:
        tensor = Checkpoint.open(tmp_path)[name]
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert tensor.shape == (count,)
    assert not tensor[-1]


@pytest.mark.parametrize(
    "kind, dtype", [("llama", "f32"), ("bf16", "bf16"), ("sharded", "f32"), ("bf16_sharded", "bf16")]
)
def test_the_model_multiplies_with_the_mapped_file(
    kind: str, dtype: str, checkpoint_folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """f32 and bf16 weights are used in place, where small ones are not joined for speed."""
    monkeypatch.setattr(linear, "JOINED_BYTES", 0)
    opened: list[Checkpoint] = []
    open_checkpoint = Checkpoint.open

    def remember(folder: str | Path) -> Checkpoint:
        opened.append(open_checkpoint(folder))
        return opened[-1]

    monkeypatch.setattr(Checkpoint, "open", remember)
    used: list[Array] = []
    for layer in (linear.Float32Linear, linear.Bfloat16Linear):
        construct = layer.__init__

        def spy(self: Any, parts: Any, bias: Any, construct: Callable[..., None] = construct) -> None:
            used.extend(parts)
            construct(self, parts, bias)

        monkeypatch.setattr(layer, "__init__", spy)
    model = Llama.from_pretrained(checkpoint_folder(kind), dtype=dtype)
    assert len(used) == 1 + 7 * model.config.num_hidden_layers
    (checkpoint,) = opened
    matrices = [checkpoint[name] for name, tensor in checkpoint.tensors.items() if len(tensor.shape) == 2]
    for part in used:
        assert not part.flags.writeable
        assert sum(np.shares_memory(part, matrix) for matrix in matrices) == 1


INTERESTING_LENGTHS = sorted(
    {0, 1, 7, 8, 9, len(SOUND) // 4, len(SOUND) // 2, len(SOUND) - 45, len(SOUND) - 44, len(SOUND) - 1}
)


@pytest.mark.parametrize("length", INTERESTING_LENGTHS)
def test_truncated_files(length: int, tmp_path: Path) -> None:
    """An interrupted download, cut in the length, in the header, before the data and in it."""
    (tmp_path / "model.safetensors").write_bytes(SOUND[:length])
    message = refused(tmp_path)
    assert "model.safetensors is not a valid safetensors file" in message
    assert "again" in message


def header_of(tensors: Mapping[str, Any], length: int | None = None, data: int = 0) -> bytes:
    """A file of any header, of ``length`` as it claims, and ``data`` zero bytes."""
    encoded = json.dumps(tensors).encode()
    return (len(encoded) if length is None else length).to_bytes(8, "little") + encoded + bytes(data)


DAMAGED: dict[str, bytes] = {
    "garbage": bytes(range(256)) * 8,
    "zeros": bytes(1000),
    "html": b"<!DOCTYPE html><html>Not Found</html>" * 20,
    "header_of_2_63": header_of({}, 1 << 63),
    "header_of_2_64": header_of({}, (1 << 64) - 1),
    "header_longer_than_file": header_of({}, 1000),
    "header_not_json": (8).to_bytes(8, "little") + b"{not ok}",
    "header_a_list": (8).to_bytes(8, "little") + b"[]      ",
    "header_not_utf8": (8).to_bytes(8, "little") + b'{"\xff": 1}',
    "no_offsets": header_of({"a": {"dtype": "F32", "shape": [1]}}, data=4),
    "overlapping": header_of(
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        data=12,
    ),
    "gap": header_of(
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
        },
        data=12,
    ),
    "past_the_end": header_of({"a": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}, data=12),
    "backwards": header_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, data=4),
    "negative": header_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, data=4),
    "shape_and_size_differ": header_of({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, data=8),
    "shape_overflows": header_of(
        {"a": {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}}, data=0
    ),
    "negative_shape": header_of({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, data=4),
    "unknown_dtype": header_of({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}, data=4),
    "left_over_bytes": header_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, data=9),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files(damage: str, tmp_path: Path) -> None:
    """Refused by the library, told in our words, and nothing allocated for what a header claims."""
    (tmp_path / "model.safetensors").write_bytes(DAMAGED[damage])
    tracemalloc.start()
    try:
        message = refused(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert "model.safetensors is not a valid safetensors file" in message


@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_unsupported_storage(dtype: Any, tmp_path: Path) -> None:
    """Sound files of quantized or double weights are refused by tensor and type."""
    tensors = {**TENSORS, "strange": np.zeros(8, dtype=dtype)}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    message = refused(tmp_path)
    assert (
        "'strange'" in message and {np.int8: "I8", np.float64: "F64"}[dtype] in message and "BF16" in message
    )


def test_no_weights_at_all(tmp_path: Path) -> None:
    """Both names that were looked for are told."""
    message = refused(tmp_path, ModelNotFound)
    assert "model.safetensors" in message and "model.safetensors.index.json" in message
