"""Conversion beside ``transformers``' own GGUF reader, and the chat model beside ``transformers``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import GREEDY_TOKENS
from decoding import greedy
from shared_files import chat_model
from tiny_gguf import write_tiny_gguf

from lm_core.language_model import LanguageModel
from lm_core.sampler import SamplingParams
from lm_core.session import Session
from lm_core.tokenizer import Tokenizer
from lm_models.gguf_conversion import convert_gguf
from lm_models.progress import SilentProgress

if TYPE_CHECKING:
    from torch_oracle import TransformersOracle

# The oracles bring warnings of their own, which are not this project's to fix.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

QUESTION = "The capital of France is"


@pytest.fixture(autouse=True)
def _oracles() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers needs accelerate to read GGUF files")


def convert(file: Path, folder: Path) -> Path:
    folder.mkdir()
    convert_gguf(file, folder, SilentProgress())
    return folder


def opened(folder: Path, **where: str) -> Any:
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where).eval()


def oracle_of(folder: Path) -> TransformersOracle:
    from torch_oracle import TransformersOracle

    return TransformersOracle(folder)


@pytest.mark.parametrize(
    "changes", [{}, {"tied": False}, {"architecture": "qwen2", "pre": "qwen2", "bias": True}]
)
def test_weights_and_logits_to_the_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", **changes)
    assert_same_model(file, convert(file, tmp_path / "ours"))


def assert_same_model(file: Path, folder: Path) -> None:
    """``transformers`` reads the same weights from the GGUF file and from the converted folder."""
    import torch

    theirs, ours = opened(file.parent, gguf_file=file.name), opened(folder)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    ids = torch.tensor([[1, 7, 100, 33, 260]])
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("changes", [{}, {"pre": "llama-bpe"}, {"pre": "qwen2"}, {"tokenizer": "llama"}])
def test_tokenizer(tmp_path: Path, changes: dict[str, Any]) -> None:
    import transformers

    file = write_tiny_gguf(tmp_path / "tiny.gguf", **changes)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    folder = convert(file, tmp_path / "ours")
    ours, loaded = Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    # Where the two differ on purpose: transformers does not split SmolLM's digits, and adds no space
    # before a SentencePiece text that begins with one.
    for text in ("the hello", "it is  the é🐢\n\n\tx", "<|im_start|>he<|im_end|>", "I'll he'd tell"):
        assert ours.encode(text) == theirs(text).input_ids == loaded(text).input_ids, text


class TestChatModel:
    def test_continues_a_text_as_transformers_does(self) -> None:
        folder = chat_model()
        model = LanguageModel.from_pretrained(folder)
        ids = model.encode_text(QUESTION)
        answer = greedy(model.llama, ids, GREEDY_TOKENS)
        assert answer == oracle_of(folder).greedy(ids, GREEDY_TOKENS)[0]
        assert "Paris" in model.tokenizer.decode(answer)

    def test_answers_a_question_as_transformers_does(self) -> None:
        """64 greedy tokens after the chat template's prompt, and the session's answer is their beginning."""
        import transformers

        folder = chat_model()
        model = LanguageModel.from_pretrained(folder)
        messages = [{"role": "user", "content": QUESTION}]
        ids = model.encode_rendered(model.render(messages))
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert ids == theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        expected = oracle_of(folder).greedy(ids, GREEDY_TOKENS)[0]
        assert greedy(model.llama, ids, GREEDY_TOKENS) == expected
        session = Session(model)
        params = SamplingParams(temperature=0.0)
        answer = [token.token_id for token in session.ask(QUESTION, params, max_new_tokens=GREEDY_TOKENS)]
        assert answer == expected[: len(answer)]
        # It ends where it should: at a stop token, or after 64.
        assert len(answer) == GREEDY_TOKENS or answer[-1] in model.stop_token_ids
        assert "Paris" in session.turns[0].text
