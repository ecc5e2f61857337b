"""A model folder, loaded: weights, tokenizer, chat template and stop tokens that belong together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_core.chat_template import ChatTemplate
from lm_core.errors import InvalidParameter, TemplateError
from lm_core.model import Llama
from lm_core.stop_tokens import stop_token_ids
from lm_core.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, str]]

BREAK = "\ufdd0"
"""A code point that Unicode keeps free for a program's own use, so no text means anything by it."""


@dataclass(frozen=True)
class LanguageModel:
    """Everything a session needs, shared by all sessions and never changed.

    >>> language_model = LanguageModel.from_pretrained("models/chat")
    """

    name: str
    llama: Llama
    tokenizer: Tokenizer
    template: ChatTemplate | None
    stop_token_ids: frozenset[int]

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        dtype: str = "auto",
        template: ChatTemplate | str | None = None,
    ) -> LanguageModel:
        """Load ``path``.

        Args:
            path: a Hugging Face model folder.
            dtype: as for :meth:`Llama.from_pretrained`.
            template: instead of the model's own, also as a user spells it: the name of a fallback, or
                a file.  Without either, the model can continue texts but not chat.

        Raises:
            ModelError: the folder cannot be used; the message says why.
            InvalidParameter: ``dtype`` or ``template`` is unknown.
        """
        if isinstance(template, str):
            template = ChatTemplate.chosen(template, path)
        llama = Llama.from_pretrained(path, dtype)
        tokenizer = Tokenizer.from_pretrained(path)
        tokenizer.check_fits(llama.config)
        stops = stop_token_ids(path, llama.config, tokenizer)
        # Also of "." and of "models/chat/..".
        name = Path(os.path.abspath(path)).name
        return cls(name, llama, tokenizer, template or ChatTemplate.find(path), stops)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text that begins a sequence; an empty one is the BOS token alone.

        Raises:
            InvalidParameter: the text is not Unicode, or empty while there is no BOS token.
        """
        ids = self.tokenizer.encode(text)
        if not ids:
            bos = self.bos_token_id
            if bos is None:
                raise InvalidParameter(
                    "prompt", "the prompt is empty and this model has no token to begin a text with"
                )
            ids = [bos]
        return ids

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, as the tokenizer or else the configuration names it."""
        named = self.tokenizer.bos_token_id
        return self.llama.config.bos_token_id if named is None else named

    def render(self, messages: Messages) -> str:
        """The conversation as the model was trained to see it, up to where the answer begins.

        A control token that somebody typed is text: it is broken by a mark that
        :meth:`encode_rendered` takes out again, so that it never becomes a control token.

        Raises:
            TemplateError: the model has no chat template, or it refuses the messages.
        """
        if self.template is None:
            raise TemplateError(
                f"the model {self.name!r} has no chat template; "
                "use a chat model, or choose a template (--chat-template plain)"
            )
        return self.template.render([self._disarmed_value(message) for message in messages])

    def encode_rendered(self, text: str, after: str | None = None) -> list[int]:
        """Token ids of rendered text, or of the end of one that begins with ``after``."""
        first, *others = text.split(BREAK)
        if after is None:
            ids = self.tokenizer.encode(first, add_special_tokens=False)
        else:
            ids = self.tokenizer.encode_after(self._since_control_token(after), first)
        for piece in others:
            ids += self.tokenizer.encode(piece, add_special_tokens=False)
        return ids

    def disarmed(self, text: str) -> str:
        """``text`` with every control token broken, so that :meth:`encode_rendered` reads it as text."""
        control_token = self.tokenizer.special_pattern
        if control_token is None:
            return text
        return control_token.sub(lambda found: f"{found[0][0]}{BREAK}{found[0][1:]}", text.replace(BREAK, ""))

    def _disarmed_value(self, value: Any) -> Any:
        """A copy of a message, or of a part of one, with every text in it :meth:`disarmed`."""
        if isinstance(value, str):
            return self.disarmed(value)
        if isinstance(value, Mapping):
            return {key: self._disarmed_value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._disarmed_value(item) for item in value]
        return value

    def _since_control_token(self, rendered: str) -> str:
        """The end of ``rendered`` from its last control token on, which decides how more text is encoded."""
        control_token, start = self.tokenizer.special_pattern, 0
        if control_token is not None:
            start = max((found.start() for found in control_token.finditer(rendered)), default=0)
        return rendered[start:]
