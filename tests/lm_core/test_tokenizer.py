"""Text to ids and back, whole and piece by piece, for both kinds of tokenizer that Llama models have."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from checkpoints import OLDER
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_files import shared_model, story_model
from tiny_tokenizers import byte_fallback, byte_level

from lm_core.config import LlamaConfig
from lm_core.errors import ConfigError, InvalidParameter, ModelNotFound, TokenizerError
from lm_core.tokenizer import StreamDecoder, Tokenizer

BYTE_LEVEL, BYTE_FALLBACK = Tokenizer(byte_level(), {}), Tokenizer(byte_fallback(), {})

both = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte_level", "byte_fallback"])
either = st.sampled_from([BYTE_LEVEL, BYTE_FALLBACK])
cuts = st.integers(0, 10_000)
texts = st.text(
    st.sampled_from("the and  \n\tx你好🙂é\u0301\u200d👩\ufffd\x00")
    | st.characters(exclude_categories=["Cs"])
)

REAL: dict[str, Callable[[], Path]] = {
    "story": story_model,
    **{
        name: lambda name=name: shared_model(name)  # type: ignore[misc]
        for name in (
            "stories260K",
            "stories15M",
            "story-656k",
            "minueza-32m-ultrachat",
            "tinyllama-chat-v1.0",
        )
    },
}


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """The ids of single bytes."""
    if tokenizer is BYTE_FALLBACK:
        return [3 + byte for byte in data]
    # GPT-2's alphabet: what can be printed stands for itself, the rest for letters from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [tokenizer.token_id(letters[byte]) or 0 for byte in data]


def pieces(tokenizer: Tokenizer, ids: list[int], prefix: list[int], **options: Any) -> list[str]:
    """What a stream shows for each id."""
    stream = tokenizer.stream(prefix, **options)
    return [stream.push(index) for index in ids]


def folder_of(
    path: Path, backend: tokenizers.Tokenizer | str, settings: dict[str, Any] | str | None = None
) -> Path:
    """A folder with this ``tokenizer.json``, and settings where there are any."""
    content = backend if isinstance(backend, str) else backend.to_str()
    (path / "tokenizer.json").write_text(content, encoding="utf-8")
    if settings is not None:
        written = settings if isinstance(settings, str) else json.dumps(settings)
        (path / "tokenizer_config.json").write_text(written, encoding="utf-8")
    return path


class TestEncode:
    """Text to ids."""

    def test_by_hand(self) -> None:
        """The beginning, merges, spaces, and bytes of what is not in the vocabulary."""
        the, space_the, space_and = (BYTE_LEVEL.token_id(token) for token in ("the", "Ġthe", "Ġand"))
        assert BYTE_LEVEL.encode("the and the") == [0, the, space_and, space_the]
        space_the, space_and = (BYTE_FALLBACK.token_id(token) for token in ("▁the", "▁and"))
        assert BYTE_FALLBACK.encode("the and the") == [1, space_the, space_and, space_the]
        space = BYTE_FALLBACK.token_id("▁")
        assert BYTE_FALLBACK.encode("好", False) == [space, *(3 + byte for byte in "好".encode())]

    @both
    def test_special_tokens_around_the_text_are_a_choice(self, tokenizer: Tokenizer) -> None:
        """What the model expects before a text, or the text alone."""
        assert tokenizer.encode("and")[1:] == tokenizer.encode("and", add_special_tokens=False)
        assert tokenizer.encode("", add_special_tokens=False) == []
        assert len(tokenizer.encode("")) == 1

    def test_control_tokens_in_a_text_are_read_as_such(self) -> None:
        """That is what templates rely on; what users type is broken first, see ``LanguageModel.disarmed``."""
        assert BYTE_LEVEL.encode("<|im_start|>and<|im_end|>", False) == [1, BYTE_LEVEL.token_id("and"), 2]

    @both
    @pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d\ude00"])
    def test_half_a_surrogate_pair_is_refused(self, tokenizer: Tokenizer, text: str) -> None:
        """A terminal that is not UTF-8 makes them of foreign bytes; no encoding has them."""
        for call in (tokenizer.encode, lambda text: tokenizer.encode_after("\n", text)):
            with pytest.raises(InvalidParameter, match="not valid Unicode") as refused:
                call(text)
            assert refused.value.param == "text" and "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("add_bos_token", "in_post_processor", "beginnings"),
        [
            (True, True, 1),
            (True, False, 1),
            (False, True, 1),
            (False, False, 0),
            (None, False, 0),
            ("yes", False, 0),
        ],
    )
    def test_the_beginning_comes_from_either_file_but_once(
        self, add_bos_token: Any, in_post_processor: bool, beginnings: int
    ) -> None:
        """Some exports leave BOS to ``tokenizer_config.json`` instead of the post-processor."""
        backend = byte_fallback()
        if not in_post_processor:
            backend.post_processor = tokenizers.processors.TemplateProcessing(single="$A", special_tokens=[])
        tokenizer = Tokenizer(backend, {"bos_token": "<s>", "add_bos_token": add_bos_token})
        assert tokenizer.encode("and").count(1) == beginnings
        assert tokenizer.encode("and", add_special_tokens=False).count(1) == 0
        assert tokenizer.encode("").count(1) == beginnings

    def test_left_over_truncation_and_padding_are_off(self) -> None:
        """They are saved with a tokenizer that was in use for training."""
        backend = byte_level()
        backend.enable_truncation(3)
        backend.enable_padding(length=50)
        assert Tokenizer(backend, {}).encode("and the and the and") == BYTE_LEVEL.encode(
            "and the and the and"
        )


class TestEncodeAfter:
    """Text that does not begin a sequence."""

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(tokenizer=either, before=texts, text=texts)
    def test_after_a_line_break_the_text_is_unchanged(
        self, tokenizer: Tokenizer, before: str, text: str
    ) -> None:
        """No space is put between what was there and what is added."""
        ids = tokenizer.encode(before + "-", add_special_tokens=False) + tokenizer.encode_after("\n", text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == before + "-" + text

    def test_a_space_is_put_only_where_the_text_begins(self) -> None:
        """The reason why this is not plain ``encode``."""
        space_and, and_ = BYTE_FALLBACK.token_id("▁and"), BYTE_FALLBACK.token_id("and")
        assert BYTE_FALLBACK.encode("and", False) == [space_and]
        assert BYTE_FALLBACK.encode_after("\n", "and") == [and_]
        assert BYTE_FALLBACK.encode_after("\n", " and") == [space_and]
        assert BYTE_LEVEL.encode_after("\n", "and") == BYTE_LEVEL.encode("and", False)

    def test_where_the_texts_merge_the_second_is_encoded_alone(self) -> None:
        """What is there stays as it is: ids of a session are never changed by what follows."""
        assert BYTE_LEVEL.encode("\n\n", False) == [BYTE_LEVEL.token_id("ĊĊ")]
        assert BYTE_LEVEL.encode_after("\n", "\n") == [BYTE_LEVEL.token_id("Ċ")]
        assert BYTE_LEVEL.encode_after("<|im_", "end|>") == BYTE_LEVEL.encode("end|>", False)


class TestDecode:
    """Ids to text."""

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(tokenizer=either, text=texts)
    def test_any_text_comes_back(self, tokenizer: Tokenizer, text: str) -> None:
        """With the beginning that ``encode`` put before it, and without."""
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text

    def test_special_tokens_are_hidden_or_spelled(self) -> None:
        """Hidden by default."""
        ids = BYTE_LEVEL.encode("and<|im_end|>the")
        assert BYTE_LEVEL.decode(ids) == "andthe"
        assert BYTE_LEVEL.decode(ids, skip_special_tokens=False) == "<|begin|>and<|im_end|>the"

    def test_normalized_special_tokens_are_hidden_too(self) -> None:
        """The library hides by spelling and misses those that its normalizer gave another one."""
        tokenizer = Tokenizer(byte_fallback(normalized=True), {})
        assert tokenizer.special_ids == {0, 1, 2}
        assert tokenizer.decode([1, *tokenizer.encode("the", False), 2]) == "the"
        assert "".join(pieces(tokenizer, [1, tokenizer.token_id("▁the"), 2], prefix=[])) == "the"

    def test_the_pattern_matches_the_longest_special_token(self) -> None:
        """One may begin with another."""
        backend = byte_level()
        backend.add_special_tokens(["<|im_end|>!", "(.*)"])
        pattern = Tokenizer(backend, {}).special_pattern
        assert pattern is not None
        assert pattern.findall("a<|im_end|>!b<|im_end|>(.*)c(x)") == ["<|im_end|>!", "<|im_end|>", "(.*)"]
        plain = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
        assert Tokenizer(plain, {}).special_pattern is None


class TestStream:
    """Text piece by piece."""

    @both
    @pytest.mark.parametrize("text", ["🙂", "你好", "👩‍👩‍👧", "é"])
    def test_a_character_of_several_tokens_comes_whole(self, tokenizer: Tokenizer, text: str) -> None:
        """With its last byte, and nothing before that."""
        shown = pieces(tokenizer, byte_ids(tokenizer, text.encode()), prefix=tokenizer.encode("and"))
        expected = [part for character in text for part in [*[""] * (len(character.encode()) - 1), character]]
        assert shown == expected

    @settings(max_examples=250, deadline=None, derandomize=True)
    @given(tokenizer=either, text=texts, cut=cuts, skip=st.booleans())
    def test_the_pieces_are_the_text(self, tokenizer: Tokenizer, text: str, cut: int, skip: bool) -> None:
        """Wherever a prompt ends, up to the last character, and nothing is held back at the end of a text."""
        prompt = text[: cut % (len(text) + 1)]
        ids = tokenizer.encode(text, add_special_tokens=False)
        prefix = tokenizer.encode(prompt, add_special_tokens=False)
        if ids[: len(prefix)] != prefix:
            return
        shown = "".join(pieces(tokenizer, ids[len(prefix) :], prefix, skip_special_tokens=skip))
        # The character U+FFFD itself looks like an incomplete one while it is the last.
        whole = text[len(prompt) :]
        assert shown == whole or (whole.startswith(shown) and set(whole[len(shown) :]) == {"\ufffd"})

    @settings(max_examples=250, deadline=None, derandomize=True)
    @given(
        tokenizer=either, ids=st.lists(st.integers(0, 274)), prefix=st.lists(st.integers(0, 274), max_size=4)
    )
    def test_no_ids_can_make_it_fail(self, tokenizer: Tokenizer, ids: list[int], prefix: list[int]) -> None:
        """A model may choose any bytes; what is whole is shown nevertheless."""
        stream = tokenizer.stream(prefix)
        for index in ids:
            stream.push(index)
        assert stream.push(byte_ids(tokenizer, b"x")[0]).endswith("x")

    @both
    def test_broken_bytes_do_not_spoil_what_follows(self, tokenizer: Tokenizer) -> None:
        """Each is U+FFFD, as soon as it cannot become a character; the next character is whole."""
        ids = byte_ids(tokenizer, b"\xe4\xbd\xe4\xbd\xe4\xbd") + byte_ids(tokenizer, "好!".encode())
        shown = "".join(pieces(tokenizer, ids, prefix=tokenizer.encode("and")))
        assert shown.endswith("好!") and set(shown[:-2]) == {"\ufffd"}
        endless = pieces(tokenizer, byte_ids(tokenizer, b"\x80" * 20), prefix=[])
        assert "".join(endless) == "\ufffd" * 17

    @both
    def test_broken_bytes_do_not_take_back_what_was_shown(self, tokenizer: Tokenizer) -> None:
        """Regression: the library's stream fails here, since it decodes 好 and what follows it together."""
        ids = byte_ids(tokenizer, "好".encode() + b"\xe4\xbdx" + "你".encode())
        shown = pieces(tokenizer, ids, prefix=[])
        assert shown[2] == "好" and shown[-1] == "你"
        assert "".join(shown).strip("\ufffd").startswith("好\ufffd")

    @both
    def test_a_prompt_that_ends_in_a_broken_character_is_not_shown_again(self, tokenizer: Tokenizer) -> None:
        """Regression: the library's stream takes it for incomplete and gives it out with the first token."""
        prefix = tokenizer.encode("the and \ufffd")
        assert "".join(pieces(tokenizer, tokenizer.encode_after("\n", " the"), prefix)) == " the"

    @both
    def test_the_space_before_a_word(self, tokenizer: Tokenizer) -> None:
        """It is shown, except where a tokenizer puts it before the very first word."""
        word = tokenizer.encode_after("\n", " the")
        assert pieces(tokenizer, word, prefix=tokenizer.encode("and")) == [" the"]
        first = tokenizer.encode("the")
        assert "".join(pieces(tokenizer, first, prefix=[])) == "the"
        assert "".join(pieces(tokenizer, [*first, *word], prefix=[first[0]])) == "the the"

    def test_special_tokens(self) -> None:
        """Hidden ones are empty pieces, also in the middle of a character."""
        first, second = byte_ids(BYTE_LEVEL, "é".encode())
        assert pieces(BYTE_LEVEL, [1, first, 2, second, 2], []) == ["", "", "", "é", ""]
        assert pieces(BYTE_LEVEL, [1, 2], [], skip_special_tokens=False) == ["<|im_start|>", "<|im_end|>"]

    def test_a_vocabulary_without_letters(self) -> None:
        """A decoder needs no token for a letter of its own."""
        words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "b": 1}, unk_token="<unk>"))
        stream = StreamDecoder(words, [1], ())
        assert stream.push(1) == "b"


class TestFiles:
    """``tokenizer.json`` and ``tokenizer_config.json``."""

    def test_ids_of_the_beginning_and_the_end(self, tmp_path: Path) -> None:
        """Spelled as a text or as an object with properties; None where the vocabulary has no such token."""
        spelled = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}
        tokenizer = Tokenizer.from_pretrained(folder_of(tmp_path, byte_fallback(), spelled))
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
        for settings_ in (
            None,
            {},
            {"bos_token": "<no>", "eos_token": None},
            {"bos_token": 1, "eos_token": []},
        ):
            tokenizer = Tokenizer.from_pretrained(folder_of(tmp_path, byte_fallback(), settings_ or {}))
            assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (None, None)

    def test_settings_may_be_missing(self, tmp_path: Path) -> None:
        """``tokenizer.json`` alone is a tokenizer."""
        tokenizer = Tokenizer.from_pretrained(folder_of(tmp_path, byte_level()))
        assert tokenizer.encode("the and") == BYTE_LEVEL.encode("the and")

    def test_a_missing_tokenizer(self, tmp_path: Path) -> None:
        """Named, also where the folder itself is missing."""
        for folder in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(ModelNotFound, match=r"tokenizer\.json"):
                Tokenizer.from_pretrained(folder)

    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", "{}", "null", '{"model": {"type": "BPE"}}', "\x00" * 100, '{"version": "9.0"}'],
    )
    def test_damaged_tokenizers(self, content: str, tmp_path: Path) -> None:
        """One line of the right class, whatever the library says of it."""
        with pytest.raises(TokenizerError, match=r"tokenizer\.json") as refused:
            Tokenizer.from_pretrained(folder_of(tmp_path, content))
        assert "\n" not in str(refused.value)

    def test_a_truncated_tokenizer(self, tmp_path: Path) -> None:
        """An interrupted download."""
        with pytest.raises(TokenizerError):
            Tokenizer.from_pretrained(folder_of(tmp_path, byte_level().to_str()[:-100]))

    @pytest.mark.parametrize("content", ["", "[]", "{"])
    def test_damaged_settings(self, content: str, tmp_path: Path) -> None:
        """They are not taken for missing."""
        with pytest.raises(ConfigError, match=r"tokenizer_config\.json"):
            Tokenizer.from_pretrained(folder_of(tmp_path, byte_level(), content))

    def test_more_ids_than_the_vocabulary(self) -> None:
        """Refused with both numbers: one more id, also one far away or added later; fewer are fine."""
        config = LlamaConfig.from_dict({**OLDER, "vocab_size": 266})
        assert BYTE_LEVEL.vocab_size == 266
        BYTE_LEVEL.check_fits(config)
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE({"a": 5}, [])), {}).check_fits(config)
        added = byte_level()
        added.add_tokens(["<extra>"])
        far = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 999}, unk_token="a"))
        for backend, largest in ((added, 266), (far, 999)):
            with pytest.raises(TokenizerError, match=rf"up to {largest}.* 266 entries") as refused:
                Tokenizer(backend, {}).check_fits(config)
            assert "tokenizer.json" in str(refused.value)


WORDS = [
    "Once upon a time",
    " there was",
    "  two  ",
    "你好，世界",
    "🙂👩‍👩‍👧",
    "a\n\nb\tc",
    "é e\u0301",
    "שלום",
    "\x01",
    "1234",
]


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers(name: str) -> None:
    """Round trips, streams and broken bytes with the tokenizers of real models."""
    tokenizer = Tokenizer.from_pretrained(REAL[name]())
    tokenizer.check_fits(LlamaConfig.from_pretrained(REAL[name]()))
    chance, vocab_size = random.Random(name), tokenizer.vocab_size
    # One of them has no tokens for single bytes, and knows English letters alone.
    words = WORDS if tokenizer.decode(tokenizer.encode("🙂")) == "🙂" else WORDS[:3]
    assert (words is WORDS) == (name != "story-656k")
    for _ in range(150):
        # Some take a space at the very beginning for the one that they put there themselves.
        text = "I" + "".join(chance.choices(words, k=chance.randint(1, 5)))
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        cut = chance.randint(0, len(ids))
        while (prompt := tokenizer.decode(ids[:cut])).endswith("\ufffd"):
            cut -= 1
        assert prompt + "".join(pieces(tokenizer, ids[cut:], ids[:cut])) == text
        appended = tokenizer.encode_after("\n", text)
        assert tokenizer.decode(ids + appended) == text + text
        stream = tokenizer.stream(chance.choices(range(vocab_size), k=3))
        for index in chance.choices(range(vocab_size), k=30):
            stream.push(index)


def test_chinese_and_emoji_in_bytes_of_stories15m() -> None:
    """SentencePiece with byte fallback: no token for any of these characters but some Chinese ones."""
    tokenizer = Tokenizer.from_pretrained(shared_model("stories15M"))
    ids = tokenizer.encode("a 🙂你龘", add_special_tokens=False)
    emoji = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    rare = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in "龘".encode()]
    assert ids[-len(rare) :] == rare
    start = ids.index(emoji[0])
    assert ids[start : start + 4] == emoji
    assert pieces(tokenizer, ids[start:], ids[:start]) == ["", "", "", "🙂", "你", "", "", "龘"]
