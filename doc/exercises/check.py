"""Checks the answers to the exercises of doc/Instructions.md.

    python doc/exercises/check.py              your answers in doc/exercises/answers.py
    python doc/exercises/check.py mine.py      those in another file
    python doc/exercises/check.py -k softmax   one exercise

Each check computes what is right in its own slow way, in float64 and by loops, and compares.
Exit code 0 if nothing is wrong and nothing is missing, 1 otherwise.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import numpy.typing as npt

from lm_core.checkpoint import Checkpoint
from lm_core.config import LlamaConfig
from lm_core.model import Llama

F64 = npt.NDArray[np.float64]
Verdict = Literal["right", "wrong", "not written yet"]

HERE = Path(__file__).resolve().parent
STORY_MODEL = HERE.parents[1] / "models" / "story"


@dataclass(frozen=True)
class Judgement:
    """What a check found.  ``message`` says what was expected."""

    name: str
    verdict: Verdict
    message: str = ""


class Wrong(Exception):
    """An answer is not right; the text says how."""


# -- what is compared ---------------------------------------------------------------------------


def _require(right: bool, message: str) -> None:
    if not right:
        raise Wrong(message)


def _compare(answer: Any, expected: Any, what: str, tolerance: float = 2e-5) -> None:
    """Shapes, then types, then numbers: the first difference is told."""
    expected = np.asarray(expected)
    _require(isinstance(answer, np.ndarray), f"{what}: return a NumPy array, not {type(answer).__name__}")
    _require(
        answer.shape == expected.shape, f"{what}: the shape is {answer.shape}, it should be {expected.shape}"
    )
    _require(answer.dtype == np.float32, f"{what}: the type is {answer.dtype}, it should stay float32")
    _require(bool(np.isfinite(answer).all()), f"{what}: there are numbers that are not finite")
    error = np.abs(answer - expected) - tolerance * np.maximum(1.0, np.abs(expected))
    if (error > 0).any():
        at = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
        raise Wrong(f"{what}: element {at} is {answer[at]:.6g}, it should be {expected[at]:.6g}")


def _random(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _row(*numbers: float) -> npt.NDArray[np.float32]:
    return np.array(numbers, dtype=np.float32)


# -- the exercises ------------------------------------------------------------------------------


def check_softmax(softmax: Any) -> None:
    """Right values, for large numbers too, and the argument as it was."""
    x = _random(1, 3, 5)
    exact = np.exp(x.astype(np.float64))
    kept = x.copy()
    _compare(softmax(x), exact / exact.sum(axis=-1, keepdims=True), "softmax of [3, 5]")
    _require(bool((x == kept).all()), "softmax changes its argument; work on a copy")
    _compare(softmax(_row(1000, 1000, -1000)), [0.5, 0.5, 0], "softmax of large numbers")
    _compare(softmax(_row(0, -np.inf)), [1, 0], "softmax where something is masked by -inf")


def check_rms_norm(rms_norm: Any) -> None:
    """The mean of squares, eps inside the root, every row for itself."""
    for seed, scale in ((2, 1.0), (3, 1e-3)):
        x, weight = _random(seed, 4, 6) * np.float32(scale), _random(seed + 10, 6)
        rows = [
            [float(v) / math.sqrt(sum(float(u) ** 2 for u in row) / len(row) + 1e-5) for v in row]
            for row in x
        ]
        _compare(rms_norm(x, weight, 1e-5), np.array(rows) * weight, f"rms_norm of numbers about {scale:g}")


def _rotated(x: Any, positions: Sequence[int], theta: float) -> F64:
    """Element i and element i + d/2 as one complex number that turns."""
    half = x.shape[-1] // 2
    pairs = x[..., :half].astype(np.float64) + 1j * x[..., half:]
    for row, position in enumerate(positions):
        for i in range(half):
            pairs[row, :, i] *= np.exp(1j * position * theta ** (-2 * i / x.shape[-1]))
    return np.concatenate((pairs.real, pairs.imag), axis=-1)


def check_rotate(rotate: Any) -> None:
    """Pairs (i, i + d/2), the published frequencies, any positions."""
    x = _random(4, 3, 2, 8)
    _compare(rotate(x, [0, 0, 0], 10000.0), x, "position 0 leaves everything where it is; rotate")
    for positions in ([0, 1, 2], [7, 300, 2]):
        expected = _rotated(x, positions, 10000.0)
        _compare(rotate(x, positions, 10000.0), expected, f"rotate at positions {positions}", 1e-4)
    _compare(rotate(x, [1, 2, 3], 500.0), _rotated(x, [1, 2, 3], 500.0), "rotate with theta 500", 1e-4)


def check_swiglu(swiglu: Any) -> None:
    """The gate is the one that is bent, and large gates overflow nothing."""
    gate, up = _random(5, 3, 4), _random(6, 3, 4)
    exact = gate.astype(np.float64) / (1 + np.exp(-gate.astype(np.float64))) * up
    _compare(swiglu(gate, up), exact, "swiglu of [3, 4]")
    with np.errstate(all="ignore"):
        large = swiglu(_row(-1000, 1000)[None], _row(2, 2)[None])
    _compare(large, [[0, 2000]], "swiglu of large gates")


def _attended(query: Any, keys: Any, values: Any) -> F64:
    """One query, one head, one key at a time."""
    T, H, d = query.shape
    S, K, _ = keys.shape
    out = np.zeros((T, H, d))
    for t in range(T):
        for h in range(H):
            k = h // (H // K)
            scores = [
                float(query[t, h].astype(np.float64) @ keys[s, k]) / math.sqrt(d)
                for s in range(S - T + t + 1)
            ]
            powers = [math.exp(score - max(scores)) for score in scores]
            for s, power in enumerate(powers):
                out[t, h] += power / sum(powers) * values[s, k]
    return out.reshape(T, H * d)


def check_attention(attention: Any) -> None:
    """Scaled, causal, with heads that share keys, from the beginning and in the middle."""
    for T, S, H, K in ((1, 1, 2, 2), (4, 4, 2, 2), (1, 6, 4, 2), (3, 7, 6, 2)):
        query, keys, values = _random(7, T, H, 8), _random(8, S, K, 8), _random(9, S, K, 8)
        what = f"attention of {T} of {S} positions, {H} heads over {K}"
        _compare(attention(query, keys, values), _attended(query, keys, values), what)


def check_forward(forward: Any) -> None:
    """The story model's logits, as lm_core computes them."""
    config, checkpoint = LlamaConfig.from_pretrained(STORY_MODEL), Checkpoint.open(STORY_MODEL)
    weights = _float32_weights(checkpoint)
    model = Llama.from_pretrained(STORY_MODEL)
    for token_ids in ([1], [1, 300, 17, 1999, 42, 5, 300]):
        expected = model.forward(token_ids, model.new_cache(), all_positions=True)
        answer = forward(weights, config, token_ids)
        _compare(answer, expected, f"forward of {len(token_ids)} tokens", 1e-3)


def check_cache(cache_class: Any) -> None:
    """What was appended is there, what was cut is not, and what comes after a cut stands in its place."""
    cache = cache_class()
    _require(cache.length == 0, f"an empty cache has length {cache.length}, it should be 0")
    keys, values = _random(10, 200, 2, 4), _random(11, 200, 2, 4)
    for start, stop in ((0, 5), (5, 6), (6, 150)):
        cache.append(keys[start:stop], values[start:stop])
    _require(cache.length == 150, f"after 150 tokens the length is {cache.length}")
    for kept, added in ((150, 0), (100, 0), (100, 20), (1, 50), (0, 3)):
        cache.truncate(kept)
        _require(cache.length == kept, f"after truncate({kept}) the length is {cache.length}")
        if added:
            cache.append(keys[-added:], values[-added:])
        if kept + added:
            seen_keys, seen_values = cache.view()
            for seen, all_ in ((seen_keys, keys), (seen_values, values)):
                expected = np.concatenate((all_[:kept], all_[len(all_) - added :]))
                _require(
                    seen.shape == expected.shape and bool((seen == expected).all()),
                    f"after truncate({kept}) and append of {added}, view() is not what was put in",
                )


def check_choose(choose: Any) -> None:
    """Greedy at temperature 0, cut by top-k, then by top-p, and as often as it is likely."""
    logits = _row(1.0, 3.0, 2.0, -1.0, 2.5)
    _require(int(choose(logits, 0.0, 0, 1.0, 0.99)) == 1, "at temperature 0 the most likely token is chosen")

    def chosen(temperature: float, top_k: int, top_p: float) -> dict[int, float]:
        draws = [int(choose(logits, temperature, top_k, top_p, (i + 0.5) / 4000)) for i in range(4000)]
        return {token: draws.count(token) / 4000 for token in set(draws)}

    for temperature, top_k, top_p in (
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (1.0, 2, 1.0),
        (1.0, 0, 0.6),
        (1.0, 0, 1e-6),
        (2.0, 3, 0.7),
    ):
        powers = np.exp(logits.astype(np.float64) / temperature)
        order = sorted(range(5), key=lambda token: -powers[token])[: top_k or 5]
        total, kept = sum(powers[token] for token in order), []
        for token in order:
            kept.append(token)
            if sum(powers[t] for t in kept) >= top_p * total:
                break
        expected = {token: powers[token] / sum(powers[t] for t in kept) for token in kept}
        found = chosen(temperature, top_k, top_p)
        what = f"temperature {temperature}, top_k {top_k}, top_p {top_p}"
        _require(
            set(found) == set(expected), f"{what}: {set(found)} are chosen, it should be {set(expected)}"
        )
        for token, share in expected.items():
            _require(
                abs(found[token] - share) < 0.01, f"{what}: {token} has {found[token]:.3f}, not {share:.3f}"
            )


def check_uniform(uniform: Any) -> None:
    """A function of its arguments, whatever was asked before, and random."""
    forwards = [float(uniform(7, position)) for position in range(500)]
    backwards = [float(uniform(7, position)) for position in reversed(range(500))][::-1]
    _require(all(0 <= u < 1 for u in forwards), "every number is at least 0 and below 1")
    _require(forwards == backwards, "the number of a position depends on what was asked before it")
    other = [float(uniform(8, position)) for position in range(500)]
    _require(forwards != other, "another seed gives the same numbers")
    for numbers in (forwards, other, [float(uniform(seed, 3)) for seed in range(500)]):
        counts = [sum(i / 10 <= u < (i + 1) / 10 for u in numbers) for i in range(10)]
        _require(
            all(20 <= count <= 90 for count in counts), f"not uniform: 500 numbers in tenths are {counts}"
        )
    together = np.corrcoef(forwards[:-1], forwards[1:])[0, 1]
    _require(abs(together) < 0.2, f"neighbours are alike (correlation {together:.2f})")


def check_reusable(reusable: Any) -> None:
    """The common beginning, but at least one token is left to compute."""
    for cached, wanted, expected in (
        ([], [1], 0),
        ([1, 2], [1, 2, 3], 2),
        ([1, 2, 3], [1, 2, 4, 5], 2),
        ([1, 2, 3], [1, 2, 3], 2),
        ([1, 2, 3, 4], [1, 2], 1),
        ([5, 2], [1, 2], 0),
        ([1], [1], 0),
    ):
        answer = reusable(cached, wanted)
        _require(answer == expected, f"of {cached}, {answer} serve {wanted}; it should be {expected}")


def _float32_weights(checkpoint: Checkpoint) -> dict[str, npt.NDArray[np.float32]]:
    """All arrays by name; bf16 bits are widened."""
    from lm_core.bfloat16 import widen

    arrays = {name: checkpoint[name] for name in checkpoint.tensors}
    return {
        name: widen(array) if array.dtype == np.uint16 else array.astype(np.float32)
        for name, array in arrays.items()
    }


CHECKS: dict[str, Callable[[Any], None]] = {
    "softmax": check_softmax,
    "rms_norm": check_rms_norm,
    "rotate": check_rotate,
    "swiglu": check_swiglu,
    "attention": check_attention,
    "forward": check_forward,
    "Cache": check_cache,
    "choose": check_choose,
    "uniform": check_uniform,
    "reusable": check_reusable,
}


# -- the command --------------------------------------------------------------------------------


def judge(name: str, answer: Any) -> Judgement:
    """What the check of exercise ``name`` says about ``answer``."""
    if answer is None:
        return Judgement(name, "wrong", f"there is no {name} in the file")
    try:
        CHECKS[name](answer)
    except NotImplementedError:
        return Judgement(name, "not written yet")
    except Wrong as wrong:
        return Judgement(name, "wrong", str(wrong))
    # Whatever a learner's function raises is an answer too, and not the end of the other checks.
    except Exception as error:
        return Judgement(name, "wrong", _told(error))
    return Judgement(name, "right")


def _told(error: Exception) -> str:
    """What was raised, and where: in the learner's file rather than in a library that it calls."""
    if isinstance(error, SyntaxError):
        file, line, text = error.filename or "?", error.lineno, error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        last = next(
            (frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1]
        )
        file, line, text = last.filename, last.lineno, str(error)
    return f"{type(error).__name__} in {Path(file).name}, line {line}: {text}"


def load(file: Path) -> Any:
    """The learner's file as a module.

    Raises:
        click.ClickException: Python cannot read it.
    """
    spec = importlib.util.spec_from_file_location("answers", file)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    # As in a check: what a learner's file raises is told, not traced.
    except Exception as error:
        raise click.ClickException(_told(error)) from error
    return module


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=HERE / "answers.py"
)
@click.option("-k", "only", type=click.Choice(list(CHECKS)), help="Check this exercise alone.")
def main(file: Path, only: str | None) -> None:
    """Check the answers in FILE."""
    module = load(file)
    names = list(CHECKS)
    right = True
    for name in [only] if only else names:
        judgement = judge(name, getattr(module, name, None))
        right = right and judgement.verdict == "right"
        message = f": {judgement.message}" if judgement.message else ""
        click.echo(f"{names.index(name) + 1:2}  {name:<10} {judgement.verdict}{message}")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
