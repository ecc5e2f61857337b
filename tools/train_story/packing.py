"""Token rows for training: whole stories, packed tightly into rows of one length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PAD_ID = 0


def pack(
    documents: Sequence[Sequence[int]], row_length: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """``[rows, row_length]`` token ids: best-fit decreasing packing, ties and rows in random order.

    Every row begins with the beginning of a story, as every row does when the model is used.
    A document longer than a row is cut; what a row has left is filled with ``PAD_ID``.
    """
    open_rows: dict[int, list[list[int]]] = {}
    rows: list[list[int]] = []
    shuffled = rng.permutation(len(documents))
    for index in sorted(shuffled, key=lambda index: -len(documents[index])):
        document = list(documents[index][:row_length])
        room = min((free for free in open_rows if free >= len(document)), default=None)
        if room is None:
            row: list[int] = []
            rows.append(row)
            room = row_length
        else:
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room]
        row += document
        if room > len(document):
            open_rows.setdefault(room - len(document), []).append(row)
    packed = np.full((len(rows), row_length), PAD_ID, dtype=np.int64)
    for filled, row in zip(packed, rows, strict=True):
        filled[: len(row)] = row
    rng.shuffle(packed)
    return packed
