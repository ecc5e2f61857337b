"""The whole command over a tiny random model: every row is there, and what is missing is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import history
from bench.cli import main
from bench.engines import PEERS
from bench.model_run import ModelRun
from bench.rows import Row
from bench.settings import Settings
from bench.token_rows import TokenRows
from bench.workers import EngineSpec

PEER_NAMES = ["transformers", "llama.cpp"]
SESSIONS = ["1 session", "2 sessions", "4 sessions", "8 sessions", "16 sessions"]
PERCENTILES = [
    f"{load}, p{share}" for load in ("1 session", "8 sessions", "16 sessions") for share in (50, 95, 99)
]
LABELS = {
    "bandwidth": ["from memory", "from cache"],
    "decode f32": ["rewindlm", *PEER_NAMES, "roofline"],
    "greedy f32": ["rewindlm", *PEER_NAMES],
    "sampled f32": ["rewindlm", *PEER_NAMES],
    "prefill 32 f32": ["rewindlm", *PEER_NAMES],
    "batch f32": SESSIONS,
    "context f32": ["24 tokens"],
    "speculation ordinary f32": ["one by one", "speculating"],
    "speculation repeating f32": ["one by one", "speculating"],
    "rebuild f32": ["rebuild", "generate again"],
    "revert": ["32 tokens"],
    "memory f32": ["rewindlm", *PEER_NAMES, "checkpoint"],
    "prompt-memory f32": ["rewindlm", "checkpoint"],
    "cold-start": ["rewindlm", "transformers"],
    "server": SESSIONS,
    "server-decode": SESSIONS,
    "server-memory": ["chat-server", "its packages", "checkpoint"],
    "first-token": PERCENTILES,
    "between-tokens": PERCENTILES,
    "ready": ["chat-server"],
    "overload": ["429, half of them", "429, the last", "/health, the slowest"],
}
ONCE = ["prompt-memory f32", "server-memory"]
MAYBE = "server-decode"
"""Answers of 16 tokens need not all be under way at once; then the line says so."""


@pytest.fixture(scope="module")
def figures(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    arguments = ["-m", str(tiny_model), "--no-peers", "--repeats", "2", "--seconds", "0", "--threads", "1"]
    result = CliRunner().invoke(main, [*arguments, "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


def _rows(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in figures["models"][0]["rows"]}


@pytest.mark.soak
def test_every_row_is_in_the_json_with_its_lines(figures: dict[str, Any]) -> None:
    assert {key: [line["label"] for line in row["lines"]] for key, row in _rows(figures).items()} == LABELS


@pytest.mark.soak
def test_every_own_line_has_as_many_positive_samples_as_repeats(figures: dict[str, Any]) -> None:
    for key, row in _rows(figures).items():
        for line in row["lines"]:
            if line["label"] not in (*PEER_NAMES, "checkpoint") and not (
                key == MAYBE and line.get("absence")
            ):
                assert len(line["samples"]) == (1 if key in ONCE else 2), (key, line)
                assert min(line["samples"]) > 0, (key, line)


@pytest.mark.soak
def test_peers_that_were_left_out_are_lines_that_say_so(figures: dict[str, Any]) -> None:
    absences = [
        line["absence"]
        for row in _rows(figures).values()
        for line in row["lines"]
        if line["label"] in PEER_NAMES
    ]
    assert absences == ["--no-peers"] * 11


@pytest.mark.soak
def test_machine_settings_and_facts_are_told(figures: dict[str, Any], tiny_model: Path) -> None:
    assert figures["settings"] == {"repeats": 2, "seconds": 0.0, "threads": 1, "peers": False}
    assert figures["machine"]["threads"] == 1
    assert figures["machine"]["packages"]["numpy"]
    facts = figures["models"][0]["facts"]["f32"]
    # Two layers of two key-value heads of 16 float32 numbers, keys and values.
    assert facts["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    assert facts["checkpoint_bytes"] == (tiny_model / "model.safetensors").stat().st_size
    assert "1 threads" in facts["blas"]


@pytest.mark.soak
def test_decode_says_what_one_token_reads(figures: dict[str, Any]) -> None:
    facts = figures["models"][0]["facts"]["f32"]
    # 32 tokens are decoded after 16, so the cache holds 32 of them on average.
    expected = facts["weight_bytes"] + 32 * facts["kv_bytes_per_token"]
    assert _rows(figures)["decode f32"]["details"] == {"bytes_per_token": expected, "roofline_from": "cache"}


def test_a_peer_that_is_not_installed_is_reported_and_nothing_fails(tiny_model: Path) -> None:
    peer = EngineSpec("absent", "bench.absent_peer", requires=("a_package_nobody_has",))
    run = ModelRun(tiny_model, Settings(repeats=1, seconds=0.0, peers=(peer,)))
    (row,) = run.rows(["decode"])
    assert [line.label for line in row.lines] == ["rewindlm", "absent", "roofline"]
    assert row.lines[1].absence == "not installed (a_package_nobody_has)"
    assert row.lines[0].median


def test_a_peer_that_does_not_start_is_reported_and_nothing_fails(tiny_model: Path) -> None:
    peer = EngineSpec("broken", "bench.no_such_module")
    run = ModelRun(tiny_model, Settings(repeats=1, seconds=0.0, peers=(peer,)))
    (row,) = run.rows(["decode"])
    assert row.lines[1].absence.startswith("failed: broken ended:")
    assert row.lines[0].median


def test_a_folder_that_is_no_model_ends_the_run_with_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["-m", str(tmp_path), "--only", "decode"])
    assert result.exit_code == 1
    assert "has no model.safetensors" in result.output and "Traceback" not in result.output


def test_an_interrupted_run_reports_what_it_has(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: TokenRows) -> Row:
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenRows, "greedy", interrupt)
    files = ["--json", str(tmp_path / "figures.json"), "--history", str(tmp_path / "runs.jsonl")]
    arguments = ["-m", str(tiny_model), "--no-peers", "--repeats", "1", "--seconds", "0", *files]
    result = CliRunner().invoke(main, [*arguments, "--only", "decode", "--only", "greedy"])
    assert result.exit_code == 130
    assert "decode 32 tokens after 16, f32" in result.output
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert list(_rows(figures)) == ["decode f32"]
    (run,) = history.read(tmp_path / "runs.jsonl")
    assert list(run["models"][tiny_model.name]) == ["decode f32"]


@pytest.mark.parity
def test_transformers_takes_part_in_every_row_of_peers(tiny_model: Path) -> None:
    run = ModelRun(tiny_model, Settings(repeats=1, seconds=0.0, peers=PEERS[:1]))
    rows = {
        row.key: row for row in run.rows(["decode", "greedy", "sampled", "prefill", "memory", "cold-start"])
    }
    # The memory that a long prompt takes is this engine's own affair.
    assert all(line.label != "transformers" for line in rows.pop("prompt-memory f32").lines)
    assert len(rows) == 6
    for row in rows.values():
        peer = next(line for line in row.lines if line.label == "transformers")
        assert peer.median and row.ratio(peer), (row.key, peer.absence)
