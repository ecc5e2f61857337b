"""The choice of a token: every filter against the plainest float64 oracle, and the random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from comparisons import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core.errors import InvalidParameter
from lm_core.sampler import LARGEST_SEED, Sampler, SamplingParams, candidates

F32 = npt.NDArray[np.float32]

ROUNDING = 1e-5
"""Exponentials of float32 numbers around 50 differ by this much from their float64 twins."""

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 7, 63, 64, 65, 300, 5000]),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 1e-6, 0.02, 0.5, 1.0]),
)


def oracle(logits: F32, params: SamplingParams) -> dict[int, float]:
    """Every token that may be chosen, most likely first, with its probability: sort, divide, cut, repeat."""
    scores = [float(logit) / params.temperature for logit in logits]
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    if params.top_k:
        order = order[: params.top_k]
    probabilities = _softmax([scores[index] for index in order])
    kept, mass = 0, 0.0
    while kept < len(order) and (mass < params.top_p or params.top_p == 1.0):
        mass += probabilities[kept]
        kept += 1
    order, probabilities = order[:kept], _softmax([scores[index] for index in order[:kept]])
    kept = sum(probability >= params.min_p * probabilities[0] for probability in probabilities)
    return dict(zip(order[:kept], _softmax([scores[index] for index in order[:kept]]), strict=True))


def _softmax(scores: Sequence[float]) -> list[float]:
    exponentials = [math.exp(score - scores[0]) for score in scores]
    total = math.fsum(exponentials)
    return [exponential / total for exponential in exponentials]


def normal(count: int, seed: int = 0, scale: float = 3.0) -> F32:
    """Logits of a plausible spread, all different."""
    return (scale * np.random.RandomState(seed).standard_normal(count)).astype(np.float32)


def check_candidates(logits: F32, params: SamplingParams) -> None:
    """The same tokens with the same probabilities; the most likely first, but where all are kept."""
    ids, relative = candidates(logits, params)
    expected = oracle(logits, params)
    in_order = sorted(expected) if filters_nothing(params, len(logits)) else list(expected)
    assert ids.tolist() == in_order
    assert relative.dtype == np.float64
    np.testing.assert_allclose(relative / relative.sum(), [expected[index] for index in ids], rtol=ROUNDING)


def filters_nothing(params: SamplingParams, count: int) -> bool:
    """Whether these parameters keep every token of so many."""
    return (params.top_k == 0 or params.top_k >= count) and params.top_p == 1.0 and params.min_p == 0.0


class TestFilters:
    """Top-k, top-p and min-p, alone and together."""

    @settings(max_examples=250, deadline=None, derandomize=True)
    @given(
        count=st.integers(1, 200), seed=st.integers(0, 999), params=PARAMS, scale=st.sampled_from([0.5, 4.0])
    )
    def test_any_combination(self, count: int, seed: int, params: SamplingParams, scale: float) -> None:
        """Small vocabularies, where every border is met."""
        check_candidates(normal(count, seed, scale), params)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 999), params=PARAMS, scale=st.sampled_from([0.02, 1.0, 4.0]))
    def test_large_vocabularies(self, seed: int, params: SamplingParams, scale: float) -> None:
        """Nearly flat ones too, where the first look at 64 candidates holds little of the mass."""
        check_candidates(normal(3000, seed, scale), params)

    def test_top_k_larger_than_the_vocabulary_keeps_all(self) -> None:
        """As 0 does."""
        logits = normal(50)
        for top_k in (0, 50, 51, 1 << 31):
            assert sorted(candidates(logits, SamplingParams(top_k=top_k))[0]) == list(range(50))

    def test_top_p_keeps_the_fewest_that_reach_it(self) -> None:
        """Four equally likely tokens: a half is two of them, a little more is three."""
        logits = np.zeros(4, dtype=np.float32)
        kept = {
            top_p: len(candidates(logits, SamplingParams(top_p=top_p))[0])
            for top_p in (0.25, 0.26, 0.5, 0.51, 1.0)
        }
        assert kept == {0.25: 1, 0.26: 2, 0.5: 2, 0.51: 3, 1.0: 4}

    def test_top_p_counts_what_top_k_left(self) -> None:
        """Half of the two that are left is one, although it is an eighth of all."""
        ids, _ = candidates(np.zeros(8, dtype=np.float32), SamplingParams(top_k=2, top_p=0.5))
        assert ids.tolist() == [0]
        ids, _ = candidates(np.zeros(1000, dtype=np.float32), SamplingParams(top_k=100, top_p=0.5))
        assert ids.tolist() == list(range(50))

    def test_min_p_keeps_ties_and_the_most_likely(self) -> None:
        """At 1, those that are as likely as the most likely one."""
        logits = np.array([1, 3, 2, 3, -5], dtype=np.float32)
        for others in ({}, {"top_k": 3}, {"top_p": 0.99}, {"top_k": 4, "top_p": 0.99}):
            assert candidates(logits, SamplingParams(min_p=1.0, **others))[0].tolist() == [1, 3]
        assert candidates(logits, SamplingParams(min_p=math.exp(-1.001)))[0].tolist() == [1, 3, 2]

    @pytest.mark.parametrize("count", [5, 100, 3000])
    def test_ties_go_by_id(self, count: int) -> None:
        """Whichever way the candidates are found, so that a choice never depends on a sort."""
        logits = np.zeros(count, dtype=np.float32)
        for params in (
            SamplingParams(top_k=3),
            SamplingParams(top_p=3 / count),
            SamplingParams(top_k=3, top_p=0.99),
        ):
            assert candidates(logits, params)[0].tolist() == [0, 1, 2]
        logits[::2] = 1.0
        expected = [*range(0, count, 2), *range(1, count, 2)]
        assert candidates(logits, SamplingParams(min_p=0.01))[0].tolist() == expected
        top_k = count // 2 + 2
        assert candidates(logits, SamplingParams(top_k=top_k))[0].tolist() == expected[:top_k]

    def test_masked_tokens_are_never_chosen(self) -> None:
        """Minus infinity is no probability at all, also when it is among the k."""
        logits = np.full(100, -np.inf, dtype=np.float32)
        logits[[7, 70]] = [1.0, 2.0]
        for params in (
            SamplingParams(seed=1),
            SamplingParams(seed=1, top_k=5),
            SamplingParams(seed=1, top_p=0.99999),
        ):
            sampler = Sampler(params)
            assert {sampler.sample(logits, range(position)) for position in range(300)} == {7, 70}

    @pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-30])
    def test_the_lowest_temperatures_are_greedy(self, temperature: float) -> None:
        """Without a warning about infinities, which a user of the command line would see."""
        sampler = Sampler(SamplingParams(temperature=temperature, seed=3))
        logits = normal(500)
        assert {sampler.sample(logits, range(position)) for position in range(20)} == {int(logits.argmax())}


class TestGreedy:
    """No random number at all."""

    @pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_k": 1}, {"temperature": 0, "top_p": 0.1}])
    def test_the_most_likely_token(self, params: dict[str, Any]) -> None:
        """Whatever the seed and the position; of equally likely ones the first."""
        logits = normal(300)
        logits[[40, 200]] = 100.0
        for seed in range(5):
            assert Sampler(SamplingParams(**params, seed=seed)).sample(logits, range(seed)) == 40

    def test_other_parameters_sample(self) -> None:
        """Only these two are greedy."""
        assert SamplingParams(temperature=0).greedy and SamplingParams(top_k=1).greedy
        assert not SamplingParams().greedy and not SamplingParams(top_p=0.01).greedy


class TestRepetitionPenalty:
    """Keskar et al., 2019, section 4.1: a positive score is divided, a negative one multiplied, once."""

    @staticmethod
    def penalized(logits: F32, context: Sequence[int], penalty: float) -> F32:
        """By the definition, token by token."""
        expected = logits.copy()
        for token in set(context):
            score = logits[token]
            expected[token] = score * np.float32(penalty) if score < 0 else score / np.float32(penalty)
        return expected

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(
        context=st.lists(st.integers(0, 19), max_size=30),
        penalty=st.sampled_from([0.5, 1.0, 1.1, 1.3, 100.0]),
        seed=st.integers(0, 99),
    )
    def test_the_choice_is_made_of_penalized_scores(
        self, context: list[int], penalty: float, seed: int
    ) -> None:
        """Greedy and sampled; the logits that were given stay as they are."""
        logits = normal(20, seed)
        logits[seed % 20] = 0.0
        before, expected = logits.copy(), self.penalized(logits, context, penalty)
        greedy = Sampler(SamplingParams(temperature=0, repetition_penalty=penalty))
        assert greedy.sample(logits, context) == int(expected.argmax())
        sampled = Sampler(SamplingParams(repetition_penalty=penalty, seed=seed)).sample(logits, context)
        assert sampled == Sampler(SamplingParams(seed=seed)).sample(expected, context)
        assert_same_bits(logits, before)

    def test_a_token_is_penalized_once(self) -> None:
        """However often it occurs: 2.1 / 1.5 is more than 1.2, and 2.1 / 1.5² is less."""
        logits = np.array([2.1, 1.2, -9.0], dtype=np.float32)
        sampler = Sampler(SamplingParams(temperature=0, repetition_penalty=1.5))
        for length in range(1, 6):
            assert sampler.sample(logits, [0] * length) == 0
        assert sampler.sample(logits, [0] * 6 + [2]) == 0

    def test_positive_and_negative_scores_both_sink(self) -> None:
        """Dividing a negative score would raise it."""
        sampler = Sampler(SamplingParams(temperature=0, repetition_penalty=2.0))
        assert sampler.sample(np.array([3.0, 2.0], dtype=np.float32), [0]) == 1
        sampler = Sampler(SamplingParams(temperature=0, repetition_penalty=2.0))
        assert sampler.sample(np.array([-1.0, -1.5], dtype=np.float32), [0]) == 1

    @pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e-40])
    @pytest.mark.parametrize("more", [{}, {"temperature": 5e-324}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
    def test_a_penalty_of_almost_nothing(self, penalty: float, more: dict[str, float]) -> None:
        """Float32 cannot divide by it; the token that gains most from it is chosen all the same."""
        logits = np.array([3.0, 2.0, -1.0, 9.0], dtype=np.float32)
        sampler = Sampler(SamplingParams(repetition_penalty=penalty, seed=1, **more))
        assert sampler.sample(logits, [0, 1, 2]) == 0

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(tokens=st.lists(st.integers(0, 19), min_size=1, max_size=25), cut=st.integers(1, 25))
    def test_a_growing_context_is_the_whole_context(self, tokens: list[int], cut: int) -> None:
        """What a sampler remembers only saves work: a new one makes the same choices."""
        params = SamplingParams(repetition_penalty=1.4, seed=5)
        kept = Sampler(params)
        for length in sorted({min(cut, len(tokens)), len(tokens)}):
            logits = normal(20, seed=length, scale=1.0)
            assert kept.sample(logits, tokens[:length]) == Sampler(params).sample(logits, tokens[:length])


class TestRandomNumbers:
    """E5: they depend on the seed and the position alone."""

    @pytest.mark.parametrize("seed", [0, 1, 12345, 1 << 40, LARGEST_SEED])
    def test_they_are_the_stream_of_philox(self, seed: int) -> None:
        """NumPy's own counter-based generator, from its beginning, in any order of asking."""
        stream = np.random.Generator(np.random.Philox(key=seed)).random(1500)
        in_order, jumping, fresh = (Sampler(SamplingParams(seed=seed)) for _ in range(3))
        assert [in_order.uniform(position) for position in range(1500)] == stream.tolist()
        positions = np.random.RandomState(0).randint(0, 1500, 400).tolist()
        assert [jumping.uniform(position) for position in positions] == stream[positions].tolist()
        assert fresh.uniform(1499) == stream[1499]

    def test_the_choice_depends_on_the_position_and_not_on_the_way_there(self) -> None:
        """Reverted, forked and rebuilt sessions have new samplers."""
        logits, params = normal(400), SamplingParams(seed=77)
        kept = Sampler(params)
        story = [kept.sample(logits, range(position)) for position in range(600)]
        for position in (0, 1, 255, 256, 257, 511, 512, 599):
            assert Sampler(params).sample(logits, range(position)) == story[position]
        assert len(set(story)) > 20

    def test_other_seeds_choose_otherwise(self) -> None:
        """Also seeds that differ only in the highest bits."""
        logits, stories = normal(400), set()
        for seed in (0, 1, 2, 1 << 33, 1 << 62, LARGEST_SEED):
            sampler = Sampler(SamplingParams(seed=seed))
            stories.add(tuple(sampler.sample(logits, range(position)) for position in range(50)))
        assert len(stories) == 6

    def test_without_a_seed_one_is_drawn_and_told(self) -> None:
        """Two samplers differ, and each can be repeated by its seed."""
        first, second = Sampler(SamplingParams()), Sampler(SamplingParams())
        assert first.seed != second.seed and 0 <= first.seed <= LARGEST_SEED
        assert Sampler(SamplingParams(seed=first.seed)).uniform(9) == first.uniform(9)

    @pytest.mark.parametrize(
        "params",
        [
            {},
            {"temperature": 0.5},
            {"temperature": 2.0, "top_k": 12},
            {"top_p": 0.8},
            {"min_p": 0.1},
            {"top_k": 30, "top_p": 0.9, "min_p": 0.03, "temperature": 1.5},
        ],
    )
    @pytest.mark.parametrize("along", ["positions", "seeds"])
    def test_tokens_come_as_often_as_they_should(self, params: dict[str, Any], along: str) -> None:
        """Chi-square over many choices, along one sequence and over many seeds at one position."""
        logits, draws = normal(40, seed=3, scale=1.5), 4000
        expected = oracle(logits, SamplingParams(**params))
        if along == "positions":
            sampler = Sampler(SamplingParams(**params, seed=2024))
            chosen = [sampler.sample(logits, range(position)) for position in range(draws)]
        else:
            chosen = [
                Sampler(SamplingParams(**params, seed=seed)).sample(logits, range(9)) for seed in range(draws)
            ]
        counts = np.bincount(chosen, minlength=len(logits))
        assert set(np.flatnonzero(counts)) <= set(expected)
        # Tokens that are expected less than five times are counted together, as the test demands.
        common = {token: p * draws for token, p in expected.items() if p * draws >= 5}
        cells = [(counts[token], mean) for token, mean in common.items()]
        rare = draws - sum(mean for _, mean in cells)
        if rare >= 5:
            cells.append((draws - sum(count for count, _ in cells), rare))
        statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
        freedom = len(cells) - 1
        assert freedom >= 3
        # Five standard deviations: once in a million of honest samplers, and the seeds are fixed.
        assert statistic < freedom + 5 * math.sqrt(2 * freedom)


class TestParams:
    """What is out of range is refused by name."""

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("temperature", [-0.1, 100.1, 10**400]),
            ("top_k", [-1, (1 << 31) + 1, 1.0, 4.5, 10**400]),
            ("top_p", [0, 0.0, -0.5, 1.5, 2]),
            ("min_p", [-0.1, 1.1]),
            ("repetition_penalty", [0, 0.0, -1.0, 101]),
            ("seed", [-1, LARGEST_SEED + 1, 1.0]),
        ],
    )
    def test_out_of_range(self, name: str, values: list[Any]) -> None:
        """Also NaN, infinities, and what is not a number at all."""
        for value in [
            *values,
            math.nan,
            math.inf,
            -math.inf,
            True,
            "1",
            [1],
            *([None] if name != "seed" else []),
        ]:
            with pytest.raises(InvalidParameter) as refused:
                SamplingParams(**{name: value})
            assert refused.value.param == name
            assert str(refused.value).startswith(f"{name} is ") and "\n" not in str(refused.value)
            assert isinstance(refused.value, ValueError)

    def test_the_bounds_themselves(self) -> None:
        """Are in range, as whole numbers too."""
        for name, values in {
            "temperature": [0, 0.0, 100],
            "top_k": [0, 1 << 31],
            "top_p": [1, 1.0, 5e-324],
            "min_p": [0, 1],
            "repetition_penalty": [5e-324, 1, 100],
            "seed": [None, 0, LARGEST_SEED],
        }.items():
            for value in values:
                assert getattr(SamplingParams(**{name: value}), name) == value

    def test_defaults_are_the_models_own_distribution(self) -> None:
        """Nothing is cut, scaled or penalized unless somebody asks for it."""
        logits = normal(100)
        ids, relative = candidates(logits, SamplingParams())
        probabilities = np.exp(logits.astype(np.float64))
        probabilities /= probabilities.sum()
        np.testing.assert_allclose(relative / relative.sum(), probabilities[ids], rtol=ROUNDING)
        sampler = Sampler(SamplingParams(seed=1))
        again = Sampler(SamplingParams(seed=1, repetition_penalty=1.0, top_k=0))
        assert sampler.sample(logits, [1, 2]) == again.sample(logits, [1, 2])
