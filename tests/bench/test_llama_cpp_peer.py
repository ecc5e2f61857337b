"""The peer computes the same model: its logits are this engine's, within what its 16-bit cache rounds."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from bench.token_ids import spread_ids
from lm_core.model import Llama

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_prompt_gets_the_logits_that_this_engine_gives_it(tiny_model: Path, dtype: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    from bench.llama_cpp_peer import LlamaCppOperations, open_engine

    _, operations = open_engine(tiny_model, dtype, threads=1)
    engine = operations["prefill"].__self__  # type: ignore[attr-defined]
    assert isinstance(engine, LlamaCppOperations)
    llama = Llama.from_pretrained(tiny_model, dtype)
    ids = spread_ids(20, llama.config.vocab_size)
    ours = llama.forward(ids, llama.new_cache())
    assert operations["prefill"](20) > 0
    logits = llama_cpp.llama_get_logits_ith(engine._context, -1)
    address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
    theirs = np.ctypeslib.as_array(address, shape=ours.shape)
    np.testing.assert_allclose(theirs, ours, atol=0.02 * np.abs(ours).max())


def test_each_operation_takes_some_time(tiny_model: Path) -> None:
    pytest.importorskip("llama_cpp")
    from bench.llama_cpp_peer import open_engine

    _, operations = open_engine(tiny_model, "f32", threads=1)
    assert operations["decode"](context=8, count=4) > 0
    assert operations["greedy"](prompt=3, count=4) > 0
    assert operations["sampled"](prompt=3, count=4) > 0
