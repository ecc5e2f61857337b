"""Writes a safetensors file tensor by tensor, so that a model is never held in memory twice.

The ``safetensors`` library writes a file from tensors that are all in memory.  Here the shapes are
known first and each tensor's bytes come in pieces.  The result is read with the library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lm_models.progress import Advance

_ALIGNMENT = 8


def write_float32(
    file: Path,
    tensors: Iterable[tuple[str, tuple[int, ...], Iterator[npt.NDArray[np.float32]]]],
    advance: Advance,
) -> None:
    """Writes ``file``.

    Args:
        file: is replaced if it exists.
        tensors: name, shape, and consecutive float32 pieces that together have that many elements.
        advance: is told of every byte of tensor data that was written.
    """
    entries = list(tensors)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape, _ in entries:
        end = offset + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, shape, pieces in entries:
            written = 0
            for piece in pieces:
                data = np.ascontiguousarray(piece, dtype="<f4")
                stream.write(data.data.cast("B"))
                advance(data.nbytes)
                written += data.nbytes
            if written != 4 * math.prod(shape):
                raise ValueError(f"{name} has {written} bytes of data for the shape {shape}")
