"""``lm-models`` as a user meets it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, Repository
from programs import Result, run_program
from shared_files import PROJECT

from lm_models.manifest import manifests


def run(*arguments: str | Path) -> Result:
    return run_program("lm_models", [str(argument) for argument in arguments])


class TestList:
    def test_for_people(self) -> None:
        result = run("list")
        assert (result.code, result.err) == (0, "")
        for name, manifest in manifests().items():
            assert f"{name} " in result.out and f"{manifest.description} (Apache-2.0)" in result.out

    def test_for_machines(self) -> None:
        models = json.loads(run("list", "--json").out)["models"]
        assert [model["name"] for model in models][: len(manifests())] == list(manifests())
        assert all(model.keys() == {"name", "description", "licence", "folder"} for model in models)


class TestPull:
    def test_says_what_it_does_on_stderr_and_the_folder_on_stdout(
        self, hub: Hub, repository: Repository, tmp_path: Path
    ) -> None:
        hub.repositories["someone/tiny"] = repository
        result = run("pull", "someone/tiny", "--to", tmp_path / "tiny")
        assert (result.code, result.out) == (0, f"{tmp_path / 'tiny'}\n")
        assert result.err.startswith("fetching someone/tiny from the Hugging Face hub (someone/tiny)\n")
        assert "model.safetensors: done\n" in result.err
        assert "\x1b" not in result.err
        again = run("pull", "someone/tiny", "--to", tmp_path / "tiny")
        assert (again.code, again.out, again.err) == (0, f"{tmp_path / 'tiny'}\n", "")

    def test_a_terminal_gets_a_bar(self, hub: Hub, repository: Repository, tmp_path: Path) -> None:
        hub.repositories["HuggingFaceTB/SmolLM2-135M-Instruct"] = repository
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "lm_models", "pull", str(tmp_path / "chat")]
        environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
        with subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=slave
        ) as process:
            os.close(slave)
            shown = read_to_the_end(master)
        assert (process.returncode, (tmp_path / "chat" / "config.json").is_file()) == (0, True)
        assert "fetching chat from the Hugging Face hub" in shown
        assert "━━━━━" in shown and "318.0/318.0 kB" in shown

    def test_unknown_name(self, hub: Hub) -> None:
        run("pull", "chatty").assert_one_line_error(
            1, "there is no model 'chatty'; name a folder, a hub id (OWNER/NAME), or one of chat, minueza"
        )
        assert hub.requests == []

    @pytest.mark.usefixtures("no_hub")
    def test_no_network(self, tmp_path: Path) -> None:
        result = run("pull", "minueza-chat", "--to", tmp_path / "a" / "tiny")
        assert result.code == 1
        assert result.err.splitlines()[-1].startswith(
            "lm-models: error: minueza-chat cannot be fetched: the hub cannot be reached ("
        )
        assert list(tmp_path.iterdir()) == []


class TestConvert:
    def test_makes_a_folder_that_is_in_order(self, tiny_gguf: Path, tmp_path: Path) -> None:
        result = run("convert", tiny_gguf, tmp_path / "mine")
        assert (result.code, result.out) == (0, f"{tmp_path / 'mine'}\n")
        assert run("verify", tmp_path / "mine").out.endswith(f"{tmp_path / 'mine'} is in order\n")

    def test_what_is_not_a_gguf_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.gguf").write_text("dear diary")
        run("convert", tmp_path / "x.gguf", tmp_path / "mine").assert_one_line_error(
            1, "x.gguf is damaged, or is not a GGUF file"
        )
        run("convert", tmp_path / "y.gguf", tmp_path / "mine").assert_one_line_error(1, "there is no file")
        assert [entry.name for entry in tmp_path.iterdir()] == ["x.gguf"]


class TestInspect:
    def test_for_machines(self, model: Path) -> None:
        description = json.loads(run("inspect", model, "--json").out)
        assert description == {
            "folder": str(model),
            "source": None,
            "architecture": "LlamaForCausalLM",
            # 269 x 64 of the embedding, and in each layer four projections of attention, three of the
            # feed-forward and two norms; then the last norm.
            "parameters": 269 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64) + 64,
            "bytes": (model / "model.safetensors").stat().st_size,
            "dtypes": ["F32"],
            "layers": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "heads": 4,
            "key_value_heads": 2,
            "head_size": 16,
            "context_length": 128,
            "sliding_window": None,
            "rope": {"type": "default", "theta": 10000.0},
            "tied_embeddings": True,
            "vocabulary": 269,
            "tokens": 269,
            "bos_token_id": 1,
            "end_token_ids": [2],
            "special_tokens": 3,
            "chat_template": True,
        }

    def test_for_people(self, model: Path) -> None:
        lines = run("inspect", model).out.splitlines()
        shown = {line[:18].strip(): line[18:].strip() for line in lines}
        assert shown["parameters"] == "78,976"
        assert shown["bytes"].startswith("318.0 kB (317,9")
        assert (shown["source"], shown["chat template"], shown["sliding window"]) == (
            "not stated",
            "yes",
            "none",
        )
        assert shown["rope"] == "default, theta 10000.0"

    def test_what_is_not_a_model(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("")
        run("inspect", tmp_path).assert_one_line_error(1, "config.json")
        run("inspect", tmp_path / "absent").assert_one_line_error(1, "there is no model")


class TestVerify:
    def test_damage_is_named(self, tiny_gguf: Path, tmp_path: Path) -> None:
        run("convert", tiny_gguf, tmp_path / "mine")
        weights = tmp_path / "mine" / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        result = run("verify", tmp_path / "mine")
        assert (result.code, result.out) == (1, "")
        assert f"{weights} is damaged: its sha256 should be" in result.err.splitlines()[-1]

    def test_a_model_that_is_not_here_is_not_fetched(self, hub: Hub, tmp_path: Path) -> None:
        run("verify", tmp_path / "chat").assert_one_line_error(
            1, "is not here yet; fetch it with: lm-models pull"
        )
        assert hub.requests == []


def test_usage() -> None:
    run().assert_one_line_error(2, "name a command: list, pull, convert, inspect or verify")
    run("push").assert_one_line_error(2, "No such command 'push'")
    result = run("--help")
    assert result.code == 0
    assert all(
        f"lm-models {command}" in result.out for command in ("list", "pull", "convert", "inspect", "verify")
    )
    assert "Exit codes: 0 done" in result.out


def read_to_the_end(terminal: int) -> str:
    data = b""
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:
            # Linux says so when the other side is closed.
            block = b""
        if not block:
            os.close(terminal)
            return data.decode()
        data += block
