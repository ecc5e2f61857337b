"""Questions from arguments, pipes and files, for scripts."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys

import pytest
from chat_clients import SHORT, ChatServer, run_client
from programs import run_program
from shared_files import PROJECT

from chat_cli.display import JsonDisplay


def test_one_question_prints_the_answer_alone(server: ChatServer, session_id: str) -> None:
    result = run_client(server, ["--id", session_id, *SHORT, "Are apples red?"])
    assert (result.code, result.err) == (0, "")
    with server.client() as client:
        (turn,) = client.history(session_id).turns
    assert result.out == turn.assistant.strip() + "\n"


def test_a_pipe_prints_the_transcript(server: ChatServer, session_id: str) -> None:
    result = run_client(server, ["--id", session_id, *SHORT], 'One\n\n"""Two\nlines"""\n:exit\nnot read\n')
    with server.client() as client:
        first, second = client.history(session_id).turns
    assert (second.user, result.code, result.err) == ("Two\nlines", 0, "")
    assert result.out == (
        f"You(0)> One\nAssistant: {first.assistant.strip()}\n"
        f"You(1)> Two\nlines\nAssistant: {second.assistant.strip()}\n"
        "You(2)> :exit\n"
    )


def test_json_is_one_object_a_line(server: ChatServer, session_id: str) -> None:
    result = run_client(
        server, ["--id", session_id, "--json", *SHORT], "One\n:revert_to x\n:history\n:fork /\n"
    )
    turn, refused, history, error = map(json.loads, result.out.splitlines())
    assert turn["turn"] == 0 and turn["usage"]["completion_tokens"] <= 12 and turn["request_id"]
    assert refused == {"system": "Invalid ith: should be of u64"}
    assert history["turns"][0]["assistant"] == turn["content"]
    assert "id" in error["error"] and result.code == 1


def test_a_question_may_come_whole_from_stdin(server: ChatServer, session_id: str) -> None:
    run_client(server, ["--id", session_id, *SHORT, "-"], "One\n:two\n")
    with server.client() as client:
        assert [turn.user for turn in client.history(session_id).turns] == ["One\n:two"]


def test_stats_of_one_question_go_to_stderr(server: ChatServer, session_id: str) -> None:
    result = run_client(server, ["--id", session_id, *SHORT, "--stats", "One"])
    assert re.fullmatch(r"\d+ tokens at [\d.]+ tokens/s, after a prompt of .*\n", result.err)


def test_sampling_options_are_those_of_the_request(server: ChatServer, session_id: str) -> None:
    run_client(server, ["--id", session_id, "-n", "3", "One"])
    environment = {"CHAT_CLI_ID": session_id, "CHAT_CLI_URL": server.url, "CHAT_CLI_MAX_TOKENS": "2"}
    two = run_program("chat_cli", ["Two"], environment={**environment, "CHAT_CLI_JSON": "1"})
    assert json.loads(two.out)["turn"] == 1
    with server.client() as client:
        assert [turn.usage.completion_tokens for turn in client.history(session_id).turns] == [3, 2]


def test_no_control_sequence_in_a_pipe(server: ChatServer, session_id: str) -> None:
    result = run_client(server, ["--id", session_id, *SHORT], "\x1b[31mred\x07\n:history\n:help\n")
    assert "You: [31mred" in result.out and "\x1b" not in result.out + result.err and "\x07" not in result.out


def test_json_holds_nothing_that_a_terminal_or_a_reader_of_lines_acts_on() -> None:
    """JSON allows C1 controls, which terminals obey, and the line breaks that only Unicode knows."""
    out = io.StringIO()
    text = "\x1b[31m \x9b2J \x7f \x85 \u2028 \u2029 你好"
    JsonDisplay(out).system(text)
    (line,) = out.getvalue().splitlines()
    assert json.loads(line) == {"system": text} and "你好" in line
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)


def test_a_byte_order_mark_is_no_part_of_the_first_line(server: ChatServer, session_id: str) -> None:
    run_client(server, ["--id", session_id, *SHORT], "\ufeffOne\r\n:history\r\n\ufeffTwo\r\n")
    run_client(server, ["--id", session_id, *SHORT, "-"], "\ufeffThree\r\n")
    with server.client() as client:
        questions = [turn.user for turn in client.history(session_id).turns]
    assert questions == ["One", "\ufeffTwo", "Three"]


@pytest.mark.parametrize("options", [[], ["One"], ["--json"]])
def test_a_reader_that_has_gone_ends_the_client_without_a_word(
    server: ChatServer, session_id: str, options: list[str]
) -> None:
    run_client(server, ["--id", session_id, *SHORT, "Before"])
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        ended = subprocess.run(
            [sys.executable, "-m", "chat_cli", "-u", server.url, "--id", session_id, *SHORT, *options],
            input=b"One\nTwo\nThree\n",
            stdout=out,
            stderr=subprocess.PIPE,
            cwd=PROJECT,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, b"")
    with server.client() as client:
        assert len(client.history(session_id).turns) <= 2


def test_closed_streams_are_empty_ones(server: ChatServer, session_id: str) -> None:
    command = f"{sys.executable} -m chat_cli -u {server.url} --id {session_id} {' '.join(SHORT)}"
    for redirections in ("<&-", '"One" >&-', '"Two" <&- >&- 2>&-'):
        ended = subprocess.run(
            ["sh", "-c", f"{command} {redirections}"], capture_output=True, cwd=PROJECT, check=False
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b""), redirections
    with server.client() as client:
        assert [turn.user for turn in client.history(session_id).turns] == ["One", "Two"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([""], 2, ["the question is empty"]),
        ([" \n"], 2, ["the question is empty"]),
        (["-"], 2, ["the question is empty"]),
        (["-u", "http://..", "x"], 2, ["http://.."]),
        (["-u", "http://host?x=1", "x"], 2, ["http://host?x=1"]),
        (["-u", "localhost:8000", "x"], 2, ["http://127.0.0.1:8000"]),
        (["-u", "ftp://a", "x"], 2, ["ftp://a"]),
        (["-u", "http://host:port", "x"], 2, ["http://host:port"]),
        (["--api-key", "two words", "x"], 2, ["key"]),
        (["--id", "", "x"], 2, ["--id"]),
        (["-t", "nan", "x"], 2, ["temperature"]),
        (["-t", "101", "x"], 1, ["temperature"]),
        (["-k", "-1", "x"], 1, ["top_k"]),
        (["-n", "0", "x"], 2, ["--max-tokens"]),
        (["--timeout", "0", "x"], 2, ["--timeout"]),
        (["--id", "a b", "x"], 1, ["id"]),
        (["--no-such-option"], 2, ["--no-such-option"]),
        (["word " * 20_000], 1, ["context"]),
    ],
)
def test_bad_input_is_one_clear_line(
    server: ChatServer, session_id: str, arguments: list[str], code: int, words: list[str]
) -> None:
    run_client(server, ["--id", session_id, *arguments]).assert_one_line_error(code, *words)


def test_stdin_that_is_not_utf_8_is_one_clear_line(server: ChatServer, session_id: str) -> None:
    result = run_client(server, ["--id", session_id, *SHORT], b"One\n\xff\xfe\n")
    assert result.code == 2 and result.err.count("\n") == 1 and "line 2 of stdin" in result.err
    open_quotes = run_client(server, ["--id", session_id], '"""never closed\n')
    assert open_quotes.code == 2 and '"""' in open_quotes.err


def test_another_system_message_than_the_sessions_is_refused(server: ChatServer, session_id: str) -> None:
    run_client(server, ["--id", session_id, "--system", "Be kind.", *SHORT, "One"])
    again = run_client(server, ["--id", session_id, "--system", "Be kind.", *SHORT, "Two"])
    assert again.code == 0
    for arguments, stdin in ((["Three"], ""), ([], "Three\n")):
        other = run_client(server, ["--id", session_id, "--system", "Be rude.", *arguments], stdin)
        other.assert_one_line_error(1, session_id, "another system message")
    with server.client() as client:
        assert [turn.user for turn in client.history(session_id).turns] == ["One", "Two"]


def test_help_has_examples_and_version_is_the_distributions() -> None:
    help_text = run_program("chat_cli", ["--help"])
    assert help_text.code == 0 and "Examples:" in help_text.out and "Exit codes:" in help_text.out
    assert re.fullmatch(r"chat-cli \d+\.\d+\.\d+\n", run_program("chat_cli", ["--version"]).out)
