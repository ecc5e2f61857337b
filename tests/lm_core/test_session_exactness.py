"""Promises E1, E3, E4, E5 and E6 of ``doc/exactness.md``, under random histories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from session_machine import SessionMachine
from shared_files import chat_model, shared_model, story_model

from lm_core.chat_template import ChatTemplate
from lm_core.language_model import LanguageModel
from lm_core.model import Llama


def with_context(folder: Path, dtype: str, context_length: int) -> LanguageModel:
    """The model of ``folder`` with a chat template, and a context short enough to be filled."""
    language_model = LanguageModel.from_pretrained(folder, dtype, ChatTemplate.fallback("plain"))
    llama = language_model.llama
    config = replace(llama.config, max_position_embeddings=context_length)
    return replace(language_model, llama=Llama(config, llama._weights))


@pytest.mark.parametrize("name", ["models/story", "stories260K"])
def test_a_session_is_what_its_surviving_turns_make_it(name: str) -> None:
    """Turns, reverts, forks, evictions, crashes and cancellations in any order, f32 and bf16.

    Contexts of 64 (the smallest capacity), 65 and 200 tokens; prefill chunks of 1, 2 and 7 tokens,
    which are cut and crossed all the time, and the real one.
    """
    folder = story_model() if name == "models/story" else shared_model(name)

    class Machine(SessionMachine):
        language_models = [
            with_context(folder, dtype, context_length)
            for dtype in ("f32", "bf16")
            for context_length in (64, 65, 200)
        ]
        prefill_chunks = [1, 2, 7, 512]

    run_state_machine_as_test(Machine)


@pytest.mark.slow
def test_so_it_is_with_the_chat_model() -> None:
    """The same on real chat: its own template, 30 layers, and a sixth of the examples."""

    class Machine(SessionMachine):
        language_models = [LanguageModel.from_pretrained(chat_model(), dtype) for dtype in ("f32", "bf16")]
        prefill_chunks = [7, 64, 512]

    profile = settings.get_current_profile_name()
    examples = settings.get_profile(profile).max_examples // 6
    run_state_machine_as_test(Machine, settings=settings(max_examples=examples))
