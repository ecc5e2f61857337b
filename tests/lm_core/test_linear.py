"""``Linear`` against the float64 reference, for both storages and in both regimes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from comparisons import BFLOAT16_BOUND, assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import operators as reference

from lm_core import bfloat16, blas, cuts, linear
from lm_core.linear import Linear, make_linear
from lm_core.workspace import Workspace

F32 = npt.NDArray[np.float32]
U16 = npt.NDArray[np.uint16]

STORAGES = pytest.mark.parametrize("storage", ["f32", "bf16"])
REGIMES = pytest.mark.parametrize("regime", ["prefill", "decode"])
TILE_BYTES = pytest.mark.parametrize("tile_bytes", [1, 5000, cuts.TILE_BYTES])


def random(*shape: int, seed: int = 0) -> F32:
    """Normal numbers, the same at every run."""
    return np.random.RandomState(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def stored(weight: F32, storage: str) -> npt.NDArray[np.float32] | U16:
    """The weight as it lies in memory, read-only like a mapped file."""
    part = weight if storage == "f32" else bfloat16.narrow(weight)
    part.flags.writeable = False
    return part


def widened(weight: F32, storage: str) -> npt.NDArray[np.float64]:
    """What the stored weight stands for."""
    return (weight if storage == "f32" else bfloat16.widen(bfloat16.narrow(weight))).astype(np.float64)


def apply(layer: Linear, x: F32, regime: str) -> F32:
    """``[T, in] -> [T, out]`` by one of the two regimes."""
    return (layer.prefill if regime == "prefill" else layer.decode)(x, Workspace())


def check(storage: str, regime: str, rows: list[int], columns: int, T: int, bias: bool = False) -> None:
    """A layer of parts with ``rows`` rows each equals the product with the whole matrix."""
    weights = [random(count, columns, seed=index) for index, count in enumerate(rows)]
    offsets = random(sum(rows), seed=9) if bias else None
    layer = make_linear([stored(weight, storage) for weight in weights], offsets)
    x = random(T, columns, seed=7)
    y = apply(layer, x, regime)
    whole = np.concatenate([widened(weight, storage) for weight in weights])
    expected = reference.linear(
        x.astype(np.float64), whole, None if offsets is None else offsets.astype(np.float64)
    )
    assert y.dtype == np.float32
    assert y.shape == expected.shape == (T, layer.out_features)
    assert layer.in_features == columns
    assert np.abs(y - expected).max() <= BFLOAT16_BOUND * np.abs(expected).max()


def cut_small(monkeypatch: pytest.MonkeyPatch, tile_bytes: int) -> None:
    """Tiles and pieces of so many bytes, from one row on, and as many threads as there are pieces."""
    monkeypatch.setattr(cuts, "TILE_BYTES", tile_bytes)
    monkeypatch.setattr(cuts, "PIECE_BYTES", tile_bytes)
    monkeypatch.setattr(cuts, "ROW_STEP", 1)
    monkeypatch.setattr(cuts, "PIECE_STEP", 1)
    monkeypatch.setattr(linear, "CALL_WORK", 1)
    monkeypatch.setattr(blas, "_threads", 3)


@STORAGES
@REGIMES
@TILE_BYTES
@pytest.mark.parametrize("T", [1, 2, 5, 33])
def test_product(storage: str, regime: str, T: int, tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of one row, of some rows, and of all: none is forgotten, none taken twice."""
    cut_small(monkeypatch, tile_bytes)
    check(storage, regime, [37], 26, T)


@STORAGES
@REGIMES
@TILE_BYTES
@pytest.mark.parametrize("joined_bytes", [0, linear.JOINED_BYTES])
def test_several_parts_with_bias(
    storage: str, regime: str, tile_bytes: int, joined_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projections of one input, as one matrix in memory or as several."""
    cut_small(monkeypatch, tile_bytes)
    monkeypatch.setattr(linear, "JOINED_BYTES", joined_bytes)
    check(storage, regime, [24, 8, 8], 52, 3, bias=True)


@STORAGES
@pytest.mark.parametrize("T", [linear.FEW_ROWS, linear.FEW_ROWS + 1])
def test_few_and_many_rows(storage: str, T: int) -> None:
    """GEMM from either side."""
    check(storage, "prefill", [24, 9], 52, T, bias=True)


@REGIMES
@pytest.mark.parametrize("columns", [1, 3, 45, 75])
def test_odd_widths(regime: str, columns: int) -> None:
    """Float32 weights may have any width."""
    check("f32", regime, [13, 4], columns, 3)


@STORAGES
@REGIMES
def test_wider_than_a_tile(storage: str, regime: str) -> None:
    """Real tiles: a matrix of some megabytes."""
    check(storage, regime, [2100], 1024, 2)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    storage=st.sampled_from(["f32", "bf16"]),
    regime=st.sampled_from(["prefill", "decode"]),
    rows=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    pairs=st.integers(1, 40),
    T=st.integers(1, 20),
    bias=st.booleans(),
)
def test_any_size(storage: str, regime: str, rows: list[int], pairs: int, T: int, bias: bool) -> None:
    """Small matrices of any even width."""
    check(storage, regime, rows, 2 * pairs, T, bias)


@STORAGES
@REGIMES
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_misaligned_weights(storage: str, regime: str, offset: int) -> None:
    """A file whose header has an odd length puts the weights at any address."""
    weight = random(40, 26)
    aligned = stored(weight, storage)
    room = np.zeros(aligned.nbytes + 8, dtype=np.uint8)
    raw = room[offset : offset + aligned.nbytes]
    raw[:] = np.frombuffer(aligned.tobytes(), np.uint8)
    misaligned = raw.view(aligned.dtype).reshape(aligned.shape)
    x = random(3, 26, seed=7)
    assert_same_bits(apply(make_linear([misaligned]), x, regime), apply(make_linear([aligned]), x, regime))


@STORAGES
@REGIMES
def test_strided_and_misaligned_input(storage: str, regime: str) -> None:
    """Input that is a slice of a larger array gives the same bits as its copy."""
    layer = make_linear([stored(random(40, 26), storage)])
    x = random(6, 54, seed=7)[::2, 1:27]
    assert_same_bits(apply(layer, x, regime), apply(layer, np.ascontiguousarray(x), regime))


@STORAGES
def test_rows_are_the_weights(storage: str) -> None:
    """An embedding look-up is exact, and a copy: the residual stream is added to in place."""
    weight = random(30, 8)
    table = make_linear([stored(weight, storage)])
    rows = table.rows(np.array([3, 0, 29, 3]))
    np.testing.assert_array_equal(rows, widened(weight, storage)[[3, 0, 29, 3]])
    assert rows.dtype == np.float32
    rows[:] = 0.0
    np.testing.assert_array_equal(table.rows(np.array([3])), widened(weight, storage)[[3]])


@STORAGES
def test_large_weights_stay_where_they_are(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the size of joined ones, a layer multiplies with the very memory it was given."""
    monkeypatch.setattr(linear, "JOINED_BYTES", 0)
    parts = [random(20, 16, seed=1), random(12, 16, seed=2)]
    parts = [part if storage == "f32" else bfloat16.narrow(part) for part in parts]
    layer = make_linear(parts)
    x = random(1, 16, seed=7)
    for part in parts:
        part[:] = 0
    for regime in ("prefill", "decode"):
        np.testing.assert_array_equal(apply(layer, x, regime), np.zeros((1, 32), dtype=np.float32))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@REGIMES
def test_a_stretch_of_small_parts(
    order: tuple[int, ...], regime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of one file in any order, other tensors between them: the products are the parts' alone."""
    monkeypatch.setattr(linear, "JOINED_BYTES", 0)
    monkeypatch.setattr(cuts, "SHARED_WEIGHTS", 1000)
    file = random(60, 26)
    file.flags.writeable = False
    parts = [file[4:20], file[33:41], file[41:60]]
    layer = make_linear([parts[index] for index in order])
    assert isinstance(layer, linear.Float32Linear) and layer._stretch is not None
    x = random(3, 26, seed=7)
    whole = np.concatenate([parts[index] for index in order]).astype(np.float64)
    np.testing.assert_allclose(
        apply(layer, x, regime), reference.linear(x.astype(np.float64), whole, None), atol=2e-5
    )


def test_parts_that_are_not_of_one_file_are_no_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are those that lie far from each other, or by no whole number of rows."""
    monkeypatch.setattr(linear, "JOINED_BYTES", 0)
    monkeypatch.setattr(cuts, "SHARED_WEIGHTS", 1000)
    file = random(60, 26).reshape(-1)
    for parts in (
        [random(20, 26, seed=1), random(20, 26, seed=2)],
        [file[: 20 * 26].reshape(20, 26), file[20 * 26 + 1 : 50 * 26 + 1].reshape(30, 26)],
    ):
        layer = make_linear(parts)
        assert isinstance(layer, linear.Float32Linear) and layer._stretch is None


def test_nbytes_counts_the_storage() -> None:
    """bf16 is half the bytes: what the bench calls the memory that a token reads."""
    weight = random(30, 8)
    assert make_linear([weight]).nbytes == 2 * make_linear([bfloat16.narrow(weight)]).nbytes == 30 * 8 * 4


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("rows", "columns"), [(1536, 576), (2100, 1024), (49, 40_000), (5000, 64)])
@STORAGES
def test_no_bit_depends_on_who_multiplies(
    storage: str, rows: int, columns: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows alone or together, pieces by one thread or by several: a real matrix gives the same bits."""
    monkeypatch.setattr(blas, "_threads", threads)
    layer = make_linear([stored(random(rows, columns), storage)])
    x = random(9, columns, seed=7)
    together = apply(layer, x, "decode")
    for row in range(len(x)):
        assert_same_bits(together[row], apply(layer, x[row : row + 1], "decode")[0])
    assert_same_bits(together[:2], apply(layer, x[:2], "decode"))


def test_pieces_of_published_shapes_are_used() -> None:
    """SmolLM2's matrices: a core multiplies the pieces of several rows on its own."""
    for rows in ([1536, 1536], [576], [576, 192, 192]):
        layer = make_linear([stored(random(count, 576), "f32") for count in rows])
        assert isinstance(layer, linear.Float32Linear) and layer._pieces_agree


def test_pieces_that_would_change_a_bit_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a piece ends elsewhere than kernels do, its last rows are summed in another order."""
    monkeypatch.setattr(cuts, "PIECE_STEP", 1)
    monkeypatch.setattr(cuts, "PIECE_BYTES", 7 * 4 * 1536)
    monkeypatch.setattr(linear, "JOINED_BYTES", 0)
    layer = make_linear([stored(random(576, 1536), "f32")])
    assert isinstance(layer, linear.Float32Linear)
    if layer._pieces_agree:
        pytest.skip("this BLAS sums every row in the same order")
    x = random(3, 1536, seed=7)
    together = apply(layer, x, "decode")
    for row in range(len(x)):
        assert_same_bits(together[row], apply(layer, x[row : row + 1], "decode")[0])
