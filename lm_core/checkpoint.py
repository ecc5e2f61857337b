"""Safetensors weights as read-only arrays over the mapped file: nothing is read until it is used.

The ``safetensors`` library validates each file first.  What it accepts has a well-formed header
and tensors that cover the file exactly, so finding a tensor afterwards is arithmetic.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from lm_core.config import read_json_object
from lm_core.errors import CheckpointError, ConfigError, ModelNotFound

SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"

_NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
"""NumPy has no bfloat16: its bits travel as uint16, the upper half of a float32."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies.  ``dtype`` is safetensors' name for it: F32, F16 or BF16."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    """Bytes from the start of the file."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * _NUMPY_DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class _MappedFile:
    memory: mmap.mmap
    content: npt.NDArray[np.uint8]


class Checkpoint:
    """The tensors of a model folder, by name.

    >>> weights = Checkpoint.open("models/story")
    >>> weights["model.norm.weight"].shape
    (256,)
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = dict(tensors)
        self._mapped: dict[Path, _MappedFile] = {}

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Validate ``model.safetensors``, or every shard that ``model.safetensors.index.json`` names.

        Raises:
            ModelNotFound: there are no weights, or a shard is missing.
            CheckpointError: a file is damaged, or holds a storage type that is not supported.
        """
        folder = Path(folder)
        if (folder / SINGLE_FILE).is_file():
            return cls({tensor.name: tensor for tensor in _read_header(folder / SINGLE_FILE)})
        if (folder / SHARD_INDEX).is_file():
            return cls(_read_shards(folder))
        raise ModelNotFound(f"the model folder {str(folder)!r} has no {SINGLE_FILE} and no {SHARD_INDEX}")

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor's description, by name."""
        return self._tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """The tensor as a read-only array over the mapped file: float32, float16, or bf16 bits as uint16."""
        tensor = self._tensors[name]
        raw = self._map(tensor.file).content[tensor.offset : tensor.offset + tensor.nbytes]
        stored: npt.NDArray[Any] = raw.view(_NUMPY_DTYPES[tensor.dtype]).reshape(tensor.shape)
        return stored

    def release(self, name: str) -> None:
        """Give the memory of a tensor back that was read only to be converted; it can be read again."""
        tensor = self._tensors[name]
        start = tensor.offset - tensor.offset % mmap.PAGESIZE
        # Not every system has this advice, nor a need to take it.
        if hasattr(mmap, "MADV_DONTNEED"):
            memory = self._map(tensor.file).memory
            memory.madvise(mmap.MADV_DONTNEED, start, tensor.offset + tensor.nbytes - start)

    def _map(self, file: Path) -> _MappedFile:
        if file not in self._mapped:
            mapped = np.memmap(file, dtype=np.uint8, mode="r")
            # NumPy's annotations do not know that the base of a mapped array is the mapping.
            memory: Any = mapped.base
            self._mapped[file] = _MappedFile(memory, mapped.view(np.ndarray))
        return self._mapped[file]


def _read_shards(folder: Path) -> dict[str, StoredTensor]:
    try:
        weight_map = read_json_object(folder, SHARD_INDEX).get("weight_map")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{SHARD_INDEX} has no weight_map from tensor names to file names")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        # A shard is a sibling: a path would let a downloaded index map any file of this machine.
        if Path(shard).name != shard:
            raise CheckpointError(
                f"{SHARD_INDEX} names the shard {shard!r}; a shard must be a plain file name"
            )
        # Not Path.is_file, which raises where the system refuses the very name.
        if not os.path.isfile(folder / shard):
            raise ModelNotFound(
                f"the model folder {str(folder)!r} lacks the shard {shard!r} that {SHARD_INDEX} names"
            )
        for tensor in _read_header(folder / shard):
            if weight_map.get(tensor.name) != shard:
                raise CheckpointError(
                    f"{shard} holds {tensor.name!r}, which {SHARD_INDEX} does not place there"
                )
            tensors[tensor.name] = tensor
    missing = sorted(weight_map.keys() - tensors.keys())
    if missing:
        raise CheckpointError(
            f"{SHARD_INDEX} names {missing[0]!r}, but {weight_map[missing[0]]} does not hold it"
        )
    return tensors


def _read_header(path: Path) -> list[StoredTensor]:
    """Let the library validate ``path``, then read where each of its tensors lies."""
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} is not a valid safetensors file ({error}); fetch or export the model again"
        ) from error
    header.pop("__metadata__", None)
    tensors = []
    for name, entry in header.items():
        if entry["dtype"] not in _NUMPY_DTYPES:
            raise CheckpointError(
                f"{path.name} stores {name!r} as {entry['dtype']}, which is not supported; "
                "use F32, F16 or BF16"
            )
        offset = 8 + header_bytes + entry["data_offsets"][0]
        tensors.append(StoredTensor(name, entry["dtype"], tuple(entry["shape"]), path, offset))
    return tensors
