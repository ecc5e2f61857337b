"""The commands, each against what the server then has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_clients import SHORT, ChatServer, Open, run_client

from chat_cli import transcript
from chat_cli.records import History, Sampling
from lm_core.errors import InvalidParameter

FEW = Sampling(max_tokens=4, temperature=0.0)


@pytest.fixture
def three_turns(server: ChatServer, session_id: str) -> list[str]:
    """The answers of a session in which three questions were asked."""
    with server.client() as client:
        client.create_session(session_id)
        return [client.generate(session_id, question, FEW).content for question in ("One", "Two", "Three")]


def say(server: ChatServer, session_id: str, *lines: str, code: int = 0) -> list[str]:
    """What is printed after each line of a pipe, without the lines themselves."""
    result = run_client(server, ["--id", session_id, *SHORT], "\n".join(lines))
    assert result.code == code, result.err
    printed = result.out.splitlines() + result.err.splitlines()
    return [line for line in printed if not line.startswith(("You(", "System: Session "))]


def questions(server: ChatServer, session_id: str) -> list[str]:
    with server.client() as client:
        return [turn.user for turn in client.history(session_id).turns]


@pytest.mark.usefixtures("three_turns")
def test_revert_to_goes_back_to_before_a_question(server: ChatServer, session_id: str) -> None:
    shown = say(server, session_id, ":revert_to 1")
    assert shown == ["System: Reverted to the state before 1th generation"]
    assert questions(server, session_id) == ["One"]


@pytest.mark.usefixtures("three_turns")
def test_a_bad_number_changes_nothing(server: ChatServer, session_id: str) -> None:
    words = ["", " -1", " one", " 1.0", " 18446744073709551616", " " + "9" * 5000, " ١"]
    assert say(server, session_id, *(f":revert_to{word}" for word in words)) == [
        "System: Invalid ith: should be of u64"
    ] * len(words)
    numbers = ["3", "4", "18446744073709551615"]
    assert say(server, session_id, *(f":revert_to {number}" for number in numbers)) == [
        "System: Invalid ith: out of range"
    ] * len(numbers)
    assert questions(server, session_id) == ["One", "Two", "Three"]


@pytest.mark.usefixtures("three_turns")
def test_undo_takes_back_one_question_at_a_time_and_then_says_so(server: ChatServer, session_id: str) -> None:
    shown = say(server, session_id, ":undo", ":UNDO", ": undo", ":undo")
    assert shown == [
        "System: Reverted to the state before 2th generation",
        "System: Reverted to the state before 1th generation",
        "System: Reverted to the state before 0th generation",
        "System: There is nothing to undo",
    ]
    assert questions(server, session_id) == []


def test_regen_asks_the_last_question_again(
    server: ChatServer, session_id: str, three_turns: list[str]
) -> None:
    say(server, session_id, ":regen")
    with server.client() as client:
        turns = client.history(session_id).turns
    assert [turn.user for turn in turns] == ["One", "Two", "Three"]
    # The client asks for longer answers than the fixture: the first two are as they were.
    assert [turn.assistant for turn in turns][:2] == three_turns[:2]
    assert turns[2].usage.completion_tokens > FEW.fields()["max_tokens"]


@pytest.mark.usefixtures("three_turns")
def test_edit_replaces_the_last_question(server: ChatServer, session_id: str) -> None:
    say(server, session_id, ":edit Another one")
    assert questions(server, session_id) == ["One", "Two", "Another one"]
    assert say(server, session_id, ":edit") == ["System: Say it in the same line: :edit TEXT"]
    assert questions(server, session_id) == ["One", "Two", "Another one"]


@pytest.mark.usefixtures("three_turns")
def test_edit_on_a_terminal_starts_from_the_old_words(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *SHORT, turns=3)
    terminal.enter(":edit")
    terminal.wait(lambda: terminal.last_line == "You(2)> Three", "the old question")
    terminal.say(" apples", turns=3)
    assert questions(server, session_id) == ["One", "Two", "Three apples"]
    terminal.enter(":edit")
    terminal.wait(lambda: terminal.last_line == "You(2)> Three apples", "the old question")
    terminal.interrupt()
    terminal.say("", turns=3)
    assert "System: Nothing is changed" in terminal.lines
    assert questions(server, session_id) == ["One", "Two", "Three apples"]


def test_there_may_be_no_question_to_edit_or_to_ask_again(server: ChatServer, session_id: str) -> None:
    assert say(server, session_id, ":edit x", ":regen") == [
        "System: There is no question to edit",
        "System: There is no question to ask again",
    ]
    assert questions(server, session_id) == []


def test_fork_copies_and_switch_goes_there(
    server: ChatServer, session_id: str, three_turns: list[str]
) -> None:
    shown = say(
        server,
        session_id,
        f":fork {session_id}-now",
        f":fork {session_id}-then 1",
        f":switch {session_id}-then",
        "Elsewhere",
        f":switch {session_id}",
        ":undo",
    )
    assert shown[:2] == [
        f"System: Forked {session_id}-now with 3 questions; :switch {session_id}-now goes there",
        f"System: Forked {session_id}-then with 1 question; :switch {session_id}-then goes there",
    ]
    assert questions(server, f"{session_id}-now") == ["One", "Two", "Three"]
    assert questions(server, f"{session_id}-then") == ["One", "Elsewhere"]
    assert questions(server, session_id) == ["One", "Two"]
    with server.client() as client:
        assert [turn.assistant for turn in client.history(f"{session_id}-now").turns] == three_turns


@pytest.mark.usefixtures("three_turns")
def test_what_the_server_refuses_is_one_line_and_the_next_command_works(
    server: ChatServer, session_id: str
) -> None:
    script = [
        f":fork {session_id}",
        f":fork {session_id}-x 4",
        ":fork x y",
        ":fork",
        ":switch no/id",
        ":undo",
    ]
    result = run_client(server, ["--id", session_id], "\n".join(script))
    assert result.code == 1
    taken, range_, bad_id = result.err.splitlines()
    assert "already" in taken and "3 turns" in range_ and "id" in bad_id
    assert "System: Invalid ith: should be of u64" in result.out
    assert "System: Say it like this: :fork NEWID [i]" in result.out
    assert questions(server, session_id) == ["One", "Two"]


def test_switch_begins_a_session_that_is_not_there(server: ChatServer, session_id: str) -> None:
    shown = say(server, session_id, f":switch {session_id}-new", "Hello")
    result = run_client(server, ["--id", session_id], f":switch {session_id}-new")
    assert shown[0].startswith("Assistant: ") and f"Session {session_id}-new, 1 question" in result.out
    assert questions(server, f"{session_id}-new") == ["Hello"]


@pytest.mark.usefixtures("three_turns")
def test_sessions_lists_them_and_marks_the_present_one(server: ChatServer, session_id: str) -> None:
    with server.client() as client:
        client.create_session(f"{session_id}-other")
        tokens = client.history(session_id).session.tokens
    shown = say(server, session_id, ":sessions")
    assert f"System: * {session_id}  3 questions, {tokens} of 512 tokens" in shown
    assert f"System:   {session_id}-other  0 questions, 0 of 512 tokens" in shown


def test_set_changes_how_answers_are_made(server: ChatServer, session_id: str) -> None:
    shown = say(server, session_id, ":set max-tokens=2", "One", ":set max_tokens default", ":set")
    assert shown[0] == "System: Settings: max_tokens 2, temperature 0.0, seed 1"
    assert shown[2:] == ["System: Settings: temperature 0.0, seed 1"] * 2
    with server.client() as client:
        assert client.history(session_id).turns[0].usage.completion_tokens == 2


def test_a_setting_that_cannot_be_is_refused_by_name(server: ChatServer, session_id: str) -> None:
    script = [":set temperature hot", ":set top_k 1.5", ":set wisdom 1", ":set seed inf", ":set top_p", "One"]
    result = run_client(server, ["--id", session_id, *SHORT], "\n".join(script))
    assert result.code == 1
    for line, name in zip(result.err.splitlines(), ("temperature", "top_k", "wisdom", "seed"), strict=True):
        assert name in line
    assert "System: Say the value too" in result.out
    assert questions(server, session_id) == ["One"]
    out_of_range = run_client(server, ["--id", session_id], ":set top_p 7\nTwo\n:set top_p default\nThree")
    assert out_of_range.code == 1 and "top_p" in out_of_range.err
    assert questions(server, session_id) == ["One", "Three"]


def test_a_system_message_stands_before_the_first_question(server: ChatServer, session_id: str) -> None:
    shown = say(server, session_id, ":system", ":system Be brief.", ":system", "One", ":system Be long.")
    assert shown[:3] == [
        "System: There is no system message",
        "System: The system message is set",
        "System: Be brief.",
    ]
    assert shown[-1].startswith("System: The system message stands before the first question")
    with server.client() as client:
        assert client.history(session_id).session.system == "Be brief."
    run_client(server, ["--id", f"{session_id}-2", "--system", "Be kind."], ":history")
    with server.client() as client:
        assert client.history(f"{session_id}-2").session.system == "Be kind."


def test_a_system_message_that_is_refused_leaves_the_session_usable(
    server: ChatServer, session_id: str
) -> None:
    """Every later command tried to begin the session with the refused message."""
    result = run_client(
        server, ["--id", session_id, *SHORT], ":system " + "long " * 2000 + "\n:system\nOne\n"
    )
    assert result.err.count("\n") == 1 and "context" in result.err
    assert "System: There is no system message" in result.out
    assert questions(server, session_id) == ["One"]


def test_stats_are_shown_when_wanted(server: ChatServer, session_id: str) -> None:
    shown = say(server, session_id, "One", ":stats on", "Two", ":stats", "Three", ":stats maybe")
    figures = [line for line in shown if "tokens/s" in line]
    assert len(figures) == 1 and shown.index(figures[0]) == 3
    assert figures[0].startswith("System: 12 tokens at ") and "cached" in figures[0]
    assert figures[0].endswith("; cut off by max_tokens or the end of the context")
    assert shown[-1] == "System: Say :stats on or :stats off"


def test_save_writes_what_the_server_has_and_never_over_a_file(
    server: ChatServer, session_id: str, three_turns: list[str], tmp_path: Path
) -> None:
    markdown, data = tmp_path / "chat.md", tmp_path / "chat.json"
    shown = say(server, session_id, f":save {markdown}", f":save {data}")
    assert shown == [f"System: Saved 3 questions to {path}" for path in (markdown, data)]
    text = markdown.read_text(encoding="utf-8")
    for number, (question, answer) in enumerate(zip(("One", "Two", "Three"), three_turns, strict=True)):
        assert f"## You({number})\n\n{question}\n\n### Assistant({number})\n\n{answer.strip()}" in text
    with server.client() as client:
        assert json.loads(data.read_text(encoding="utf-8")) == client.history(session_id).session.raw
    again = say(
        server,
        session_id,
        *(f":save {name}" for name in (markdown, tmp_path / "no/chat.md", "~nobody/x")),
        code=1,
    )
    assert "exists already" in again[0] and all("No such file" in line for line in again[1:])
    assert markdown.read_text(encoding="utf-8") == text


def test_half_a_conversation_is_not_left_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_text: str, *_arguments: object, **_options: object) -> bytes:
        raise OSError(28, "No space left on device")

    class Full(str):
        encode = full  # type: ignore[assignment]

    monkeypatch.setattr(transcript, "as_markdown", lambda _history: Full("half"))
    with pytest.raises(InvalidParameter, match="cannot be written: No space left"):
        transcript.save(History(session=None, turns=()), tmp_path / "chat.md")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("three_turns")
def test_an_argument_is_never_ignored(server: ChatServer, session_id: str) -> None:
    """``:remove other`` removed the session that one was in, ``:undo 2`` took one question back."""
    lines = ["history 1", "undo 2", "regen 1", "sessions x", "remove other", "help undo", "exit now"]
    shown = say(server, session_id, *(f":{line}" for line in lines))
    assert shown == [f"System: Say it like this: :{line.split()[0]}" for line in lines]
    assert questions(server, session_id) == ["One", "Two", "Three"]


def test_help_names_every_command_and_an_unknown_one_is_told(server: ChatServer, session_id: str) -> None:
    names = "history revert_to undo regen edit fork sessions switch set system stats save remove help exit"
    shown = "\n".join(say(server, session_id, ":help"))
    assert all(f"System: :{name}" in shown for name in names.split())
    assert say(server, session_id, ":bogus 1") == ["System: Unknown command: bogus; :help shows all"]
    assert say(server, session_id, ":", ": ") == ["System: :help shows all"] * 2
    say(server, session_id, "::smile")
    assert questions(server, session_id) == [":smile"]
