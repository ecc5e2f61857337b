"""A model folder as one thing, and control tokens that only the template may write."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_language_model import CHATML, END

from lm_core.chat_template import ChatTemplate
from lm_core.errors import InvalidParameter, ModelNotFound, TemplateError, TokenizerError
from lm_core.language_model import BREAK, LanguageModel

START = 1
CONTROL = ["<|begin|>", "<|im_start|>", "<|im_end|>"]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_everything_that_belongs_together(chat_folder: Path, chat_model: LanguageModel) -> None:
    """Name, weights, tokenizer, template and stop tokens of one folder."""
    assert chat_model.name == chat_folder.name
    assert chat_model.llama.config.vocab_size == chat_model.tokenizer.vocab_size
    assert chat_model.template is not None and chat_model.template.source == CHATML
    assert chat_model.stop_token_ids == {END}
    assert chat_model.bos_token_id == 0
    assert LanguageModel.from_pretrained(chat_folder, dtype="bf16").llama.dtype == "bf16"


def test_the_name_is_the_folders(
    chat_folder: Path, chat_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it was spelled."""
    monkeypatch.chdir(chat_folder)
    for path in (".", "../byte_level/", Path("..") / "byte_level"):
        assert LanguageModel.from_pretrained(path).name == chat_model.name == "byte_level"


def test_a_chosen_template_comes_before_the_models_own(chat_folder: Path, tmp_path: Path) -> None:
    """As an object, as the name of a fallback, and as a file."""
    file = tmp_path / "other.jinja"
    file.write_text("{{ messages[0]['content'] }}!")
    for template, text in (
        (ChatTemplate("{{ messages[0]['content'] }}?"), "Why?"),
        ("plain", "User: Why\nAssistant:"),
        (str(file), "Why!"),
    ):
        assert LanguageModel.from_pretrained(chat_folder, template=template).render([user("Why")]) == text
    with pytest.raises(InvalidParameter, match="chatml, plain"):
        LanguageModel.from_pretrained(chat_folder, template="no-such-template")


def test_damage_of_any_part_is_refused(chat_folder: Path, tmp_path: Path) -> None:
    """Each file that a folder must have, and a tokenizer of another model."""
    folder = shutil.copytree(chat_folder, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"]["one-more"] = 266
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(TokenizerError, match="266"):
        LanguageModel.from_pretrained(folder)
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        (folder / name).unlink()
        with pytest.raises(ModelNotFound, match=name):
            LanguageModel.from_pretrained(folder)


class TestEncodeText:
    """A text that begins a sequence."""

    def test_the_empty_text_is_the_beginning_alone(self, chat_model: LanguageModel) -> None:
        """Also where the tokenizer adds none by itself, and the configuration names it."""
        assert chat_model.encode_text("") == [0]
        assert chat_model.encode_text("and") == chat_model.tokenizer.encode("and")

    def test_the_beginning_from_the_configuration(self, chat_folder: Path, tmp_path: Path) -> None:
        """A tokenizer that names none, and a model that has none at all."""
        folder = shutil.copytree(chat_folder, tmp_path / "model")
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        (folder / "tokenizer.json").write_text(
            json.dumps({**tokenizer, "post_processor": None}), encoding="utf-8"
        )
        (folder / "tokenizer_config.json").write_text("{}")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "bos_token_id": 7}))
        assert LanguageModel.from_pretrained(folder).encode_text("") == [7]
        (folder / "config.json").write_text(json.dumps({**config, "bos_token_id": None}))
        with pytest.raises(InvalidParameter, match="the prompt is empty") as refused:
            LanguageModel.from_pretrained(folder).encode_text("")
        assert refused.value.param == "prompt"


class TestRender:
    """Messages to text, and that text to ids."""

    def test_a_conversation(self, chat_model: LanguageModel) -> None:
        """The template's control tokens are control tokens."""
        text = chat_model.render([user("and")])
        assert text == "<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n"
        ids = chat_model.encode_rendered(text)
        assert [index for index in ids if index in (START, END)] == [START, END, START]
        assert chat_model.tokenizer.decode(ids, skip_special_tokens=False) == text

    def test_a_model_without_a_template(self, chat_model: LanguageModel) -> None:
        """It is named, with the way out."""
        with pytest.raises(TemplateError, match="'byte_level' has no chat template.*plain"):
            replace(chat_model, template=None).render([user("and")])

    @pytest.mark.parametrize("messages", [["and"], [None], [7], [["user", "and"]], [{"content": "and"}]])
    def test_what_is_no_message(self, messages: Any, chat_model: LanguageModel) -> None:
        """Refused by name, whatever it is."""
        with pytest.raises(InvalidParameter) as refused:
            chat_model.render(messages)
        assert refused.value.param == "messages"

    @pytest.mark.parametrize("content", [None, 7])
    def test_content_that_is_no_text_is_the_templates_business(
        self, content: Any, chat_model: LanguageModel
    ) -> None:
        """This template adds texts, and says that it cannot."""
        with pytest.raises(TemplateError):
            chat_model.render([user(content)])


class TestControlTokensOfUsers:
    """A control token that somebody typed is text."""

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(
        parts=st.lists(
            st.sampled_from([*CONTROL, BREAK, "<", "<|", "|>", "im_end", "|im_end|>", "t", "he", "\n"])
        )
    )
    def test_no_text_becomes_a_control_token(self, parts: list[str], chat_model: LanguageModel) -> None:
        """However it is put together; what the user wrote is what the model reads, letter by letter."""
        content = "".join(parts)
        ids = chat_model.encode_rendered(chat_model.render([user(content)]))
        assert [index for index in ids if index <= END] == [START, END, START]
        written = content.replace(BREAK, "")
        assert ids == chat_model.encode_rendered(chat_model.render([user(written)]))
        expected = f"<|im_start|>user\n{written}<|im_end|>\n<|im_start|>assistant\n"
        assert chat_model.tokenizer.decode(ids, skip_special_tokens=False) == expected

    def test_no_part_of_a_message_is_left_out(self, chat_model: LanguageModel) -> None:
        """Contents of several parts, and roles, which an API takes from strangers too."""
        template = ChatTemplate("{{ messages[0]['content'][0]['text'] }}{{ messages[0]['role'] }}")
        model = replace(chat_model, template=template)
        message = {"role": "<|im_start|>", "content": [{"type": "text", "text": "<|im_end|>"}]}
        ids = model.encode_rendered(model.render([message]))
        assert min(ids) > END
        assert model.tokenizer.decode(ids) == "<|im_end|><|im_start|>"
        assert message == {"role": "<|im_start|>", "content": [{"type": "text", "text": "<|im_end|>"}]}

    def test_all_special_tokens_are_meant(self, chat_model: LanguageModel) -> None:
        """Also one that no template uses."""
        for token in CONTROL:
            assert min(chat_model.encode_rendered(chat_model.disarmed(f"x{token}y"))) > END
            assert min(chat_model.encode_rendered(f"x{token}y")) <= END


class TestEncodeRest:
    """The end of a rendering, where the beginning is tokens already."""

    TEXTS = st.lists(
        st.sampled_from(["and", " the", "the ", "\n", "\n\n", "<|im_end|>", "</s>", BREAK, "好", "", " "]),
        max_size=5,
    )

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(question=TEXTS, answer=TEXTS, second=TEXTS)
    def test_it_is_encoded_as_within_the_whole(
        self,
        question: list[str],
        answer: list[str],
        second: list[str],
        chat_model: LanguageModel,
        sentence_model: LanguageModel,
    ) -> None:
        """After an answer's end token, a second question has the ids of a conversation encoded at once."""
        for model in (chat_model, sentence_model):
            messages = [user("".join(question)), {"role": "assistant", "content": "".join(answer)}]
            whole = model.render([*messages, user("".join(second))])
            end = "<|im_end|>" if model is chat_model else "</s>"
            shared = whole.rindex(end, 0, whole.rindex(end)) + len(end)
            head, rest = whole[:shared], whole[shared:]
            ids = model.encode_rendered(head) + model.encode_rendered(rest, after=head)
            assert ids == model.encode_rendered(whole)

    def test_a_typed_control_token_does_not_count(self, sentence_model: LanguageModel) -> None:
        """What follows it in the prompt stays what it would be without it."""
        head = sentence_model.disarmed("and</s>")
        assert sentence_model.encode_rendered(" the", after=head) == [
            sentence_model.tokenizer.token_id("▁the")
        ]
        assert sentence_model.encode_rendered("the", after=head) == [sentence_model.tokenizer.token_id("the")]
