"""From messages, text or token ids to the tokens a session should hold before it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from lm_core.errors import InvalidParameter
from lm_core.language_model import LanguageModel, Messages

Prompt = str | Sequence[int] | Messages


@dataclass(frozen=True)
class PreparedPrompt:
    """What a session's tokens become: the first ``kept`` of the old ones, then ``added``."""

    kept: int
    added: list[int]
    rendered: str | None
    """The whole text, control tokens included, where a template made it."""
    question: str | None
    """The last message, or the text that was appended; None for token ids."""


def prepare_prompt(
    language_model: LanguageModel, prompt: Prompt, tokens: Sequence[int], rendered: str | None
) -> PreparedPrompt:
    """Decide how ``prompt`` continues a session that holds ``tokens``, whose text is ``rendered``.

    * A text is appended.
    * Token ids are the whole context: they replace the old ones from the first difference on.
    * Messages are the whole conversation.  Where their rendering begins with the session's text,
      what follows is appended, so that generated ids stay as they were generated.  Otherwise the
      rendering is tokenized anew and the longest common prefix is kept.

    Raises:
        InvalidParameter: the prompt is not Unicode, or has ids that are not in the vocabulary.
        TemplateError: the model has no chat template, or it refuses the messages.
    """
    if isinstance(prompt, str):
        if not tokens:
            return PreparedPrompt(0, language_model.encode_text(prompt), None, prompt)
        # After a line break, which merges with no word: a tokenizer's space would not be in the text.
        added = language_model.tokenizer.encode_after("\n", prompt)
        return PreparedPrompt(len(tokens), added, None, prompt)
    if all(isinstance(item, int) for item in prompt):
        ids = _checked_ids(cast(Sequence[int], prompt), language_model.llama.config.vocab_size)
        return _replace_from_first_difference(ids, tokens, None, None)
    return _prepare_messages(language_model, cast(Messages, prompt), tokens, rendered)


def _checked_ids(ids: Sequence[int], vocab_size: int) -> list[int]:
    for index in ids:
        if isinstance(index, bool) or not 0 <= index < vocab_size:
            raise InvalidParameter(
                "prompt",
                f"the prompt has the token id {index}, which is not in the vocabulary of {vocab_size}",
            )
    return list(ids)


def _prepare_messages(
    language_model: LanguageModel, messages: Messages, tokens: Sequence[int], rendered: str | None
) -> PreparedPrompt:
    text = language_model.render(messages)
    last = messages[-1]
    question = str(last.get("content", "")) if isinstance(last, Mapping) else None
    if rendered is not None and text.startswith(rendered):
        added = language_model.encode_rendered(text[len(rendered) :], after=rendered)
        return PreparedPrompt(len(tokens), added, text, question)
    return _replace_from_first_difference(language_model.encode_rendered(text), tokens, text, question)


def _replace_from_first_difference(
    ids: list[int], tokens: Sequence[int], rendered: str | None, question: str | None
) -> PreparedPrompt:
    kept = 0
    for old, new in zip(tokens, ids, strict=False):
        if old != new:
            break
        kept += 1
    return PreparedPrompt(kept, ids[kept:], rendered, question)
