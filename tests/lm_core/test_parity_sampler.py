"""The choice of candidates beside the logits processors of ``transformers``, in their published order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lm_core.sampler import Sampler, SamplingParams, candidates

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

F32 = npt.NDArray[np.float32]

GRID: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 100_000},
    {"top_p": 0.05},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.001},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"top_k": 50, "top_p": 0.9},
    {"top_p": 0.95, "min_p": 0.02, "temperature": 1.3},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.1},
    {"temperature": 1.5, "top_k": 4, "top_p": 0.9, "repetition_penalty": 1.176},
]


def oracle(logits: F32, context: list[int], params: SamplingParams) -> tuple[set[int], F32]:
    """The tokens that may be chosen, and the probabilities of all ``[V]``."""
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    # The order of GenerationMixin._get_logits_processor.
    chain: list[Any] = []
    if params.repetition_penalty != 1.0:
        chain.append(processors.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature != 1.0:
        chain.append(processors.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        chain.append(processors.TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        chain.append(processors.TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(processors.MinPLogitsWarper(params.min_p))
    scores, ids = torch.tensor(logits)[None], torch.tensor([context])
    for processor in chain:
        scores = processor(ids, scores)
    kept = np.flatnonzero(scores[0].isfinite().numpy())
    return set(kept.tolist()), scores.softmax(dim=-1)[0].numpy()


@pytest.mark.parametrize("given", GRID, ids=str)
@pytest.mark.parametrize(("vocab_size", "spread"), [(50, 3.0), (2048, 2.0), (32000, 4.0), (32000, 0.5)])
def test_kept_tokens_and_their_probabilities(given: dict[str, Any], vocab_size: int, spread: float) -> None:
    """Peaked and flat distributions, over vocabularies of real sizes."""
    params = SamplingParams(**given)
    for seed in range(3):
        random = np.random.RandomState(seed)
        logits = (spread * random.standard_normal(vocab_size)).astype(np.float32)
        # Ties are left to the implementation there: here all logits differ.
        logits = logits[np.sort(np.unique(logits, return_index=True)[1])]
        context = random.randint(0, len(logits), 60).tolist() * 2
        kept, expected = oracle(logits, context, params)
        penalized = Sampler(params)._penalize(logits, context) if params.repetition_penalty != 1.0 else logits
        ids, relative = candidates(penalized, params)
        assert set(ids.tolist()) == kept
        np.testing.assert_allclose(relative / relative.sum(), expected[ids], rtol=2e-4, atol=1e-12)


@pytest.mark.parametrize(
    "given", [{}, {"top_k": 20}, {"top_p": 0.8}, {"repetition_penalty": 1.5, "top_k": 10}], ids=str
)
def test_choices_come_as_often_as_there(given: dict[str, Any]) -> None:
    """The whole way to a token, by the sampler's own random numbers."""
    logits = (1.5 * np.random.RandomState(4).standard_normal(40)).astype(np.float32)
    context, draws = [3, 5, 5, 7], 4000
    kept, probabilities = oracle(logits, context, SamplingParams(**given))
    expected = probabilities * draws
    chosen = [Sampler(SamplingParams(**given, seed=seed)).sample(logits, context) for seed in range(draws)]
    counts = np.bincount(chosen, minlength=len(logits))
    likely = expected >= 5
    statistic = float((((counts - expected) ** 2)[likely] / expected[likely]).sum())
    freedom = np.count_nonzero(likely) - 1
    assert set(np.flatnonzero(counts)) <= kept
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)
