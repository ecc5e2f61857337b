"""Text to token ids and back: a thin layer over the ``tokenizers`` library."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import tokenizers

from lm_core.config import LlamaConfig, read_json_object
from lm_core.errors import InvalidParameter, ModelNotFound, TokenizerError

REPLACEMENT = "\ufffd"
"""What the library decodes bytes to that are no whole character."""

BYTES_TO_COME = 3
"""A character of UTF-8 has at most four bytes, so a token may wait for at most three more."""


LONG_TEXT = 4096
"""Characters from which on encoding takes long enough to matter to other threads."""


class Tokenizer:
    """A model's tokenizer.

    >>> tokenizer = Tokenizer.from_pretrained("models/story")
    >>> tokenizer.decode(tokenizer.encode("Once upon a time"))
    'Once upon a time'
    """

    def __init__(self, backend: tokenizers.Tokenizer, settings: dict[str, Any]) -> None:
        self._backend = backend
        # A truncation or padding left over from training would change what the model sees.
        backend.no_truncation()
        backend.no_padding()
        # The library compares spellings to skip special tokens, which misses normalized ones.
        added = backend.get_added_tokens_decoder()
        special = {index: token.content for index, token in added.items() if token.special}
        self.special_ids = frozenset(special)
        spellings = sorted(special.values(), key=len, reverse=True)
        self.special_pattern = re.compile("|".join(map(re.escape, spellings))) if spellings else None
        """Matches every special token as it is spelled in text."""
        self.bos_token_id = self._id_of(settings, "bos_token")
        self.eos_token_id = self._id_of(settings, "eos_token")
        self._prepend_bos = settings.get("add_bos_token") is True and self.bos_token_id is not None

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Tokenizer:
        """Read ``tokenizer.json`` and, where it is there, ``tokenizer_config.json``.

        Raises:
            ModelNotFound: there is no tokenizer.
            TokenizerError: it is damaged.
            ConfigError: the settings are not JSON.
        """
        folder = Path(path)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ModelNotFound(f"the model folder {str(folder)!r} has no tokenizer.json")
        settings: dict[str, Any] = {}
        if (folder / "tokenizer_config.json").is_file():
            settings = read_json_object(folder, "tokenizer_config.json")
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        # The library raises plain Exception for every kind of damage.
        except Exception as error:
            raise TokenizerError(f"tokenizer.json in {str(folder)!r} cannot be read: {error}") from error
        return cls(backend, settings)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        count = self._backend.get_vocab_size(with_added_tokens=True)
        # Mostly they run from 0 without a gap; then there is no need for a table of all tokens.
        if None not in map(self._backend.id_to_token, range(count)):
            return count
        return 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def check_fits(self, config: LlamaConfig) -> None:
        """Refuse a tokenizer that could name tokens the model does not have.

        Raises:
            TokenizerError: it has more ids than the model's vocabulary.
        """
        if self.vocab_size > config.vocab_size:
            raise TokenizerError(
                f"tokenizer.json has ids up to {self.vocab_size - 1}, but the model's vocabulary has "
                f"{config.vocab_size} entries; the files are of different models"
            )

    def token_id(self, token: str) -> int | None:
        """The id of one token as it is spelled in the vocabulary; None where it is not there."""
        return self._backend.token_to_id(token)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``; with ``add_special_tokens``, what the model expects around it.

        Raises:
            InvalidParameter: the text has half of a surrogate pair, which no encoding can represent.
        """
        try:
            if len(text) < LONG_TEXT:
                ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
            else:
                # Only a batch lets other threads run meanwhile, and a megabyte takes seconds.
                ids = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidParameter(
                "text", "the text is not valid Unicode: it has half of a surrogate pair"
            ) from error
        # Some exports leave the BOS token to their settings instead of tokenizer.json.
        if add_special_tokens and self._prepend_bos and ids[:1] != [self.bos_token_id]:
            ids.insert(0, self.bos_token_id)  # type: ignore[arg-type]
        return ids

    def encode_after(self, before: str, text: str) -> list[int]:
        """Token ids of ``text`` as it is encoded where it follows ``before``.

        Some tokenizers put a space before what begins a text, which does not belong into the middle.

        Raises:
            InvalidParameter: as for :meth:`encode`.
        """
        head = self.encode(before, add_special_tokens=False)
        ids = self.encode(before + text, add_special_tokens=False)
        if ids[: len(head)] == head:
            return ids[len(head) :]
        return self.encode(text, add_special_tokens=False)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids``."""
        hidden = self.special_ids if skip_special_tokens else ()
        return self._backend.decode(
            [index for index in ids if index not in hidden], skip_special_tokens=False
        )

    def stream(self, prefix: Iterable[int] = (), skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder for ids that arrive one by one after ``prefix``, which counts as shown already."""
        return StreamDecoder(self._backend, prefix, self.special_ids if skip_special_tokens else ())

    def _id_of(self, settings: dict[str, Any], name: str) -> int | None:
        token = settings.get(name)
        # Older exports spell a special token as an object with its properties.
        content = token.get("content") if isinstance(token, dict) else token
        return self._backend.token_to_id(content) if isinstance(content, str) else None


class StreamDecoder:
    """Text piece by piece: what a token adds, once it is whole.

    A character made of several tokens is held back until its last byte is there; bytes that cannot
    become a character any more are U+FFFD.  The library's ``DecodeStream`` is not used: after such
    bytes it fails, and after a prompt that ends in one it shows the prompt again.
    """

    def __init__(self, backend: tokenizers.Tokenizer, prefix: Iterable[int], hidden: Container[int]) -> None:
        self._backend = backend
        self._hidden = hidden
        # Decoders drop the space that begins a text.  Where tokens do not begin one they are decoded
        # behind a letter, not behind the text itself: an incomplete character can spoil that too.
        letter = backend.encode("a", add_special_tokens=False).ids
        self._letter = letter if backend.decode(letter, skip_special_tokens=False) == "a" else []
        self._before = self._letter if any(index not in hidden for index in prefix) else []
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; empty while a character is incomplete."""
        if token_id in self._hidden:
            return ""
        self._pending.append(token_id)
        shown = ""
        while (text := self._text(self._pending)).endswith(REPLACEMENT):
            broken = self._count_broken(text)
            if not broken:
                return shown
            shown += self._take(broken)
        return shown + self._take(len(self._pending), text)

    def _count_broken(self, text: str) -> int:
        """How many of the pending tokens, which are ``text``, cannot become a character any more."""
        for count in range(1, len(self._pending)):
            # What follows them is whole, so nothing is to come for them.
            if not self._text(self._pending[count:]).endswith(REPLACEMENT):
                return count
        return 1 if len(text) - len(text.rstrip(REPLACEMENT)) > BYTES_TO_COME else 0

    def _take(self, count: int, text: str | None = None) -> str:
        """The text of the first ``count`` pending tokens, which are pending no more."""
        text = self._text(self._pending[:count]) if text is None else text
        del self._pending[:count]
        self._before = self._letter
        return text

    def _text(self, ids: list[int]) -> str:
        text: str = self._backend.decode(self._before + ids, skip_special_tokens=False)
        return text[1:] if self._before else text
