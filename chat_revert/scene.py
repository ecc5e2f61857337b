"""The scene of the original system: two questions, a revert to before the second, and a third."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from chat_revert.comparison import compare_last_answers, compare_sessions
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
from lm_core.language_model import LanguageModel
from lm_core.sampler import SamplingParams
from lm_core.session import Session


def play(
    language_model: LanguageModel,
    params: SamplingParams,
    max_tokens: int,
    report: Callable[[str], None] = lambda _: None,
    speculate: bool = False,
) -> Proof:
    """Ask, ask, revert to 1, compare, ask; beside a session that never had the second turn.

    With ``speculate``, the session that is reverted computes likely tokens ahead and the other does not.

    ``params.seed`` must be given: it is what makes two answers comparable.  Turn *i* uses seed + *i*.
    """

    def ask(session: Session, question: str) -> str:
        turn_params = replace(params, seed=(params.seed or 0) + len(session.turns))
        for _ in session.ask(question, turn_params, max_new_tokens=max_tokens):
            pass
        return session.turns[-1].text

    reverted, correct = Session(language_model), Session(language_model)
    reverted.speculate = speculate
    report("asking two questions")
    ask(reverted, FIRST)
    answer = ask(reverted, SECOND)
    second = reverted.turns[-1]
    prompt = _text(language_model, reverted.tokens[: second.prompt_tokens])
    reverted.revert(1)
    truncation = _check_truncation(reverted, second.undo.cached_tokens)
    report("asking the first one alone")
    ask(correct, FIRST)
    true_prompt = _text(language_model, reverted.tokens)
    correct_prompt = _text(language_model, correct.tokens)
    report("comparing")
    checks = [truncation, *compare_sessions(reverted, correct)]
    if all(check.equal for check in checks):
        report("asking the third question in both")
        for session in (reverted, correct):
            ask(session, THIRD)
        checks.append(compare_last_answers(reverted, correct))
    blocks = {PROMPT: prompt, ANSWER: answer, CORRECT_PROMPT: correct_prompt, TRUE_PROMPT: true_prompt}
    return Proof(blocks, checks, SUBJECT)


def _check_truncation(session: Session, expected: int) -> Check:
    """The revert itself: what it left in the cache is what the second turn had found there."""
    actual = session.cache.length
    if actual != expected:
        return Check(
            "truncation", False, f"the revert kept {actual} cached tokens, it should have kept {expected}"
        )
    replaced = session.schedule.length - actual
    # A template that renders old messages in another way makes a turn replace some of its past.
    later = f"{replaced:,} that the second turn replaced come back" if replaced else "none computed again"
    return Check("truncation", True, f"{actual:,} cached tokens kept, {later}")


def _text(language_model: LanguageModel, tokens: list[int]) -> str:
    return language_model.tokenizer.decode(tokens, skip_special_tokens=False)
