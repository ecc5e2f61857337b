"""The exercises' checks: the product passes them, typical mistakes do not, the empty file is told as such."""

# ruff: noqa: ARG005 - mistakes ignore what they should use

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.llama import ReferenceLlama
from shared_files import PROJECT, story_model

from lm_core import ops
from lm_core.config import LlamaConfig
from lm_core.kv_cache import KVCache
from lm_core.sampler import Sampler, SamplingParams, candidates

EXERCISES = PROJECT / "doc" / "exercises"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("check_exercises", EXERCISES / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check = _load()


# -- right answers: the product's own functions -------------------------------------------------


def rotate(x: Any, positions: Any, theta: float) -> Any:
    angles = np.asarray(positions)[:, None] * theta ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1])
    factors = ops.rotary_factors(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    return ops.apply_rotary(x, *factors)


def attention(query: Any, keys: Any, values: Any) -> Any:
    return ops.causal_attention(query, keys.swapaxes(0, 1), values.swapaxes(0, 1))


def forward(weights: Any, config: LlamaConfig, token_ids: Any) -> Any:
    # The product is what the check compares with, so the answer comes from the tests' float64 model.
    return ReferenceLlama(config, weights).forward(token_ids).astype(np.float32)


class Cache:
    """The product's cache, with one layer of two heads of four."""

    def __init__(self) -> None:
        fields = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
        settings = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8}
        more = {"rms_norm_eps": 1e-5, "max_position_embeddings": 512, "num_key_value_heads": 2}
        self._cache = KVCache(LlamaConfig.from_dict({**fields, **settings, **more}))

    @property
    def length(self) -> int:
        return self._cache.length

    def append(self, keys: Any, values: Any) -> None:
        self._cache.reserve(self.length + len(keys))
        self._cache.write(0, self.length, keys, values)
        self._cache.advance(len(keys))

    def view(self) -> Any:
        keys, values = self._cache.view(0, 0, self.length)
        return keys.swapaxes(0, 1), values.swapaxes(0, 1)

    def truncate(self, length: int) -> None:
        self._cache.truncate(length)


def choose(logits: Any, temperature: float, top_k: int, top_p: float, uniform: float) -> int:
    params = SamplingParams(temperature, top_k, top_p)
    if params.greedy:
        return Sampler(params).sample(logits, [])
    ids, probabilities = candidates(logits, params)
    cumulative = probabilities.cumsum()
    return int(ids[cumulative.searchsorted(uniform * cumulative[-1], side="right")])


def uniform(seed: int, position: int) -> float:
    return Sampler(SamplingParams(seed=seed)).uniform(position)


def reusable(cached: Any, wanted: Any) -> int:
    common = 0
    while common < min(len(cached), len(wanted) - 1) and cached[common] == wanted[common]:
        common += 1
    return common


RIGHT = {
    "softmax": ops.softmax,
    "rms_norm": ops.rms_norm,
    "rotate": rotate,
    "swiglu": lambda gate, up: ops.swiglu(np.concatenate((gate, up), axis=-1)),
    "attention": attention,
    "forward": forward,
    "Cache": Cache,
    "choose": choose,
    "uniform": uniform,
    "reusable": reusable,
}


@pytest.mark.parametrize("name", check.CHECKS)
def test_the_product_passes(name: str) -> None:
    story_model()
    assert check.judge(name, RIGHT[name]) == check.Judgement(name, "right")


# -- wrong answers: mistakes that one makes -----------------------------------------------------


def _plain_softmax(x: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def _softmax_in_place(x: Any) -> Any:
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def _interleaved(x: Any, positions: Any, theta: float) -> Any:
    order = np.concatenate((np.arange(0, x.shape[-1], 2), np.arange(1, x.shape[-1], 2)))
    turned = rotate(x[..., order], positions, theta)
    return turned[..., np.argsort(order)]


def _wrong_heads(query: Any, keys: Any, values: Any) -> Any:
    repeats = query.shape[1] // keys.shape[1]
    return attention(query, np.tile(keys, (1, repeats, 1)), np.tile(values, (1, repeats, 1)))


def _all_positions(query: Any, keys: Any, values: Any) -> Any:
    rows = [attention(query[t : t + 1], keys, values) for t in range(len(query))]
    return np.concatenate(rows)


def _without_mask_of_the_past(query: Any, keys: Any, values: Any) -> Any:
    T = len(query)
    return np.concatenate([attention(query[t : t + 1], keys[: t + 1], values[: t + 1]) for t in range(T)])


class _CutsOneTooMany(Cache):
    def truncate(self, length: int) -> None:
        super().truncate(max(0, length - 1))


class _NeverCuts(Cache):
    def truncate(self, length: int) -> None:
        """Forgets nothing."""


class _AppendsAtTheOldEnd(Cache):
    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []
        self._cut = 0

    @property
    def length(self) -> int:
        return self._cut

    def append(self, keys: Any, values: Any) -> None:
        self._kept += list(zip(keys, values, strict=True))
        self._cut += len(keys)

    def view(self) -> Any:
        kept = self._kept[: self._cut]
        return np.stack([k for k, _ in kept]), np.stack([v for _, v in kept])

    def truncate(self, length: int) -> None:
        self._cut = length


class _Stateful:
    def __init__(self) -> None:
        self.random = np.random.default_rng(1)

    def __call__(self, seed: int, position: int) -> float:  # noqa: ARG002
        return float(self.random.random())


WRONG: list[tuple[str, Any, str]] = [
    ("softmax", _plain_softmax, "finite"),
    ("softmax", _softmax_in_place, "argument"),
    ("softmax", lambda x: ops.softmax(x).astype(np.float64), "float32"),
    ("softmax", lambda x: ops.softmax(x.T).T, "element"),
    ("rms_norm", lambda x, weight, eps: ops.rms_norm(x - x.mean(-1, keepdims=True), weight, eps), "element"),
    ("rms_norm", lambda x, weight, eps: ops.rms_norm(x, weight, 0.0), "element"),
    ("rms_norm", lambda x, weight, eps: ops.rms_norm(x, weight, eps)[0], "shape"),
    ("rotate", _interleaved, "element"),
    ("rotate", lambda x, positions, theta: rotate(x, [-p for p in positions], theta), "element"),
    ("rotate", lambda x, positions, theta: rotate(x, positions, 10000.0), "theta"),
    ("rotate", lambda x, positions, theta: rotate(x, [0, 1, 2], theta), "position"),
    ("swiglu", lambda gate, up: RIGHT["swiglu"](up, gate), "element"),
    ("swiglu", lambda gate, up: gate * up, "element"),
    ("attention", _wrong_heads, "heads"),
    ("attention", _all_positions, "element"),
    ("attention", _without_mask_of_the_past, "element"),
    ("attention", lambda query, keys, values: attention(query * 2, keys, values), "element"),
    ("forward", lambda weights, config, ids: forward(weights, config, ids)[-1:], "shape"),
    ("forward", lambda weights, config, ids: forward(weights, config, ids[::-1]), "element"),
    ("Cache", _CutsOneTooMany, "truncate(150)"),
    ("Cache", _NeverCuts, "truncate(100)"),
    ("Cache", _AppendsAtTheOldEnd, "append"),
    ("choose", lambda logits, t, k, p, u: choose(logits, t, k, 1.0, u), "top_p"),
    ("choose", lambda logits, t, k, p, u: choose(logits, t, 0, p, u), "top_k"),
    ("choose", lambda logits, t, k, p, u: choose(logits, 1.0, k, p, u), "temperature"),
    ("choose", lambda logits, t, k, p, u: int(logits.argmax()), "chosen"),
    ("uniform", _Stateful(), "asked before"),
    ("uniform", lambda seed, position: uniform(0, position), "seed"),
    ("uniform", lambda seed, position: (seed + position) % 10 / 10, "alike"),
    ("uniform", lambda seed, position: uniform(seed, position) / 2, "uniform"),
    ("uniform", lambda seed, position: uniform(seed, position) + 0.5, "below 1"),
    ("reusable", lambda cached, wanted: reusable(cached, [*wanted, 0]), "should be 2"),
    ("reusable", lambda cached, wanted: min(len(cached), len(wanted) - 1), "should be"),
    ("reusable", lambda cached, wanted: 0, "should be"),
    ("softmax", lambda x: 1 / 0, "ZeroDivisionError in test_exercises.py"),
    ("softmax", None, "there is no softmax in the file"),
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "answer", "words"), WRONG)
def test_a_mistake_is_found_and_named(name: str, answer: Any, words: str) -> None:
    story_model()
    judgement = check.judge(name, answer)
    assert judgement.verdict == "wrong" and words in judgement.message, judgement


def test_every_check_has_right_and_wrong_answers_and_a_place_in_both_guides() -> None:
    assert set(RIGHT) == {name for name, _, _ in WRONG} == set(check.CHECKS)
    template = (EXERCISES / "answers.py").read_text(encoding="utf-8")
    for number, name in enumerate(check.CHECKS, 1):
        assert f'"""{number}. ' in template and f" {name}" in template
        for guide in ("Instructions.md", "Instructions.zh.md"):
            text = (PROJECT / "doc" / guide).read_text(encoding="utf-8")
            assert f"{number}" in text and f"`{name}`" in text, (guide, name)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "doc/exercises/check.py", *map(str, arguments)]
    environment = {"PYTHONPATH": str(PROJECT), "PATH": ""}
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


def test_the_command_tells_what_is_not_written_yet() -> None:
    result = run()
    lines = result.stdout.splitlines()
    assert result.returncode == 1 and len(lines) == len(check.CHECKS)
    assert all(line.endswith("not written yet") for line in lines), result.stdout + result.stderr


def test_the_command_checks_another_file_and_one_exercise(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("from lm_core.ops import softmax, rms_norm\ndef swiglu(gate, up): return gate\n")
    assert run(mine, "-k", "softmax").stdout == " 1  softmax    right\n"
    assert run(mine, "-k", "softmax").returncode == 0
    everything = run(mine)
    assert everything.returncode == 1
    assert " 2  rms_norm   right" in everything.stdout and " 4  swiglu     wrong: " in everything.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def softmax(x)\n    return x\n", "Error: SyntaxError in mine.py, line 1: expected ':'\n"),
        ("import numpy\nnumpy.nothing\n", "Error: AttributeError in mine.py, line 2: module 'numpy' has no"),
    ],
)
def test_a_file_that_python_cannot_read_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(text)
    result = run(mine)
    assert (result.returncode, result.stdout) == (1, "") and result.stderr.count("\n") == 1
    assert result.stderr.startswith(told), result.stderr
