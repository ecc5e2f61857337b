"""What is told after a connection was lost when the answer was stored all the same."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from chat_clients import ChatServer

from chat_cli.answer_stream import AnswerStream
from chat_cli.chat import Chat
from chat_cli.client import ChatClient
from chat_cli.conversation import Conversation
from chat_cli.display import PlainDisplay
from chat_cli.errors import ConnectionLost
from chat_cli.loop import converse
from chat_cli.records import Sampling


class LossyClient(ChatClient):
    """Loses the connection when the server has just stored the turn."""

    lossy = False

    @contextmanager
    def stream(self, *arguments: Any, **options: Any) -> Iterator[AnswerStream]:
        with super().stream(*arguments, **options) as answer:
            if self.lossy:
                answer.read()
                raise ConnectionLost("lost")
            yield answer


class Scene:
    """A chat in which the answer to "One" was stored and not received."""

    def __init__(self, client: LossyClient, session_id: str) -> None:
        self.client, self.id = client, session_id
        self.out = io.StringIO()
        conversation = Conversation(client, session_id, None, Sampling(max_tokens=4, temperature=0.0))
        self.chat = Chat(conversation, PlainDisplay(self.out, io.StringIO()))
        client.lossy = True
        with pytest.raises(ConnectionLost):
            self.chat.ask("One")
        client.lossy = False
        assert (self.out.getvalue(), self.chat.prompt) == ("", "You(0)> ")

    def stored(self) -> list[tuple[str, str]]:
        return [(turn.user, turn.assistant) for turn in self.client.history(self.id).turns]


@pytest.fixture
def scene(server: ChatServer, session_id: str) -> Iterator[Scene]:
    with LossyClient(server.url) as client:
        yield Scene(client, session_id)


def test_the_same_question_shows_the_stored_answer_and_asks_nothing(scene: Scene) -> None:
    scene.chat.ask("One")
    ((_, answer),) = scene.stored()
    assert scene.chat.prompt == "You(1)> "
    assert scene.out.getvalue() == (
        "System: The answer was stored before the connection was lost:\n"
        f"You: One\nAssistant: {answer.strip()}\n"
    )


def test_another_question_comes_after_the_stored_answer(scene: Scene) -> None:
    scene.chat.ask("Two")
    (_, first), (_, second) = scene.stored()
    assert [question for question, _ in scene.stored()] == ["One", "Two"]
    assert scene.out.getvalue() == (
        "System: The answer was stored before the connection was lost:\n"
        f"You: One\nAssistant: {first.strip()}\nAssistant: {second.strip()}\n"
    )


def test_undo_takes_the_stored_turn_back(scene: Scene) -> None:
    scene.chat.undo()
    assert scene.stored() == []
    assert scene.out.getvalue().endswith("System: Reverted to the state before 0th generation\n")


def test_a_revert_whose_reply_was_lost_is_not_told_as_a_failure(scene: Scene) -> None:
    def revert(session_id: str, turn: int, expected_turn: int | None = None) -> Any:
        ChatClient.revert(scene.client, session_id, turn, expected_turn)
        raise ConnectionLost("lost")

    scene.chat.ask("One")
    scene.client.revert = revert  # type: ignore[method-assign]
    scene.chat.undo()
    assert scene.stored() == [] and scene.chat.prompt == "You(0)> "


class Keyboard:
    """Somebody at a terminal, who says the lines and then leaves."""

    echoes = True

    def __init__(self, lines: list[str]) -> None:
        self.lines, self.prompts = lines, list[str]()

    def read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    def edit(self, prompt: str, text: str) -> str | None:  # noqa: ARG002 - nobody edits here
        return None


def test_ctrl_c_while_a_command_waits_asks_the_server_what_came_of_it(scene: Scene) -> None:
    def revert(session_id: str, turn: int, expected_turn: int | None = None) -> Any:
        ChatClient.revert(scene.client, session_id, turn, expected_turn)
        raise KeyboardInterrupt

    scene.chat.ask("One")
    scene.client.revert = revert  # type: ignore[method-assign]
    keyboard = Keyboard([":undo", ":history", ":undo"])
    assert converse(scene.chat, keyboard)
    assert "System: Stopped\nSystem: Chat history:\nSystem: Chat history ends.\n" in scene.out.getvalue()
    assert scene.out.getvalue().endswith("System: There is nothing to undo\n")
    assert keyboard.prompts == ["You(1)> ", "You(1)> ", "You(0)> ", "You(0)> "]
