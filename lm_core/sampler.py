"""Choosing the next token: penalties, temperature, top-k, top-p, min-p, and one random number.

The order and the definitions are those of ``transformers``' logits processors, which the tests
compare with.  The random number depends on the seed and the token's position alone, so there is no
hidden state that a revert, a fork or a crash could lose.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lm_core.errors import InvalidParameter

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

LARGEST_SEED = (1 << 63) - 1
UNIFORM_BLOCK = 256
"""Random numbers drawn at once; a multiple of the four that one Philox counter gives."""
SMALLEST_PENALTY = 1e-30
"""Below it float32 logits would overflow; a token that is divided by it is above all others long before."""
SMALLEST_TEMPERATURE = 1e-30
"""Below it float32 exponents would overflow; any other token's probability is zero long before."""
FEW_CANDIDATES = 8
"""So many are found one after the other sooner than by partitioning the vocabulary."""
FIRST_CANDIDATES = 64
"""Candidates that top-p looks at first, which nearly always hold all the mass it wants."""


@dataclass(frozen=True)
class SamplingParams:
    """How to choose a token.  The defaults sample from the model's own distribution.

    Raises:
        InvalidParameter: a value is out of range; ``param`` names it.
    """

    temperature: float = 1.0
    """0 is greedy: always the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens that together have this probability; 1 keeps all."""
    min_p: float = 0.0
    """Drop tokens less likely than this fraction of the most likely one."""
    repetition_penalty: float = 1.0
    """Divide positive logits of tokens in the context by it, multiply negative ones (Keskar et al., 2019)."""
    seed: int | None = None
    """None draws one, which ``Sampler.seed`` tells."""

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 100.0)
        _check_whole("top_k", self.top_k, 0, 1 << 31)
        _check_number("top_p", self.top_p, 0.0, 1.0, above_low=True)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.0, 100.0, above_low=True)
        if self.seed is not None:
            _check_whole("seed", self.seed, 0, LARGEST_SEED)

    @property
    def greedy(self) -> bool:
        """Whether no random number is needed."""
        return self.temperature == 0 or self.top_k == 1


def _check_number(name: str, value: float, low: float, high: float, above_low: bool = False) -> None:
    # Comparisons with NaN are false, so it is in no range.
    valid = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not valid or (above_low and value == low):
        bounds = f"above {low:g} and at most {high:g}" if above_low else f"from {low:g} to {high:g}"
        raise InvalidParameter(name, f"{name} is {value!r}; it must be a number {bounds}")


def _check_whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidParameter(name, f"{name} is {value!r}; it must be a whole number from {low} to {high}")


class Sampler:
    """Chooses tokens of one sequence by fixed parameters.

    What it remembers between calls only saves work; each choice follows from the arguments of
    :meth:`sample` and the seed.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self.seed: int = secrets.randbelow(LARGEST_SEED + 1) if params.seed is None else params.seed
        self._uniforms: F64 = np.empty(0)
        self._first_uniform = 0
        self._penalized: set[int] = set()
        self._penalized_ids: Indices = np.empty(0, dtype=np.int64)
        self._context_seen = 0

    def sample(self, logits: F32, context: Sequence[int]) -> int:
        """The id of the token that follows ``context``, from its logits ``[V]`` float32.

        Successive calls may only append to the context; start a new sampler where it was cut.
        """
        params = self.params
        if params.repetition_penalty != 1.0:
            logits = self._penalize(logits, context)
        if params.greedy:
            return int(logits.argmax())
        ids, probabilities = candidates(logits, params)
        cumulative = probabilities.cumsum()
        threshold = self.uniform(len(context)) * cumulative[-1]
        # Rounding may put the threshold on the total itself, past the last candidate.
        chosen = min(int(cumulative.searchsorted(threshold, side="right")), len(ids) - 1)
        return int(ids[chosen])

    def uniform(self, position: int) -> float:
        """The random number in [0, 1) for the token at ``position``: a pure function of it and the seed."""
        index = position - self._first_uniform
        if not 0 <= index < len(self._uniforms):
            self._first_uniform = position - position % UNIFORM_BLOCK
            counter = self._first_uniform // 4
            generator = np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
            self._uniforms = generator.random(UNIFORM_BLOCK)
            index = position - self._first_uniform
        return float(self._uniforms[index])

    def _penalize(self, logits: F32, context: Sequence[int]) -> F32:
        """A copy of ``logits`` with the penalty applied once to every token of the context."""
        new = set(context[self._context_seen :]) - self._penalized
        self._context_seen = len(context)
        if new:
            self._penalized |= new
            self._penalized_ids = np.concatenate((self._penalized_ids, np.fromiter(new, np.int64)))
        penalty = np.float32(max(self.params.repetition_penalty, SMALLEST_PENALTY))
        ids = self._penalized_ids
        logits = logits.copy()
        scores = logits[ids]
        logits[ids] = np.where(scores < 0, scores * penalty, scores / penalty)
        return logits


def candidates(logits: F32, params: SamplingParams) -> tuple[Indices, F64]:
    """Tokens that may be chosen and their probabilities relative to each other.

    Most likely first, ties by id; but by id alone where every token may be chosen, since sorting
    a whole vocabulary takes longer than the rest of a small model's step.

    Returns:
        ``(ids [N] int64, probabilities [N] float64)``; the probabilities need not sum to one.
    """
    vocab_size = len(logits)
    keep = min(params.top_k or vocab_size, vocab_size)
    if params.top_p < 1.0:
        return _top_p_candidates(logits, params, keep)
    if keep < vocab_size:
        ids = _largest(logits, keep)
        return _min_p(ids, _relative_probabilities(logits[ids], logits[ids[0]], params), params)
    probabilities = _relative_probabilities(logits, logits.max(), params)
    if params.min_p == 0.0:
        return np.arange(vocab_size), probabilities
    count = max(1, int(np.count_nonzero(probabilities >= params.min_p)))
    ids = _largest(logits, count)
    return ids, probabilities[ids]


def _top_p_candidates(logits: F32, params: SamplingParams, keep: int) -> tuple[Indices, F64]:
    """The fewest of the ``keep`` most likely tokens whose probabilities reach ``top_p``."""
    total = None
    if keep > FIRST_CANDIDATES:
        kept = logits if keep == len(logits) else logits[_largest(logits, keep)]
        total = float(_relative_probabilities(kept, logits.max(), params).sum())
    look_at = min(keep, FIRST_CANDIDATES)
    while True:
        ids = _largest(logits, look_at)
        probabilities = _relative_probabilities(logits[ids], logits[ids[0]], params)
        cumulative = probabilities.cumsum()
        needed = params.top_p * (cumulative[-1] if total is None or look_at == keep else total)
        if cumulative[-1] >= needed:
            count = int(cumulative.searchsorted(needed)) + 1
            return _min_p(ids[:count], probabilities[:count], params)
        look_at = min(keep, 8 * look_at)


def _min_p(ids: Indices, probabilities: F64, params: SamplingParams) -> tuple[Indices, F64]:
    if params.min_p == 0.0:
        return ids, probabilities
    # Sorted, so what stays is a prefix; the most likely token always does.
    count = max(1, int(np.count_nonzero(probabilities >= params.min_p * probabilities[0])))
    return ids[:count], probabilities[:count]


def _relative_probabilities(logits: F32, highest: np.float32, params: SamplingParams) -> F64:
    """``exp((logit - highest) / temperature)``: 1 for the most likely token.

    Float64 for sums and comparisons; the exponential itself is float32, as exact as the logits are
    and five times as fast over a whole vocabulary.
    """
    exponents = logits - highest
    if params.temperature != 1.0:
        # Where a small penalty has made large differences, what overflows is as unlikely as can be.
        with np.errstate(over="ignore"):
            exponents /= np.float32(max(params.temperature, SMALLEST_TEMPERATURE))
    probabilities: F64 = np.exp(exponents).astype(np.float64)
    return probabilities


def _largest(logits: F32, count: int) -> Indices:
    """Ids of the ``count`` largest logits, largest first, ties by id."""
    if count <= min(FEW_CANDIDATES, len(logits)):
        rest, few = logits.copy(), []
        for _ in range(count):
            few.append(rest.argmax())
            rest[few[-1]] = -np.inf
        return np.array(few)
    if count < len(logits):
        # Everything above the count-th largest is in, and of those equal to it the lowest ids.
        border = np.partition(logits, len(logits) - count)[len(logits) - count]
        ids = (logits >= border).nonzero()[0]
    else:
        ids = np.arange(len(logits))
    # Stable, and the ids ascend: of equal logits the lowest ids come first.
    largest: Indices = ids[(-logits[ids]).argsort(kind="stable")[:count]]
    return largest
