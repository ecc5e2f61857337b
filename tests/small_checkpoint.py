"""A checkpoint of a few numbers in every storage type, and what its refusal must look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors_file import safetensors_bytes

from lm_core.checkpoint import Checkpoint
from lm_core.errors import CheckpointError, LanguageModelError

Array = npt.NDArray[Any]

TENSORS: dict[str, Array] = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4, dtype=np.float16),
    "c": np.arange(5, 9, dtype=np.uint16).reshape(4, 1),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "scalar": np.array(7.0, dtype=np.float32),
}
SOUND = safetensors_bytes(TENSORS)


def refused(folder: Path, error: type[LanguageModelError] = CheckpointError) -> str:
    """Opening the folder fails in one sentence, which is returned."""
    with pytest.raises(error) as failure:
        Checkpoint.open(folder)
    assert type(failure.value) is error
    assert "\n" not in str(failure.value)
    return str(failure.value)
