"""Messages to prompt text, by the chat template that a model was trained with.

A chat template is a small Jinja program in the model folder.  It is run as what it is, a
program from a stranger: in a sandbox, with bounded time and memory
(:mod:`lm_core.template_sandbox`).  What it renders equals what ``apply_chat_template`` of
``transformers`` renders, to the character.

A model without a template has none: :class:`ChatTemplate` never guesses one.
:meth:`ChatTemplate.fallback` is for users who choose one by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from lm_core.errors import InvalidParameter, ModelNotFound, TemplateError
from lm_core.template_budget import Budget, TemplateLimitExceeded, TemplateLimits
from lm_core.template_sandbox import TemplateEnvironment, TemplateRefusal

FALLBACKS: Mapping[str, str] = MappingProxyType(
    {
        "chatml": (
            "{% for message in messages %}"
            "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
        ),
        "plain": (
            "{% for message in messages %}"
            "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
        ),
    }
)
"""Templates that a user may choose for a model that has none."""


class MissingTemplate(TemplateError):
    """The model has no chat template; one may be chosen with :meth:`ChatTemplate.fallback`."""


_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MAX_CONFIG_BYTES = 32 * 1024 * 1024
_MAX_MESSAGE_CHARACTERS = 300
_MAX_MESSAGE_DEPTH = 64
_TEMPLATE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class ChatTemplate:
    """A compiled chat template.  Immutable; one may be rendered by many threads at once."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        *,
        limits: TemplateLimits | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compiles ``source``.

        Args:
            source: the template, in Jinja.
            special_tokens: what ``bos_token``, ``eos_token`` and the like stand for in it.
            limits: what a rendering may spend.
            clock: the time that ``strftime_now`` tells.

        Raises:
            TemplateError: the template is too long, is not valid, or uses a statement that a
                chat template may not use.
        """
        self.source = source
        self.special_tokens = dict(special_tokens or {})
        self._limits = limits or TemplateLimits()
        self._clock = clock
        if len(source) > self._limits.source_characters:
            raise TemplateError(
                f"the chat template is longer than {self._limits.source_characters} characters"
            )
        try:
            self._code = self._environment().compile_bounded(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is not valid: {_sentence(error.message)} (line {error.lineno})"
            ) from error
        except RecursionError as error:
            raise TemplateError("the chat template cannot be compiled: it is nested too deeply") from error
        except Exception as error:
            # Python compiles what Jinja makes of the source, and has limits of its own, which
            # differ from release to release.
            raise TemplateError(f"the chat template cannot be compiled: {_sentence(error)}") from error

    @classmethod
    def from_pretrained(cls, path: str | Path, name: str = "default") -> ChatTemplate:
        """Reads the template of a model folder.

        ``chat_template.jinja`` comes before ``chat_template`` in ``tokenizer_config.json``,
        which is a text or a list of named ones.

        Args:
            path: a Hugging Face model folder.
            name: which of several named templates.

        Raises:
            ModelNotFound: there is no such folder.
            MissingTemplate: the model has no template.
            TemplateError: it has none of that name, or it is not valid.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise ModelNotFound(f"there is no model folder {folder}")
        settings = _read_json(folder / "tokenizer_config.json")
        older_settings = _read_json(folder / "special_tokens_map.json")
        source = _find_source(folder, settings, name)
        return cls(source, _special_tokens(older_settings) | _special_tokens(settings))

    @classmethod
    def find(cls, path: str | Path) -> ChatTemplate | None:
        """The template of a model folder, or None where the model declares none at all.

        Raises:
            ModelNotFound, TemplateError: as for :meth:`from_pretrained`.
        """
        folder = Path(path)
        declared = _read_json(folder / "tokenizer_config.json").get("chat_template")
        if declared is None and not (folder / "chat_template.jinja").is_file():
            return None
        return cls.from_pretrained(folder)

    @classmethod
    def fallback(cls, name: str, special_tokens: Mapping[str, str] | None = None) -> ChatTemplate:
        """A well-known template, for a model that has none.

        Args:
            name: ``chatml``, or ``plain`` (``User: …``, ``Assistant: …``).
            special_tokens: as in the constructor.

        Raises:
            InvalidParameter: there is no fallback of that name.
        """
        if name not in FALLBACKS:
            raise InvalidParameter(
                "name", f"there is no chat template {name!r}; choose one of {', '.join(FALLBACKS)}"
            )
        return cls(FALLBACKS[name], special_tokens)

    @classmethod
    def chosen(cls, choice: str, path: str | Path) -> ChatTemplate:
        """The template that a user chose instead of the model's own, with the model's special tokens.

        Args:
            choice: the name of a fallback, or a file with a template in Jinja.
            path: the model folder.

        Raises:
            InvalidParameter: it is neither.
            TemplateError: the file cannot be read, or is not a valid template.
        """
        folder, file = Path(path), Path(choice)
        if choice not in FALLBACKS and not file.is_file():
            raise InvalidParameter(
                "chat_template",
                f"there is no chat template {choice!r}; name a file or one of {', '.join(FALLBACKS)}",
            )
        special_tokens = _special_tokens(_read_json(folder / "special_tokens_map.json"))
        special_tokens |= _special_tokens(_read_json(folder / "tokenizer_config.json"))
        return cls(FALLBACKS[choice] if choice in FALLBACKS else _read_text(file), special_tokens)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The prompt text of a conversation.

        Args:
            messages: in order, each with ``role`` and mostly ``content``; JSON values only.
            add_generation_prompt: end where the assistant's next answer begins.

        Raises:
            InvalidParameter: ``messages`` is not a list of messages, or is too long.
            TemplateError: the template refused the messages, failed, or did not end within its
                limits of time and memory.
        """
        conversation = [_plain_message(message) for message in messages]
        environment = self._environment()
        template = jinja2.Template.from_code(environment, self._code, environment.make_globals(None))
        try:
            environment.budget.pay(conversation)
        except TemplateLimitExceeded as error:
            raise InvalidParameter("messages", "the messages are too long to be rendered") from error
        try:
            return self._join(
                template.generate(
                    messages=conversation,
                    add_generation_prompt=add_generation_prompt,
                    tools=None,
                    documents=None,
                    **self.special_tokens,
                )
            )
        except TemplateRefusal as error:
            raise TemplateError(f"the chat template refused the messages: {_sentence(error)}") from error
        except TemplateLimitExceeded as error:
            raise TemplateError(f"the chat template was stopped: {_sentence(error)}") from error
        except RecursionError as error:
            raise TemplateError("the chat template was stopped: it calls itself too deeply") from error
        except Exception as error:
            # The template is a program of its own and may fail in any way that a program can.
            raise TemplateError(f"the chat template failed: {_sentence(error)}") from error

    def _environment(self) -> TemplateEnvironment:
        return TemplateEnvironment(Budget(self._limits), self._clock)

    def _join(self, chunks: Any) -> str:
        parts: list[str] = []
        length = 0
        for chunk in chunks:
            length += len(chunk)
            if length > self._limits.output_characters:
                raise TemplateLimitExceeded(
                    f"it renders more than {self._limits.output_characters} characters"
                )
            parts.append(chunk)
        return "".join(parts)


def _find_source(folder: Path, settings: dict[str, Any], name: str) -> str:
    if not _TEMPLATE_NAME.fullmatch(name):
        raise InvalidParameter("name", f"{name!r} cannot be the name of a chat template")
    file = folder / (
        "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
    )
    if file.is_file():
        return _read_text(file)
    declared = settings.get("chat_template")
    if isinstance(declared, str) and name == "default":
        return declared
    named = _named_templates(declared)
    if name in named:
        return named[name]
    if named:
        raise TemplateError(f"{folder} has no chat template {name!r}; it has {', '.join(sorted(named))}")
    if name != "default":
        raise TemplateError(f"{folder} has no chat template {name!r}")
    raise MissingTemplate(
        f"{folder} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
        f"choose a fallback by name: {', '.join(FALLBACKS)}"
    )


def _named_templates(declared: Any) -> dict[str, str]:
    if isinstance(declared, dict):
        declared = [{"name": key, "template": value} for key, value in declared.items()]
    if not isinstance(declared, list):
        return {}
    return {
        entry["name"]: entry["template"]
        for entry in declared
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    tokens = {}
    for key in _SPECIAL_TOKENS:
        value = settings.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            tokens[key] = value
    return tokens


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_CONFIG_BYTES + 1)
        if len(data) > _MAX_CONFIG_BYTES:
            raise TemplateError(f"{file} is larger than {_MAX_CONFIG_BYTES} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise TemplateError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TemplateError(f"{file} is not UTF-8 text") from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"{file} is not valid JSON") from error
    if not isinstance(value, dict):
        raise TemplateError(f"{file} does not hold a JSON object")
    return value


def _plain_message(message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidParameter("messages", "each message must be a mapping with a text for 'role'")
    plain: dict[str, Any] = _plain_value(message, 0)
    return plain


def _plain_value(value: Any, depth: int) -> Any:
    """Copies JSON values; objects with methods of their own stay out of the sandbox."""
    if depth > _MAX_MESSAGE_DEPTH:
        raise InvalidParameter("messages", f"a message is nested more than {_MAX_MESSAGE_DEPTH} deep")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain_key(key): _plain_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item, depth + 1) for item in value]
    raise InvalidParameter("messages", f"a message holds a {type(value).__name__}, which is not a JSON value")


def _plain_key(key: Any) -> str:
    if not isinstance(key, str):
        raise InvalidParameter("messages", f"a message has the key {key!r}, which is not a text")
    return str.__str__(key)


def _sentence(error: object) -> str:
    """One line for a user, without the full stop that Jinja puts at the end of some."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) > _MAX_MESSAGE_CHARACTERS:
        text = text[: _MAX_MESSAGE_CHARACTERS - 1] + "…"
    return text.rstrip(".")
