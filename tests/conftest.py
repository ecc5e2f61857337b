"""Fixtures that more than one package's tests use."""

from __future__ import annotations

import os

from lm_core import blas

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests side by side have a core each: threads that wait for each other would make them slow.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# As every program does, and before NumPy is there: tests run on the kernels that programs run on.
blas.prepare()

from collections.abc import Callable  # noqa: E402
from functools import cache  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from checkpoints import KINDS, RandomCheckpoint  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from lm_core.model import Llama  # noqa: E402

# The default run is quick; .ci/run asks for the thorough one by --hypothesis-profile=thorough, and
# the endless one is for a machine that has nothing else to do.
_COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": False}
settings.register_profile("quick", max_examples=12, stateful_step_count=15, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=200, stateful_step_count=30, derandomize=True, **_COMMON)
settings.register_profile("endless", max_examples=5000, stateful_step_count=30, **_COMMON)
settings.load_profile("quick")

CheckpointFolder = Callable[[str], Path]
OpenModel = Callable[..., Llama]


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFolder:
    """``checkpoint_folder(kind)``: a random checkpoint as a Hugging Face folder, written once.  Read only."""
    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def write(kind: str) -> Path:
        return RandomCheckpoint(KINDS[kind]).write(root / kind)

    return write


@pytest.fixture(scope="session")
def open_model(checkpoint_folder: CheckpointFolder) -> OpenModel:
    """``open_model(kind, dtype="f32")``: the engine over such a folder, opened once."""

    @cache
    def open_folder(kind: str, dtype: str = "f32") -> Llama:
        return Llama.from_pretrained(checkpoint_folder(kind), dtype=dtype)

    return open_folder
