"""``chat-revert --server``: the proof over HTTP, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from chat_server_process import ServerProcess
from programs import run_program
from shared_files import story_model

from chat_cli.client import ChatClient
from chat_cli.records import Sampling, SessionInfo
from chat_revert.remote_scene import play_on_server

# Bold, so that another context or another random number is another answer.
BOLD = Sampling(max_tokens=20, temperature=1.5, top_k=0, top_p=1.0, seed=5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    database = tmp_path_factory.mktemp("server") / "chat.sqlite"
    process = ServerProcess(story_model(), database, "--chat-template", "plain")
    yield process
    process.stop()


def test_proves_it_over_http_and_leaves_nothing_behind(server: ServerProcess) -> None:
    result = run_program("chat_revert", ["--server", server.url, "-n", "20"])
    assert result.code == 0, result.err
    assert result.out.index("correct PROMPT after") < result.out.index("Proof:")
    assert result.out.splitlines()[-1].startswith("Proved: ")
    report = json.loads(run_program("chat_revert", ["--server", server.url, "-n", "20", "--json"]).out)
    assert [check["name"] for check in report["proof"]] == ["turns", "tokens", "next answer"]
    with ChatClient(server.url) as client:
        assert client.sessions() == []


def test_a_server_that_does_not_revert_is_found(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def do_nothing(self: ChatClient, session_id: str, turn: int) -> SessionInfo:  # noqa: ARG001
        return self.history(session_id).session

    monkeypatch.setattr(ChatClient, "revert", do_nothing)
    with ChatClient(server.url) as client:
        proof = play_on_server(client, BOLD)
    assert not proof.holds
    assert [check.name for check in proof.checks if not check.equal] == ["turns", "tokens", "next answer"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--server", "http://127.0.0.1:1"], 1, ["no server answers"]),
        (["--server", "nonsense"], 2, ["http://127.0.0.1:8000"]),
        (["--server", "http://127.0.0.1:1", "-m", "models/chat"], 2, ["--model-dir", "--server"]),
        (["--server", "http://127.0.0.1:1", "--turns", "3"], 2, ["--turns", "--server"]),
        (["--api-key", "x"], 2, ["--api-key", "--server"]),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], code: int, words: list[str]) -> None:
    result = run_program("chat_revert", arguments)
    assert result.code == code and result.out == "" and "Traceback" not in result.err
    error = result.err.splitlines()[-1]
    assert error.startswith("chat-revert: error: ") and all(word in error for word in words), error
