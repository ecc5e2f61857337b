"""One command starts a server and a client, and leaves nothing running."""

from __future__ import annotations

import os
import re
import select
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shared_files import story_model
from terminal import CTRL_D, Terminal

from chat_cli.client import ChatClient
from chat_cli.errors import ServerUnreachable

Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(model)``: the command on a terminal, with a place of its own for everything it keeps."""
    opened: list[Terminal] = []
    environment = {
        "CHAT_SERVER_DATABASE": str(tmp_path / "sessions.db"),
        "CHAT_SERVER_CHAT_TEMPLATE": "plain",
        "XDG_STATE_HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": os.getcwd(),
    }

    def open_one(model: Path) -> Terminal:
        arguments = ["tools/chat.py", "-m", str(model), "--id", "user0", "-n", "480", "-t", "100", "-k", "0"]
        opened.append(Terminal(arguments, columns=200, environment=environment))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.__exit__(None, None, None)


def test_it_opens_a_chat_and_ends_the_server_with_it(start: Start) -> None:
    terminal = start(story_model())
    terminal.expect_prompt(0)
    found = re.search(r"chat-server listens on (http://\S+); its log is (\S+)", "\n".join(terminal.lines))
    assert found is not None
    url, log = found[1], Path(found[2])
    with ChatClient(url) as client:
        assert client.health().status == "ok"
    # Ctrl-C stops the answer, and neither the server nor the command.
    terminal.enter("Tell me everything")
    terminal.expect_answer()
    terminal.interrupt()
    terminal.wait(lambda: terminal.last_line in ("You(0)>", "You(1)>"), "the next prompt")
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    with ChatClient(url) as client, pytest.raises(ServerUnreachable):
        client.health()
    assert "Session created: user0" in log.read_text() and "shutdown completed" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_it_leaves_nothing_running(start: Start, number: signal.Signals) -> None:
    """A client that was killed with it left the terminal as only a line editor wants it."""
    terminal = start(story_model())
    terminal.expect_prompt(0)
    found = re.search(r"chat-server listens on (http://\S+);", "\n".join(terminal.lines))
    assert found is not None
    pid = terminal.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # Readable as soon as the process has ended.
    server, client = (os.pidfd_open(int(child)) for child in children)
    terminal.process.send_signal(number)
    assert terminal.process.wait(30) == (128 + number if number == signal.SIGTERM else -number)
    for process in (server, client):
        assert select.select([process], [], [], 30)[0]
        os.close(process)
    assert terminal.attributes[3] & termios.ECHO and terminal.attributes[3] & termios.ICANON


def test_a_server_that_does_not_start_says_why(start: Start, tmp_path: Path) -> None:
    terminal = start(tmp_path / "no")
    assert terminal.end() == 1
    assert "error: there is no model" in terminal.lines[0]
