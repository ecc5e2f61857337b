"""Each way in which a revert could be wrong is put in on purpose, and must be found and named."""

from __future__ import annotations

import pytest
from shared_files import story_model

from chat_revert.cli import chat_revert
from lm_cli.program import run
from lm_core.kv_cache import KVCache
from lm_core.sampler import Sampler
from lm_core.session import Session

truncate, revert, uniform = KVCache.truncate, Session.revert, Sampler.uniform


@pytest.fixture
def prove(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """``prove(*options)``: the exit code and the lines of the proof that differ."""

    def prove(*options: str) -> tuple[int, list[str]]:
        arguments = ["-m", str(story_model()), "--chat-template", "chatml", "-n", "30"]
        # A bold choice, so that another random number is another token.
        arguments += ["-t", "1.5", "-k", "0", "-p", "1", "--seed", "5", *options]
        code = run(chat_revert, "chat-revert", arguments)
        printed = capsys.readouterr().out
        return code, [line for line in printed.splitlines() if "DIFFERENT" in line or "Failed" in line]

    return prove


def test_a_right_revert_is_proved(prove) -> None:  # type: ignore[no-untyped-def]
    assert prove() == (0, [])


@pytest.mark.parametrize("error", [1, -1])
def test_a_truncation_that_is_off_by_one(prove, error: int, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def off_by_one(self: KVCache, length: int) -> None:
        truncate(self, max(0, min(self.length, length + error)))

    monkeypatch.setattr(KVCache, "truncate", off_by_one)
    code, different = prove()
    assert code == 1
    assert different[0].split()[:2] == ["truncation", "DIFFERENT"] and "should have kept" in different[0]
    assert different[-1].startswith("Failed: ")


def test_a_stale_last_token(prove, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The transcript keeps one token of the turn that was taken back."""

    def forgetful(self: Session, turn: int) -> None:
        stale = self.tokens[self.turns[turn].undo.kept_tokens]
        revert(self, turn)
        self.tokens.append(stale)

    monkeypatch.setattr(Session, "revert", forgetful)
    code, different = prove()
    assert code == 1 and different[0].split()[:2] == ["tokens", "DIFFERENT"]
    assert "tokens, there should be" in different[0]


def test_a_lost_last_token(prove, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The last generated token is in the transcript although it is not cached; it must stay."""

    def greedy(self: Session, turn: int) -> None:
        revert(self, turn)
        del self.tokens[self.cache.length :]

    monkeypatch.setattr(Session, "revert", greedy)
    code, different = prove()
    assert code == 1 and different[0].split()[:2] == ["tokens", "DIFFERENT"]


@pytest.mark.parametrize(("kind", "index"), [("key", 0), ("value", 1)])
def test_a_stale_last_key_or_value(prove, kind: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The length is right, but one number of the last cached token has another lowest bit."""

    def stale(self: Session, turn: int) -> None:
        revert(self, turn)
        array = self.cache.view(2, self.cache.length - 1, self.cache.length)[index]
        array.flags.writeable = True
        array.view("uint32")[1, 0, 3] ^= 1

    monkeypatch.setattr(Session, "revert", stale)
    code, different = prove()
    assert code == 1 and different[0].startswith("  keys and values  DIFFERENT")
    assert f"layer 2, head 1: the {kind} of token" in different[0]


def test_a_wrong_position_of_the_random_numbers(prove, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """A generator that goes on counting where it was, whatever has been reverted."""
    drawn = 0

    def uniform_with_memory(self: Sampler, position: int) -> float:
        nonlocal drawn
        drawn += 1
        return uniform(self, position + drawn)

    monkeypatch.setattr(Sampler, "uniform", uniform_with_memory)
    code, different = prove()
    assert code == 1
    assert any(line.split()[:3] == ["next", "answer", "DIFFERENT"] or "tokens" in line for line in different)


def test_the_random_script_finds_it_too(prove, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def stale(self: Session, turn: int) -> None:
        revert(self, turn)
        self.tokens[-1:] = [7] if self.tokens else []

    monkeypatch.setattr(Session, "revert", stale)
    script = ("--turns", "4", "--random-reverts", "2", "--seed", "4")
    assert prove(*script)[0] == 1
    monkeypatch.undo()
    assert prove(*script) == (0, [])
