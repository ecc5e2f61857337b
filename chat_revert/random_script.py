"""A random script of turns, reverts, forks and rebuilds, and the session it must amount to."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace

from chat_revert.comparison import compare_last_answers, compare_sessions
from chat_revert.proof import Proof
from lm_core.language_model import LanguageModel
from lm_core.sampler import SamplingParams
from lm_core.session import Session

QUESTIONS = (
    "Are apples red?",
    "How many legs does a rabbit have?",
    "What is the color of the sky?",
    "Name three animals that live in the sea.",
    "Tell me a very short story about a dog.",
    "Why do we sleep?",
    "Say it in other words.",
    "Translate 'good morning' into French.",
)


def run_script(
    language_model: LanguageModel,
    params: SamplingParams,
    max_tokens: int,
    turns: int,
    reverts: int,
    report: Callable[[str], None] = lambda _: None,
    speculate: bool = False,
) -> Proof:
    """Take ``turns`` turns and ``reverts`` reverts in random order, and lose the cache in between.

    Afterwards a fresh session takes only the turns that survived, and the two are compared.
    ``params.seed`` decides the script and every answer.  There may be no more reverts than turns.
    With ``speculate``, the session computes likely tokens ahead and the one it is compared with does not.
    """
    chance = random.Random(params.seed)
    session = Session(language_model)
    session.speculate = speculate
    surviving: list[tuple[str, SamplingParams]] = []
    steps: list[str] = []

    def step(text: str) -> None:
        steps.append(text)
        report(text)

    while turns or reverts:
        # A revert takes away at least one turn, so every one still to come needs a turn of its own.
        spare = len(surviving) + turns - reverts
        if surviving and chance.random() < reverts / (turns + reverts):
            turn = chance.randrange(max(0, len(surviving) - 1 - spare), len(surviving))
            step(f"revert to {turn}")
            session.revert(turn)
            del surviving[turn:]
            reverts -= 1
        else:
            question, turn_params = chance.choice(QUESTIONS), replace(params, seed=chance.randrange(1 << 32))
            step(f"turn {len(surviving)}: {question}")
            _ask(session, question, turn_params, max_tokens)
            surviving.append((question, turn_params))
            turns -= 1
        mishap = chance.choice(["none", "fork", "rebuild", "evict"])
        if mishap == "fork":
            step("fork, and go on with the fork")
            session = session.fork()
        elif mishap == "rebuild":
            step("lose everything but a snapshot, and rebuild")
            session = Session.rebuild(language_model, json.loads(json.dumps(session.snapshot())))
            session.speculate = speculate
        elif mishap == "evict":
            step("drop the cache")
            session.evict()

    expected = Session(language_model)
    for number, (question, turn_params) in enumerate(surviving):
        report(f"checking: surviving turn {number} of {len(surviving)}")
        _ask(expected, question, turn_params, max_tokens)
    checks = compare_sessions(session, expected)
    if all(check.equal for check in checks):
        for either in (session, expected):
            _ask(either, QUESTIONS[0], params, max_tokens)
        checks.append(compare_last_answers(session, expected))
    subject = f"the session is the one that only ever took its {len(surviving)} surviving turns"
    return Proof({"SCRIPT": "\n".join(steps)}, checks, subject)


def _ask(session: Session, question: str, params: SamplingParams, max_tokens: int) -> None:
    for _ in session.ask(question, params, max_new_tokens=max_tokens):
        pass
