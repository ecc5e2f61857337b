from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from bench import history, plots, report
from bench.rows import Line, Reference, Row
from bench.samples import Samples


def _figures(ours: float) -> dict[str, Any]:
    lines = (
        Line("rewindlm", Samples((ours,))),
        Line("transformers", Samples((50.0,))),
        Line("llama.cpp", absence="not installed (llama_cpp)"),
        Line("original", reference=Reference("original", 25.0, "elsewhere")),
    )
    row = Row("decode f32", "decode", "tokens/s", True, lines)
    return report.document({"cpu": "a"}, {"repeats": 1}, {"story": ({}, [row])})


def test_each_run_adds_a_line_with_medians_and_ratios(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    history.append(file, _figures(100.0))
    history.append(file, _figures(150.0))
    first, second = history.read(file)
    assert first["models"]["story"]["decode f32"] == {
        "rewindlm": {"median": 100.0, "ratio": None},
        "transformers": {"median": 50.0, "ratio": 2.0},
        "original": {"median": 25.0, "ratio": 4.0},
    }
    assert second["models"]["story"]["decode f32"]["transformers"]["ratio"] == 3.0
    assert second["machine"] == {"cpu": "a"} and second["time"].endswith("+00:00")


def test_a_damaged_history_is_refused_by_line(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    history.append(file, _figures(100.0))
    with file.open("a", encoding="utf-8") as stream:
        stream.write("half a li")
    with pytest.raises(click.ClickException, match="line 2 of .*runs.jsonl is not a run"):
        history.read(file)


def test_a_run_and_its_history_become_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "runs.jsonl"
    history.append(file, _figures(100.0))
    only_peers = plots.draw(tmp_path / "one", _figures(150.0), history.read(file))
    assert [drawn.name for drawn in only_peers] == ["story-peers.png"]
    history.append(file, _figures(150.0))
    both = plots.draw(tmp_path / "two", _figures(150.0), history.read(file))
    assert [drawn.name for drawn in both] == ["story-peers.png", "story-history.png"]
    for drawn in both:
        assert drawn.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(click.ClickException, match="plots need matplotlib; install it"):
        plots.check_installed()
