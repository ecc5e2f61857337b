"""From tokens to an answer: its text, its end, and what is counted and measured."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_language_model import CONTEXT_LENGTH, END, answer, wanting

from lm_core import turn_in_progress
from lm_core.language_model import LanguageModel
from lm_core.sampler import SamplingParams
from lm_core.session import Session
from lm_core.turn_in_progress import StopTexts

STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple)


class TestStopTexts:
    """Texts that end an answer."""

    @staticmethod
    def oracle(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
        """Letter by letter: up to the first moment at which the text ends with a stop text."""
        for end in range(1, len(text) + 1):
            complete = [stop for stop in stops if text[:end].endswith(stop)]
            if complete:
                return text[: end - len(max(complete, key=len))], True
        return text, False

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(text=st.text("abc", max_size=14), stops=STOPS, cuts=st.sets(st.integers(0, 14)))
    def test_however_tokens_cut_the_text(self, text: str, stops: tuple[str, ...], cuts: set[int]) -> None:
        """The same end, found at the same place; and no letter is held back longer than necessary."""
        expected, found = self.oracle(text, stops)
        texts, shown = StopTexts(stops), ""
        bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
        for start, stop in itertools.pairwise(bounds):
            shown += texts.push(text[start:stop])
            if texts.found:
                break
            seen = text[:stop]
            possible = [seen[n:] for n in range(stop) if any(s.startswith(seen[n:]) for s in stops)]
            assert shown == seen.removesuffix(max(possible, key=len, default=""))
        assert texts.found == found
        if not found:
            shown += texts.rest()
        assert shown == texts.text == expected

    def test_overlapping_stop_texts(self) -> None:
        """One inside another, one after the beginning of another, one that repeats its own beginning."""
        for stops, pieces, expected in (
            (("abc", "b"), ["abc"], "a"),
            (("abc", "b"), ["a", "b", "c"], "a"),
            (("\nUser:", "\n\n"), ["Hi", "\n", "Us", "er", "\n\nx"], "Hi\nUser"),
            (("aab",), ["a", "a", "a", "b"], "a"),
            (("abab",), ["ab", "aab", "ab"], "aba"),
            (("xyz", "yz"), ["x", "y", "z"], ""),
        ):
            texts = StopTexts(stops)
            shown = [texts.push(piece) for piece in pieces if not texts.found]
            assert texts.found and "".join(shown) == texts.text == expected, stops

    def test_without_stop_texts_nothing_is_held(self) -> None:
        """Every piece is shown as it comes."""
        texts = StopTexts(())
        assert [texts.push(piece) for piece in ("a", "", "b")] == ["a", "", "b"]
        assert (texts.text, texts.rest(), texts.found) == ("ab", "", False)


@pytest.fixture
def session(chat_model: LanguageModel) -> Session:
    return Session(chat_model)


def ids(session: Session, text: str) -> list[int]:
    return session.language_model.tokenizer.encode(text, add_special_tokens=False)


def test_an_answer_ended_by_its_end_token(session: Session) -> None:
    """The token is kept and counted, and is part of the rendered text, but not of the answer."""
    turn = session.begin(session.messages("and"))
    prompt = len(session.tokens)
    said = answer(session, turn, [*ids(session, "the and"), END])
    assert "".join(token.text for token in said) == "the and" and said[-1].text == ""
    taken = session.finish(turn)
    assert (taken.text, taken.question, taken.finish_reason) == ("the and", "and", "stop")
    assert (taken.prompt_tokens, taken.cached_tokens, taken.generated_tokens) == (prompt, 0, len(said))
    assert session.tokens[prompt:] == [token.token_id for token in said]
    assert taken.rendered == "<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\nthe and<|im_end|>"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_answer_cut_by_its_length(count: int, session: Session) -> None:
    """Exactly so many tokens; an end token as the last one still counts as an end."""
    turn = session.begin("and", max_new_tokens=count)
    answer(session, turn, ids(session, "x" * count))
    taken = session.finish(turn)
    assert (taken.text, taken.finish_reason, taken.generated_tokens) == ("x" * count, "length", count)
    turn = session.begin("and", max_new_tokens=count)
    answer(session, turn, [*ids(session, "x" * (count - 1)), END])
    assert session.finish(turn).finish_reason == "stop"


def test_an_answer_cut_by_the_context(session: Session) -> None:
    """The last token of the context is made, whatever was asked for."""
    for limit in (None, 100):
        turn = session.begin([5] * (CONTEXT_LENGTH - 2), max_new_tokens=limit)
        answer(session, turn, ids(session, "xy"))
        assert len(session.tokens) == CONTEXT_LENGTH
        taken = session.finish(turn)
        assert (taken.text, taken.finish_reason) == ("xy", "length")
        session.revert(0)


@pytest.mark.parametrize("spelled", [["x", "the", "y"], ["x", "t", "h", "e", "y"]])
def test_a_stop_text_ends_it(spelled: list[str], session: Session) -> None:
    """Although it is made of several tokens, which are kept; what was certain before is shown at once."""
    stop_at = spelled.index("e") if "e" in spelled else spelled.index("the")
    turn = session.begin("and", stop=("the", "zz"))
    tokens = [ids(session, piece)[0] for piece in spelled[: stop_at + 1]]
    said = answer(session, turn, tokens)
    assert [token.text for token in said] == ["x", *[""] * (len(said) - 1)]
    taken = session.finish(turn)
    assert (taken.text, taken.finish_reason) == ("x", "stop")
    assert taken.generated_tokens == len(tokens) and session.tokens[-len(tokens) :] == tokens


@pytest.mark.parametrize("last", ["end", "length"])
def test_the_beginning_of_a_stop_text_is_shown_in_the_end(last: str, session: Session) -> None:
    """Once it is certain that the rest does not follow, whatever ended the answer."""
    turn = session.begin("and", stop=("the",), max_new_tokens=3)
    tokens = [*ids(session, "xth"), END] if last == "end" else [*ids(session, "zx"), *ids(session, "th")]
    said = answer(session, turn, tokens)
    assert [token.text for token in said][-1] == "th"
    assert session.finish(turn).text.endswith("th")


def test_an_incomplete_character_at_the_end_is_not_shown(session: Session) -> None:
    """Its tokens are kept nevertheless."""
    tokens = ids(session, "x好")[:-1]
    turn = session.begin("and", max_new_tokens=len(tokens))
    said = answer(session, turn, tokens)
    taken = session.finish(turn)
    assert taken.text == "x" == "".join(token.text for token in said)
    assert session.tokens[-len(tokens) :] == tokens


def test_other_control_tokens_are_part_of_the_rendered_text_alone(session: Session) -> None:
    """A model may make one in the middle of an answer."""
    turn = session.begin(session.messages("and"))
    answer(session, turn, [*ids(session, "x"), 1, *ids(session, "y"), END])
    taken = session.finish(turn)
    assert taken.text == "xy"
    assert taken.rendered is not None and taken.rendered.endswith("assistant\nx<|im_start|>y<|im_end|>")


def test_texts_and_ids_have_no_rendered_text(session: Session) -> None:
    """There is nothing that a template made."""
    for prompt in ("and", [5, 6]):
        turn = session.begin(prompt)
        answer(session, turn, [END])
        assert session.finish(turn).rendered is None


def test_the_seed_that_was_drawn_is_told(session: Session) -> None:
    """So that any answer can be made again; a given one is what it was."""
    for seed in (None, 7):
        turn = session.begin("and", SamplingParams(top_k=3, seed=seed))
        answer(session, turn, [END])
        params = session.finish(turn).params
        assert params.top_k == 3 and params.seed is not None
        assert seed is None or params.seed == seed


def test_a_turn_is_not_finished_before_it_has_ended(session: Session) -> None:
    """That would be a bug of the caller."""
    turn = session.begin("and")
    assert not turn.ended
    with pytest.raises(RuntimeError, match="not ended"):
        turn.finished()
    assert session.turns == []


def test_durations(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the begin to the choice of the first token, and from there to the last."""
    now = [100.0]
    monkeypatch.setattr(turn_in_progress.time, "perf_counter", lambda: now[0])
    turn = session.begin("and")
    for seconds, token in ((5.0, 10), (1.0, 10), (2.5, END)):
        while session.compute() is None:
            pass
        now[0] += seconds
        turn.accept(wanting(session, token))
    taken = session.finish(turn)
    assert (taken.prompt_seconds, taken.generation_seconds) == (5.0, 3.5)


def test_no_duration_is_negative(session: Session) -> None:
    """Also that of an answer of one token, which has nothing after its first."""
    for tokens in ([END], [10, 11, END]):
        turn = session.begin("and")
        answer(session, turn, tokens)
        taken = session.finish(turn)
        assert taken.prompt_seconds > 0 and taken.generation_seconds >= 0
