"""The numbers: every supported kind of model against what ``transformers`` computed for the same weights.

The golden files were written by ``tools/golden``; the reference fills in where a file cannot.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from checkpoints import GREEDY_TOKENS, KINDS, TEXT_LENGTH, RandomCheckpoint, fixed_text
from comparisons import BFLOAT16_BOUND, assert_agrees
from conftest import OpenModel
from decoding import greedy, in_chunks
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.llama import ReferenceLlama
from shared_files import story_model

from lm_core.model import Llama

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT = fixed_text()

CHUNKS_DO_NOT_MATTER = [kind for kind in KINDS if kind != "dynamic"]
"""Dynamic RoPE past the trained length has a test of its own: its logits depend on the calls."""

every_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def golden(name: str) -> dict[str, npt.NDArray[np.float32]]:
    """A golden file's arrays, by name."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def golden_of(kind: str) -> dict[str, npt.NDArray[np.float32]]:
    """The golden file of a kind, which may be that of another kind with the same weights."""
    return golden(KINDS[kind].golden or kind)


@every_kind
def test_uncached_logits_are_those_of_transformers(kind: str, open_model: OpenModel) -> None:
    """Every position of the 200-token text, computed in one call."""
    assert_agrees(in_chunks(open_model(kind), TEXT, [TEXT_LENGTH]), golden_of(kind)["logits"])


@every_kind
def test_one_by_one_logits_are_those_of_transformers(kind: str, open_model: OpenModel) -> None:
    """The same text through the per-row kernel and the cache."""
    expected = golden_of(kind)["logits_one_by_one" if kind == "dynamic" else "logits"]
    assert_agrees(in_chunks(open_model(kind), TEXT, [1] * TEXT_LENGTH), expected)


@every_kind
def test_greedy_tokens_are_those_of_transformers(kind: str, open_model: OpenModel) -> None:
    """64 tokens that follow the text, each chosen from the tokens before it."""
    assert greedy(open_model(kind), TEXT, GREEDY_TOKENS) == golden_of(kind)["greedy"].tolist()


@pytest.mark.parametrize("kind", CHUNKS_DO_NOT_MATTER)
@pytest.mark.parametrize("chunk", [2, 39, 41, 199])
def test_chunked_prefill_agrees(kind: str, chunk: int, open_model: OpenModel) -> None:
    """Chunk sizes that divide the text and the sliding windows in unfavourable places."""
    chunks = [min(chunk, TEXT_LENGTH - start) for start in range(0, TEXT_LENGTH, chunk)]
    assert_agrees(in_chunks(open_model(kind), TEXT, chunks), golden_of(kind)["logits"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(kind=st.sampled_from(CHUNKS_DO_NOT_MATTER), cuts=st.sets(st.integers(1, TEXT_LENGTH - 1)))
def test_any_chunking_agrees(kind: str, cuts: set[int], open_model: OpenModel) -> None:
    """Prefill and single tokens in any mixture."""
    bounds = [0, *sorted(cuts), TEXT_LENGTH]
    chunks = [stop - start for start, stop in zip(bounds, bounds[1:], strict=False)]
    assert_agrees(in_chunks(open_model(kind), TEXT, chunks), golden_of(kind)["logits"])


@settings(max_examples=5, deadline=None, derandomize=True)
@given(cuts=st.sets(st.integers(1, TEXT_LENGTH - 1), max_size=12))
def test_dynamic_rope_follows_the_length_at_the_end_of_each_call(
    cuts: set[int], open_model: OpenModel
) -> None:
    """Dynamic RoPE gives a token the frequencies of the sequence's length when it was computed."""
    bounds = [0, *sorted(cuts), TEXT_LENGTH]
    chunks = [stop - start for start, stop in zip(bounds, bounds[1:], strict=False)]
    lengths = np.repeat(bounds[1:], chunks).tolist()
    model = open_model("dynamic")
    expected = ReferenceLlama(model.config, RandomCheckpoint(KINDS["dynamic"]).weights).forward(TEXT, lengths)
    assert_agrees(in_chunks(model, TEXT, chunks), expected)


def test_dynamic_rope_really_grows_here() -> None:
    """The golden files for one call and for single calls differ, so the tests above tell them apart."""
    arrays = golden("dynamic")
    assert np.abs(arrays["logits"] - arrays["logits_one_by_one"]).max() > 0.1 * np.abs(arrays["logits"]).max()


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2_window", "biased", "odd_widths", "yarn_tuned"])
def test_the_reference_agrees_with_transformers(kind: str, open_model: OpenModel) -> None:
    """The oracle of the other tests is itself held against the published implementation."""
    reference = ReferenceLlama(open_model(kind).config, RandomCheckpoint(KINDS[kind]).weights)
    assert_agrees(reference.forward(TEXT).astype(np.float32), golden_of(kind)["logits"], bound=5e-5)


@pytest.mark.parametrize("kind", ["bf16", "bf16_sharded", "odd_widths"])
@pytest.mark.parametrize("chunks", [[TEXT_LENGTH], [1] * TEXT_LENGTH], ids=["prefill", "decode"])
def test_bf16_storage_agrees_with_widened_weights(
    kind: str, chunks: list[int], open_model: OpenModel
) -> None:
    """Weights kept as bf16 give what their float32 copies give, and what transformers gives."""
    logits = in_chunks(open_model(kind, "bf16"), TEXT, chunks)
    assert_agrees(logits, in_chunks(open_model(kind, "f32"), TEXT, chunks), BFLOAT16_BOUND)
    assert_agrees(logits, golden_of(kind)["logits"])


@pytest.mark.parametrize("kind", ["llama", "f16", "biased"])
def test_bf16_storage_of_other_checkpoints_is_the_rounded_model(kind: str, open_model: OpenModel) -> None:
    """``dtype="bf16"`` rounds the matrices, and only those, to the nearest bf16 number."""
    weights = {
        name: tensor if tensor.ndim == 1 else _nearest_bf16(tensor)
        for name, tensor in RandomCheckpoint(KINDS[kind]).weights.items()
    }
    model = open_model(kind, "bf16")
    assert model.dtype == "bf16"
    expected = ReferenceLlama(model.config, weights).forward(TEXT[:60])
    assert_agrees(in_chunks(model, TEXT[:60], [30, *[1] * 30]), expected, bound=3e-5)


def _nearest_bf16(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rounding by value, not by bits: the spacing of bf16 numbers near x is 2^(exponent - 7)."""
    _, exponents = np.frexp(numbers.astype(np.float64))
    spacing = np.ldexp(1.0, exponents - 8)
    return (np.round(numbers / spacing) * spacing).astype(np.float32)


def test_story_model_is_that_of_transformers() -> None:
    """The story model in the repository: logits, most likely tokens, and 64 greedy tokens."""
    if not (GOLDEN / "story.npz").is_file():
        pytest.skip("tests/golden/story.npz is not there; tools/golden writes it")
    model, expected = Llama.from_pretrained(story_model(), dtype="f32"), golden("story")
    text = expected["text"].tolist()
    logits = in_chunks(model, text, [TEXT_LENGTH])
    stride = TEXT_LENGTH // len(expected["logits"])
    assert_agrees(logits[::stride], expected["logits"])
    # Where two tokens are nearly equally likely, either may lead.
    chosen = np.take_along_axis(logits, expected["argmax"][:, None].astype(np.int64), axis=-1)[:, 0]
    assert (logits.max(axis=-1) - chosen <= 4e-4 * expected["largest"]).all()
    assert_agrees(in_chunks(model, text, [1] * TEXT_LENGTH)[::stride], expected["logits"])
    assert greedy(model, text, GREEDY_TOKENS) == expected["greedy"].tolist()
