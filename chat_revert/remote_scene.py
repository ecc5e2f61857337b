"""The scene played on a server: all that HTTP shows of two sessions, compared."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from chat_cli.client import ChatClient
from chat_cli.errors import ChatError
from chat_cli.records import History, Sampling
from chat_revert.proof import Check, Proof
from chat_revert.script import (
    ANSWER,
    CORRECT_PROMPT,
    FIRST,
    PROMPT,
    SECOND,
    SUBJECT,
    THIRD,
    TRUE_PROMPT,
)


def play_on_server(
    client: ChatClient, sampling: Sampling, report: Callable[[str], None] = lambda _: None
) -> Proof:
    """Ask, ask, revert to 1, compare, ask; beside a session that never had the second turn.

    Keys, values and logits stay on the server, so answers stand for them: ``sampling.seed`` must be
    given.  Turn *i* uses seed + *i*.  Both sessions are removed afterwards.

    Raises:
        ChatError: the server cannot be reached, or refuses.
    """
    reverted, correct = (f"chat-revert-{uuid.uuid4().hex}" for _ in range(2))

    def ask(session: str, question: str) -> str:
        turns = client.history(session).session.turns
        seeded = replace(sampling, seed=(sampling.seed or 0) + turns)
        return client.generate(session, question, seeded, expected_turn=turns).content

    try:
        for session in (reverted, correct):
            client.create_session(session)
        report("asking two questions")
        ask(reverted, FIRST)
        answer = ask(reverted, SECOND)
        before = client.history(reverted)
        client.revert(reverted, 1)
        report("asking the first one alone")
        ask(correct, FIRST)
        actual, expected = client.history(reverted), client.history(correct)
        checks = [_compare_turns(actual, expected), _compare_lengths(actual, expected)]
        report("asking the third question in both")
        for session in (reverted, correct):
            ask(session, THIRD)
        checks.append(_compare_next_answers(client.history(reverted), client.history(correct), sampling))
    finally:
        for session in (reverted, correct):
            # Whatever went wrong before matters more than what is left over.
            with suppress(ChatError):
                client.remove_session(session)
    blocks = {
        PROMPT: f"{_transcript(before, 1)}You: {SECOND}",
        ANSWER: answer,
        CORRECT_PROMPT: _transcript(expected),
        TRUE_PROMPT: _transcript(actual),
    }
    return Proof(blocks, checks, SUBJECT)


def _transcript(history: History, turns: int | None = None) -> str:
    return "".join(f"You: {turn.user}\nAssistant: {turn.assistant}\n" for turn in history.turns[:turns])


def _compare_turns(actual: History, expected: History) -> Check:
    mine, theirs = _transcript(actual), _transcript(expected)
    if mine != theirs:
        return Check("turns", False, f"the history is {mine!r}, it should be {theirs!r}")
    return Check("turns", True, f"{len(actual.turns)} question and answer equal, {len(mine)} characters")


def _compare_lengths(actual: History, expected: History) -> Check:
    mine, theirs = actual.session.tokens, expected.session.tokens
    if mine != theirs:
        return Check("tokens", False, f"there are {mine} tokens, there should be {theirs}")
    return Check("tokens", True, f"{mine} in both")


def _compare_next_answers(actual: History, expected: History, sampling: Sampling) -> Check:
    mine, theirs = actual.turns[-1], expected.turns[-1]
    name = "next answer"
    if mine.assistant != theirs.assistant:
        return Check(name, False, f"it is {mine.assistant!r}, it should be {theirs.assistant!r}")
    counts = [(turn.usage.prompt_tokens, turn.usage.completion_tokens) for turn in (mine, theirs)]
    if counts[0] != counts[1]:
        return Check(
            name, False, f"its prompt and answer have {counts[0]} tokens, they should have {counts[1]}"
        )
    seed = (sampling.seed or 0) + mine.index
    return Check(name, True, f"{theirs.usage.completion_tokens} tokens of the same text (seed {seed})")
