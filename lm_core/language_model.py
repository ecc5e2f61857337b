"""A model folder, loaded: weights, tokenizer, chat template and stop tokens that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
        return cls(Path(path).name, llama, tokenizer, template or ChatTemplate.find(path), stops)

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
        return self.template.render([self._disarmed(message) for message in messages])

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of rendered text, or of the end of one from a control token on."""
        ids: list[int] = []
        for piece in text.split(BREAK):
            ids += self.tokenizer.encode(piece, add_special_tokens=False)
        return ids

    def _disarmed(self, message: Mapping[str, str]) -> dict[str, str]:
        control_token = self.tokenizer.special_pattern
        if control_token is None:
            return dict(message)
        return {
            key: control_token.sub(
                lambda found: f"{found[0][0]}{BREAK}{found[0][1:]}", value.replace(BREAK, "")
            )
            if key == "content"
            else value
            for key, value in message.items()
        }
