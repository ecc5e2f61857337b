"""Answers that are stopped, servers that go away: the session is intact, and one can go on asking."""

from __future__ import annotations

import signal

import pytest
from chat_clients import ENDLESS, SHORT, ChatServer, Open, run_client
from terminal import CTRL_D, ENTER

from chat_cli.errors import NotFound
from chat_cli.records import Sampling


def test_ctrl_c_stops_the_answer_and_the_same_question_can_be_asked_again(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *ENDLESS)
    terminal.enter("Tell me everything")
    terminal.expect_answer()
    with server.paused():
        terminal.interrupt()
        terminal.expect("System: Stopped; the session is as it was before")
    terminal.expect_prompt(0)
    with server.client() as client:
        assert client.history(session_id).turns == ()
        terminal.say(":set max_tokens 5", turns=0)
        terminal.say("Tell me everything", turns=1)
        (turn,) = client.history(session_id).turns
    assert turn.user == "Tell me everything" and turn.usage.completion_tokens <= 5


def test_regen_after_ctrl_c_asks_the_stopped_question_and_reverts_nothing(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    _one_turn(server, session_id)
    terminal = open_terminal(server, session_id, *ENDLESS, turns=1)
    terminal.enter("Two")
    terminal.expect_answer()
    with server.paused():
        terminal.interrupt()
        terminal.expect("Stopped")
    terminal.expect_prompt(1)
    terminal.say(":set max_tokens 3", turns=1)
    terminal.say(":regen", turns=2)
    with server.client() as client:
        assert [turn.user for turn in client.history(session_id).turns] == ["One", "Two"]


def test_ctrl_c_at_a_prompt_clears_the_line_and_does_nothing_else(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *SHORT)
    terminal.interrupt()
    terminal.interrupt()
    terminal.type("half a question")
    terminal.expect("half a question")
    terminal.interrupt()
    terminal.expect_prompt(0)
    # The same as a signal, as it comes when the terminal is not in the line editor's hands.
    terminal.type("another half")
    terminal.expect("another half")
    terminal.process.send_signal(signal.SIGINT)
    terminal.expect_prompt(0)
    assert terminal.lines == ["You(0)>"]
    terminal.say("Still here?", turns=1)


def test_ctrl_d_leaves_and_the_session_stays(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    _one_turn(server, session_id)
    terminal = open_terminal(server, session_id, turns=1)
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    assert terminal.lines == [
        f"System: Session {session_id} continues after 1 question; :history shows it",
        "You(1)>",
    ]
    with server.client() as client:
        assert client.history(session_id).session.turns == 1


def test_a_server_killed_in_mid_answer_loses_nothing(
    own_server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    _one_turn(own_server, session_id)
    terminal = open_terminal(own_server, session_id, *ENDLESS, turns=1)
    terminal.enter("Two")
    terminal.expect_answer()
    own_server.kill()
    terminal.expect(f"System: the connection to {own_server.url} was lost")
    terminal.expect_prompt(1)
    terminal.say("Are you there?", turns=1)
    assert any(line.startswith("System: no server answers at") for line in terminal.lines)
    own_server.restart()
    terminal.say(":set max_tokens 3", turns=1)
    terminal.say("Two", turns=2)
    with own_server.client() as client:
        assert [turn.user for turn in client.history(session_id).turns] == ["One", "Two"]
    assert terminal.end(":exit") == 0


def test_a_client_may_be_there_before_its_server(
    own_server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    own_server.kill()
    terminal = open_terminal(own_server, session_id, *SHORT)
    assert terminal.lines[0].startswith(f"System: no server answers at {own_server.url}")
    own_server.restart()
    terminal.say("Now?", turns=1)
    with own_server.client() as client:
        assert client.history(session_id).session.turns == 1


def test_another_client_in_the_same_session_is_noticed_and_nothing_is_overwritten(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *SHORT)
    terminal.say("Mine", turns=1)
    with server.client() as client:
        client.generate(session_id, "Theirs")
        terminal.say("Mine again", turns=2)
        assert any("the session has 2 questions now, not 1" in line for line in terminal.lines)
        assert [turn.user for turn in client.history(session_id).turns] == ["Mine", "Theirs"]
        terminal.say("Mine again", turns=3)
        client.revert(session_id, 1)
        terminal.say(":undo", turns=1)
        assert client.history(session_id).session.turns == 1


def test_a_session_that_was_removed_elsewhere_is_told(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *SHORT)
    terminal.say("One", turns=1)
    with server.client() as client:
        client.remove_session(session_id)
        terminal.enter("Two")
        terminal.expect(f":switch {session_id} begins it anew")
        terminal.expect_prompt(1)
        terminal.say(f":switch {session_id}", turns=0)
        terminal.say("Two", turns=1)


def test_without_a_server_scripts_end_with_one_line(own_server: ChatServer) -> None:
    own_server.kill()
    for arguments, stdin in ((["question"], ""), ([], "one\ntwo\n"), (["--json"], "one\n")):
        result = run_client(own_server, arguments, stdin)
        result.assert_one_line_error(1, "no server answers at", "chat-server")


def test_remove_deletes_the_session_and_leaves(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *SHORT)
    terminal.say("One", turns=1)
    terminal.type(":remove" + ENTER)
    assert terminal.end() == 0
    with server.client() as client, pytest.raises(NotFound):
        client.history(session_id)


def _one_turn(server: ChatServer, session_id: str) -> None:
    """A session in which "One" was asked."""
    with server.client() as client:
        client.create_session(session_id)
        client.generate(session_id, "One", Sampling(max_tokens=5))
