from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import profile
from bench.profile_report import Bound


@pytest.fixture(autouse=True)
def same_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    # This process is the tests'.
    monkeypatch.setattr(profile.blas, "set_threads", lambda _: None)


def _invoke(*arguments: str) -> str:
    result = CliRunner().invoke(profile.main, ["--repeats", "2", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(("dtype", "widened"), [("f32", False), ("bf16", True)])
def test_the_parts_of_a_decode_step_are_the_whole_step(tiny_model: Path, dtype: str, widened: bool) -> None:
    output = _invoke("-m", str(tiny_model), "--tokens", "3", "--dtype", dtype, "--json")
    figures: dict[str, Any] = json.loads(output)
    assert sum(figures["parts"].values()) == pytest.approx(figures["whole"])
    # Per token: two layers with four products each, and the head; two products of each attention.
    assert figures["calls"]["products of weights"] == 9
    assert figures["calls"]["attention: products"] == 4
    assert (figures["calls"]["bf16 widened for them"] > 0) is widened
    assert all(seconds >= 0 for seconds in figures["parts"].values())
    shares = [bound["share"] for bound in figures["bounds"]]
    assert 1 > shares[0] > shares[1] > 0 and 0 <= shares[2] < 1
    assert figures["undisturbed"] > 0


def test_a_decode_step_is_a_table_with_its_target_and_the_cost_of_measuring(tiny_model: Path) -> None:
    lines = _invoke("-m", str(tiny_model), "--tokens", "3", "--context", "9").splitlines()
    assert lines[0] == f"{tiny_model.name}, f32: one decode step after 9 to 12 tokens"
    assert any("by measuring" in line for line in lines)
    assert not any("target" in line for line in lines)


def test_targets_are_those_of_the_models_that_they_were_set_for(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("chat", "story"):
        shutil.copytree(tiny_model, tmp_path / name)
    assert "(target ≥ 85 %: " in _invoke("-m", str(tmp_path / "chat"), "--tokens", "3")
    assert "(target < 30 %: " in _invoke("-m", str(tmp_path / "story"), "--story", "--tokens", "3")


def test_a_story_says_what_is_spent_outside_the_model(tiny_model: Path) -> None:
    figures = json.loads(_invoke("-m", str(tiny_model), "--story", "--tokens", "5", "--json"))
    parts = figures["parts"]
    assert parts["forward pass"] > 0 and parts["choosing the token"] > 0
    (bound,) = figures["bounds"]
    assert 0 < bound["share"] < 1


def test_a_bound_is_met_or_missed_or_only_told() -> None:
    assert str(Bound("products", 0.9, at_least=0.85)) == "products: 90.0 % (target ≥ 85 %: met)"
    assert str(Bound("outside", 0.3, below=0.3)) == "outside: 30.0 % (target < 30 %: missed)"
    assert str(Bound("products", 0.5)) == "products: 50.0 %"
