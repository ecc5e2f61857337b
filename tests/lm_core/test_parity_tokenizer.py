"""Ids and texts beside ``transformers.AutoTokenizer``, on the tokenizers of real models."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shared_files import shared_model, story_model

from lm_core.chat_template import ChatTemplate
from lm_core.language_model import LanguageModel
from lm_core.tokenizer import Tokenizer

# The oracle brings warnings of its own, which are not this project's to fix.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

# Not story-656k: transformers 5 builds its tokenizer anew by the settings beside tokenizer.json, and
# loses its unknown token by that.
FOLDERS: dict[str, Callable[[], Path]] = {
    "stories260K": lambda: shared_model("stories260K"),
    "stories15M": lambda: shared_model("stories15M"),
    "minueza": lambda: shared_model("minueza-32m-ultrachat"),
    "tinyllama": lambda: shared_model("tinyllama-chat-v1.0"),
    "story": story_model,
}

TEXTS = [
    "",
    " ",
    "\n",
    "Once upon a time, there was a little girl named Lily.",
    " leading",
    "trailing  ",
    "two  spaces   three",
    "\ttabs\tand\r\nlines\n\n\n",
    "don't it's we'll I'M",
    "1234567890 3.14 1,000 ½ ²",
    "你好，世界。龘",
    "🙂 👩‍👩‍👧 🏳️‍🌈",
    "é e\u0301 ﬁ ﷺ",
    "שלום עולם مرحبا",
    "<s>x</s> <unk> <|im_start|>user\nHi<|im_end|>\n<|end|><|story|>",
    "<s><s></s></s>",
    "</s>\n<|user|>\nHi</s>\n<|assistant|>\n",
    "def f(x):\n    return {x: [1, 2]}  # no",
    "\x00\x01\x7f\x80",
    "\ufffd\ufffe\ufdd0\u200b",
    "x" * 300,
    "▁▁ <0x0A> Ġthe",
]


@pytest.fixture(scope="module", params=FOLDERS)
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, Any]:
    """Ours and the published one over one folder."""
    transformers = pytest.importorskip("transformers")
    folder = FOLDERS[request.param]()
    return Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def texts() -> list[str]:
    """Those above, and random joints of them."""
    chance = random.Random(1)
    return TEXTS + ["".join(chance.choices(TEXTS, k=3)) for _ in range(150)]


def test_encode(both: tuple[Tokenizer, Any]) -> None:
    """With and without what the model expects around a text."""
    ours, oracle = both
    for text in texts():
        for add in (True, False):
            assert ours.encode(text, add) == oracle(text, add_special_tokens=add)["input_ids"], (text, add)


def test_decode(both: tuple[Tokenizer, Any]) -> None:
    """Of encoded texts and of random ids, with and without special tokens."""
    ours, oracle = both
    chance, size = random.Random(2), ours.vocab_size
    cases = [ours.encode(text) for text in texts()]
    cases += [chance.choices(range(size), k=chance.randint(1, 20)) for _ in range(150)]
    for ids in cases:
        for skip in (True, False):
            expected = oracle.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip) == expected, (ids, skip)


def test_special_tokens(both: tuple[Tokenizer, Any]) -> None:
    """Beginning, end, and everything that is hidden."""
    ours, oracle = both
    if oracle.bos_token is not None:
        assert ours.bos_token_id in (oracle.bos_token_id, None)
    assert ours.eos_token_id in (oracle.eos_token_id, None)
    assert ours.special_ids >= set(oracle.all_special_ids)
    assert ours.vocab_size == len(oracle)


@pytest.mark.parametrize("name", ["minueza", "tinyllama"])
def test_conversations(name: str) -> None:
    """Turn by turn, a conversation has the ids that it is given at once by the published template."""
    transformers = pytest.importorskip("transformers")
    folder = FOLDERS[name]()
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    template = ChatTemplate.from_pretrained(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    # Nothing is computed: the engine itself is not needed.
    model = LanguageModel(name, None, tokenizer, template, frozenset())  # type: ignore[arg-type]
    messages: list[dict[str, str]] = [{"role": "system", "content": "Be kind."}]
    ids: list[int] = []
    text = ""
    for question, answer in (
        ("Are apples red?", "Yes, they are."),
        ("好\n", " Two  lines.\n\nOf text."),
        ("x", "y"),
    ):
        messages.append({"role": "user", "content": question})
        rendered = model.render(messages)
        assert rendered.startswith(text)
        ids += model.encode_rendered(rendered[len(text) :], after=text or None)
        assert ids == oracle.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        # What a model would say: the answer as the template has it, and its end token.
        messages.append({"role": "assistant", "content": answer})
        end = model.tokenizer.decode([model.tokenizer.eos_token_id or 0], skip_special_tokens=False)
        whole = model.render(messages)
        text = whole[: whole.index(end, len(rendered)) + len(end)]
        ids = model.encode_rendered(text)
