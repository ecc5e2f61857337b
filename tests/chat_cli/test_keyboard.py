"""Keys: what is typed while nobody reads, and terminals as they were when the client has gone."""

from __future__ import annotations

import signal
import termios
from pathlib import Path

import pytest
from chat_clients import ENDLESS, SHORT, ChatServer, Open
from terminal import CTRL_C, ENTER, Terminal


def shows_keys(terminal: Terminal) -> bool:
    """Whether the terminal itself shows what is typed, as a shell expects it."""
    return bool(terminal.attributes[3] & termios.ECHO)


def test_what_is_typed_during_an_answer_waits_for_the_prompt(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    """It was shown in the middle of the answer, and Enter made lines of the answer appear twice."""
    terminal = open_terminal(server, session_id, "-n", "40", columns=40)
    with server.paused():
        terminal.enter("One")
        terminal.wait(lambda: "Assistant:" in terminal.last_line, "the wait for an answer")
        terminal.type(ENTER + "Two" + ENTER + "half a quest")
    terminal.wait(lambda: terminal.last_line == "You(2)> half a quest", "what was typed")
    terminal.type("ion" + ENTER)
    terminal.expect_prompt(3)
    with server.client() as client:
        turns = client.history(session_id).turns
    assert [turn.user for turn in turns] == ["One", "Two", "half a question"]
    labels = [line for line in terminal.lines if line.startswith(("You(", "Assistant:"))]
    assert [label.split()[0] for label in labels] == [
        *("You(0)>", "Assistant:", "You(1)>", "You(1)>", "Assistant:"),
        *("You(2)>", "Assistant:", "You(3)>"),
    ]


def test_ctrl_c_forgets_what_was_typed_ahead(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *ENDLESS)
    terminal.enter("Tell me everything")
    terminal.expect_answer()
    with server.paused():
        terminal.type("Something else" + CTRL_C)
        terminal.expect("System: Stopped; the session is as it was before")
    terminal.expect_prompt(0)
    assert "^C" not in "\n".join(terminal.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", ["prompt", "answer"])
def test_a_polite_kill_leaves_the_terminal_as_it_was(
    server: ChatServer, session_id: str, open_terminal: Open, where: str, number: signal.Signals
) -> None:
    terminal = open_terminal(server, session_id, *ENDLESS)
    with server.paused():
        if where == "answer":
            terminal.enter("Tell me everything")
            terminal.wait(lambda: "Assistant:" in terminal.last_line, "the wait for an answer")
        assert not shows_keys(terminal)
        terminal.signal(number)
        assert terminal.end() == 128 + number
    assert shows_keys(terminal)
    assert terminal.attributes[3] & termios.ICANON and terminal.attributes[3] & termios.ISIG


def test_a_terminal_is_not_asked_where_its_cursor_is(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    """One that does not answer got a warning between two questions."""
    terminal = open_terminal(server, session_id, *SHORT)
    terminal.say("One", turns=1)
    assert "\x1b[6n" not in terminal.text


def test_a_disk_that_is_full_costs_the_memory_of_the_question_alone(
    server: ChatServer, session_id: str, open_terminal: Open, tmp_path: Path
) -> None:
    """A stack trace stood in its place."""
    terminal = open_terminal(server, session_id, *SHORT)
    (history,) = tmp_path.rglob("chat-cli-history")
    history.unlink()
    history.symlink_to("/dev/full")
    terminal.say("One", turns=1)
    terminal.say("Two", turns=2)
    told = [line for line in terminal.lines if line.startswith("System: ")]
    assert len(told) == 1 and told[0].startswith("System: What you type is not remembered")
    with server.client() as client:
        assert [turn.user for turn in client.history(session_id).turns] == ["One", "Two"]


def test_tab_does_not_wait_for_a_server_that_hangs(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id)
    with server.paused():
        # Seconds are more than Tab waits, and less than a question would.
        terminal.type(":switch te\tst")
        terminal.wait(lambda: terminal.last_line.endswith(":switch test"), "what was typed after Tab", 20)


def test_bytes_that_are_no_text_are_refused_in_one_line(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id, *SHORT)
    terminal.type_bytes(b"a\xff\xfe\r")
    terminal.expect("System: the text has characters that are not valid Unicode")
    terminal.expect_prompt(0)
    terminal.say("One", turns=1)


def test_a_terminal_that_goes_away_ends_the_client(
    server: ChatServer, session_id: str, open_terminal: Open
) -> None:
    terminal = open_terminal(server, session_id)
    terminal.hang_up()
    assert terminal.process.wait(30) == 128 + signal.SIGHUP
