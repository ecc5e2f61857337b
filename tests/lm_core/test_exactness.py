"""The exactness contract of the engine: equal bits (``doc/exactness.md``, E1 to E4)."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest
from checkpoints import KINDS, VOCAB_SIZE, fixed_text
from comparisons import assert_same_bits
from conftest import OpenModel
from decoding import cached, in_chunks
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_files import shared_model, story_model

from lm_core import blas, linear, model, ops, step
from lm_core.kv_cache import KVCache
from lm_core.model import Llama
from lm_core.workspace import Workspace

F32 = npt.NDArray[np.float32]

TEXT = fixed_text()
MODELS = [("llama", "f32"), ("bf16", "bf16"), ("mistral", "f32"), ("odd_widths", "bf16"), ("dynamic", "f32")]
"""Kinds whose rows meet every kernel and every way to attend."""

every_model = pytest.mark.parametrize("kind, dtype", MODELS)
models = st.sampled_from(MODELS)


def text(length: int, seed: int) -> list[int]:
    """Random token ids."""
    return np.random.RandomState(seed).randint(0, VOCAB_SIZE, length).tolist()


def cache_of(engine: Llama, tokens: list[int], capacity: int | None = None) -> KVCache:
    """A cache that holds ``tokens``, prefilled in one call."""
    cache = engine.new_cache(capacity)
    if tokens:
        engine.forward(tokens, cache)
    return cache


def assert_same_cache(engine: Llama, actual: KVCache, expected: KVCache) -> None:
    """Every key and value, bit for bit."""
    assert actual.length == expected.length
    assert_same_bits(cached(engine, actual), cached(engine, expected))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(which=models, lengths=st.lists(st.integers(0, 130), min_size=1, max_size=16), seed=st.integers(0, 99))
def test_company_changes_nothing(
    which: tuple[str, str], lengths: list[int], seed: int, open_model: OpenModel
) -> None:
    """E2: each row of ``forward_batch`` has the logits, keys and values that it has alone."""
    engine = open_model(*which)
    check_company(engine, lengths, seed)


@every_model
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 16])
def test_batches_of_any_number(kind: str, dtype: str, rows: int, open_model: OpenModel) -> None:
    """The row counts at which a matrix-matrix product changes its kernel."""
    check_company(open_model(kind, dtype), [(37 * row) % 101 for row in range(rows)], seed=rows)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", ["models/story", "stories260K"])
def test_company_on_real_weights(name: str, dtype: str) -> None:
    """Trained weights have the outliers, and the sizes, that random ones lack."""
    folder = story_model() if name == "models/story" else shared_model(name)
    engine = Llama.from_pretrained(folder, dtype=dtype)
    for rows in (1, 2, 3, 8, 16):
        check_company(engine, [(11 * row) % 37 for row in range(rows)], seed=rows)


def check_company(engine: Llama, lengths: list[int], seed: int) -> None:
    """Decode sequences of these lengths together and each alone, in caches of different capacity."""
    together = [cache_of(engine, text(length, seed + row)) for row, length in enumerate(lengths)]
    alone = [cache_of(engine, text(length, seed + row), 200 + row) for row, length in enumerate(lengths)]
    for index in range(3):
        tokens = text(len(lengths), seed + 1000 + index)
        logits = engine.forward_batch(tokens, together)
        for row, token in enumerate(tokens):
            assert_same_bits(logits[row], engine.forward([token], alone[row]))
    for shared, single in zip(together, alone, strict=True):
        assert_same_cache(engine, shared, single)


@every_model
@pytest.mark.parametrize("small_products", [False, True])
def test_long_contexts_attended_by_all_cores(
    kind: str, dtype: str, small_products: bool, open_model: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E2 and E4 where rows are shared by threads, and where keys are read in blocks: as one thread alone."""
    monkeypatch.setattr(blas, "has_small_products", lambda: small_products)
    monkeypatch.setattr(ops, "LONG_CONTEXT", 130)
    engine, prompt, tokens = open_model(kind, dtype), text(150, seed=1), text(40, seed=2)
    single = cache_of(engine, prompt)
    logits = [engine.forward([token], single) for token in tokens]
    monkeypatch.setattr(step, "ROW_WORK", 0)
    monkeypatch.setattr(blas, "_threads", 3)
    rebuilt, together = cache_of(engine, prompt), [cache_of(engine, prompt) for _ in range(5)]
    assert_same_bits(engine.replay(tokens, rebuilt), logits[-1])
    assert_same_cache(engine, rebuilt, single)
    for token, expected in zip(tokens, logits, strict=True):
        for row in engine.forward_batch([token] * 5, together):
            assert_same_bits(row, expected)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    which=models, prompt=st.integers(0, 100), decoded=st.integers(1, 90), rows=st.sampled_from([1, 2, 7, 64])
)
def test_replay_is_decoding_one_by_one(
    which: tuple[str, str], prompt: int, decoded: int, rows: int, open_model: OpenModel
) -> None:
    """E4: a rebuilt cache is the lost one, and the next logits are those that were lost."""
    engine, tokens = open_model(*which), text(decoded, seed=decoded)
    lost, rebuilt = cache_of(engine, TEXT[:prompt]), cache_of(engine, TEXT[:prompt])
    logits = in_chunks(engine, tokens, [1] * decoded, lost)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "REPLAY_ROWS", rows)
        assert_same_bits(engine.replay(tokens, rebuilt), logits[-1])
    assert_same_cache(engine, rebuilt, lost)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    which=models,
    first=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    dropped=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    then=st.lists(st.sampled_from([1, 1, 2, 3, 17, 40]), min_size=1, max_size=4),
)
def test_truncate_then_continue_is_a_fresh_cache(
    which: tuple[str, str], first: list[int], dropped: list[int], then: list[int], open_model: OpenModel
) -> None:
    """E1: after a revert nothing is left of what was cut, whatever it was."""
    engine = open_model(*which)
    kept, fresh = engine.new_cache(), engine.new_cache(300)
    prompt = text(sum(first), seed=1)
    in_chunks(engine, prompt, first, kept)
    in_chunks(engine, prompt, first, fresh)
    in_chunks(engine, text(sum(dropped), seed=2), dropped, kept)
    kept.truncate(sum(first))
    continued = text(sum(then), seed=3)
    assert_same_bits(in_chunks(engine, continued, then, kept), in_chunks(engine, continued, then, fresh))
    assert_same_cache(engine, kept, fresh)


@every_model
def test_a_copied_prefix_continues_as_the_original(kind: str, dtype: str, open_model: OpenModel) -> None:
    """E3: a fork has its own memory and the same future."""
    engine = open_model(kind, dtype)
    original = cache_of(engine, TEXT[:70])
    in_chunks(engine, TEXT[70:75], [1] * 5, original)
    fork = original.copy_prefix(72)
    in_chunks(engine, text(20, seed=4), [20], original)
    expected = cache_of(engine, TEXT[:70])
    in_chunks(engine, TEXT[70:72], [1] * 2, expected)
    continued = text(30, seed=5)
    chunks = [1, 1, 20, 1, 7]
    assert_same_bits(
        in_chunks(engine, continued, chunks, fork), in_chunks(engine, continued, chunks, expected)
    )
    assert_same_cache(engine, fork, expected)


@every_model
def test_repeated_runs_have_the_same_bits(kind: str, dtype: str, open_model: OpenModel) -> None:
    """The same calls give the same bits, whatever memory the arrays come to lie in."""
    engine, chunks, occupied = open_model(kind, dtype), [50, 1, 1, 3, 145], []
    first = in_chunks(engine, TEXT, chunks)
    for attempt in range(6):
        occupied.append(np.empty(16 + 1000 * attempt + 4 * attempt, dtype=np.uint8))
        assert_same_bits(in_chunks(engine, TEXT, chunks, engine.new_cache(201 + attempt)), first)


@pytest.mark.parametrize("kind, dtype", MODELS[:2])
def test_threads_do_not_meet(kind: str, dtype: str, open_model: OpenModel) -> None:
    """Weights are shared and scratch memory is not: four threads at once each get the bits of a quiet run."""
    engine, chunks = open_model(kind, dtype), [40, 1, 1, 1, 57]
    expected = [in_chunks(engine, text(100, seed), chunks) for seed in range(4)]
    found: dict[int, F32] = {}
    start = threading.Barrier(4)

    def run(seed: int) -> None:
        start.wait()
        found[seed] = in_chunks(engine, text(100, seed), chunks)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        assert_same_bits(found[seed], expected[seed])


@pytest.mark.parametrize("rows, columns", [(96, 64), (576, 576), (1536, 576), (577, 579)])
def test_a_matrix_vector_product_always_has_the_same_bits(rows: int, columns: int) -> None:
    """The fact of BLAS that the contract rests on, for aligned and misaligned vectors and results.

    Should this fail on some machine, its BLAS cannot keep the contract, and the engine needs another kernel.
    """
    random = np.random.RandomState(0)
    tile, x = (random.standard_normal(shape).astype(np.float32) for shape in ((rows, columns), columns))
    expected = np.dot(tile, x)
    room = np.zeros((2, max(rows, columns) + 40), dtype=np.float32)
    for repeat in range(100):
        x_moved = room[0, repeat % 19 : repeat % 19 + columns]
        y_moved = room[1, repeat % 17 : repeat % 17 + rows]
        x_moved[:] = x
        if repeat % 5 == 0:
            # Another product in between changes what the threads and their memory were last used for.
            np.matmul(tile, random.standard_normal((columns, 7)).astype(np.float32))
        np.dot(tile, x_moved, out=y_moved)
        assert_same_bits(y_moved.copy(), expected)


def test_rows_keep_their_bits_in_tiles_of_real_size() -> None:
    """Several tiles, each multiplied by several BLAS threads, as in a model of 100 million parameters."""
    random = np.random.RandomState(0)
    weight = random.standard_normal((2600, 576)).astype(np.float32)
    x = random.standard_normal((9, 576)).astype(np.float32)
    for part in (weight, (weight.view(np.uint32) >> 16).astype(np.uint16)):
        layer, workspace = linear.make_linear([part]), Workspace()
        together = layer.decode(x, workspace)
        for row in range(len(x)):
            assert_same_bits(together[row], layer.decode(x[row : row + 1], workspace)[0])


def test_every_kind_keeps_its_bits_in_company(open_model: OpenModel) -> None:
    """No kind has a way to attend or to project that the models above lack."""
    for kind in KINDS:
        check_company(open_model(kind), [0, 5, 60], seed=1)
