"""Writes the safetensors format byte by byte, so that tests can also write what no library would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DTYPE_NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "int8": "I8"}
"""NumPy has no bfloat16: its bits are given as uint16."""


def write_safetensors(
    path: Path,
    tensors: Mapping[str, npt.NDArray[Any]],
    changes: Mapping[str, Any] | None = None,
    padding: int | None = None,
) -> None:
    """Write ``tensors``; ``changes`` overrides header entries, ``padding`` is the header length modulo 8."""
    path.write_bytes(safetensors_bytes(tensors, changes, padding))


def safetensors_bytes(
    tensors: Mapping[str, npt.NDArray[Any]],
    changes: Mapping[str, Any] | None = None,
    padding: int | None = None,
) -> bytes:
    """The file's bytes: length of the header, header, tensors in the order given."""
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        offsets = [offset, offset + tensor.nbytes]
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        offset += tensor.nbytes
    header.update(changes or {})
    encoded = json.dumps(header).encode()
    while len(encoded) % 8 != (padding or 0):
        encoded += b" "
    data = b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in tensors.values())
    return len(encoded).to_bytes(8, "little") + encoded + data
