"""The original's walk-through with two clients, step by step, on two terminals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_clients import ChatServer
from shared_files import chat_model, story_model
from terminal import Terminal

MODELS = {"story": story_model, "chat": chat_model}


@pytest.fixture(scope="module", params=["story", pytest.param("chat", marks=pytest.mark.soak)])
def any_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChatServer]:
    """A server on the story model, and one on the chat model where that is there."""
    database = tmp_path_factory.mktemp(request.param) / "sessions.db"
    with ChatServer(MODELS[request.param](), database, "-r", "1.176", "-n", "24") as server:
        yield server


def test_nine_steps_with_two_clients(any_server: ChatServer, tmp_path: Path) -> None:
    def start(session_id: str) -> Terminal:
        # Wide, so that a question or an answer is one line unless the model breaks it.
        return Terminal(
            ["-m", "chat_cli", "--id", session_id, "-u", any_server.url, "--plain"],
            columns=400,
            environment={"XDG_STATE_HOME": str(tmp_path)},
        )

    with start("user0") as client0:
        client0.expect_prompt(0)
        client0.say("Are apples red?", turns=1)
        client0.say("How many legs does a rabbit have?", turns=2)
        client0.say(":history", turns=2)
        client0.say(":revert_to 1", turns=1)
        client0.say("What is the color of the sky?", turns=2)
        client0.say(":history", turns=2)
        with start("user1") as client1:
            client1.expect_prompt(0)
            client1.say("How many legs does a rabbit have?", turns=1)
            assert client0.end(":exit") == 0
            assert client1.end(":exit") == 0
            transcript1 = client1.lines
        transcript0 = client0.lines

    with any_server.client() as client:
        first, third = client.history("user0").turns
        (other,) = client.history("user1").turns
    # The second answer was reverted: no history has it, but the transcript twice.
    second = _answer_after(transcript0, "You(1)> How many legs does a rabbit have?")
    assert transcript0 == [
        "You(0)> Are apples red?",
        *_shown(first.assistant),
        "You(1)> How many legs does a rabbit have?",
        *second,
        "You(2)> :history",
        "System: Chat history:",
        "You: Are apples red?",
        *_shown(first.assistant),
        "You: How many legs does a rabbit have?",
        *second,
        "System: Chat history ends.",
        "You(2)> :revert_to 1",
        "System: Reverted to the state before 1th generation",
        "You(1)> What is the color of the sky?",
        *_shown(third.assistant),
        "You(2)> :history",
        "System: Chat history:",
        "You: Are apples red?",
        *_shown(first.assistant),
        "You: What is the color of the sky?",
        *_shown(third.assistant),
        "System: Chat history ends.",
        "You(2)> :exit",
    ]
    assert transcript1 == [
        "You(0)> How many legs does a rabbit have?",
        *_shown(other.assistant),
        "You(1)> :exit",
    ]
    assert [event for event in any_server.events() if "user" in event] == [
        "Session created: user0",
        "Generated tokens for session user0",
        "Generated tokens for session user0",
        "Revert session user0 to the state before 1th generation",
        "Generated tokens for session user0",
        "Session created: user1",
        "Generated tokens for session user1",
    ]


def _shown(answer: str) -> list[str]:
    return [line.rstrip() for line in f"Assistant: {answer.strip()}".split("\n")]


def _answer_after(transcript: list[str], question: str) -> list[str]:
    start = transcript.index(question) + 1
    end = next(i for i in range(start, len(transcript)) if transcript[i].startswith("You("))
    return transcript[start:end]
