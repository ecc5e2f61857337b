"""Every error that this project raises on purpose.

::

    LanguageModelError
    ├── ModelError              a model folder cannot be used
    │   ├── ModelNotFound       there is no such folder, or a file of it is missing
    │   ├── ConfigError         config.json is malformed or asks for what is not supported
    │   ├── CheckpointError     the weights are damaged or do not fit the configuration
    │   ├── TokenizerError      the tokenizer is damaged or does not fit the model
    │   └── TemplateError       the chat template is missing, or fails to render
    ├── InvalidParameter        an argument is out of range; ``param`` names it
    └── ContextLengthExceeded   more tokens than the context holds

The message of each is one sentence that says what is wrong and, where the reader can do
something about it, what.  Programs print it as it is.
"""

from __future__ import annotations


class LanguageModelError(Exception):
    """The root: catch this to catch everything that is not a bug."""


class ModelError(LanguageModelError):
    """A model folder cannot be used."""


class ModelNotFound(ModelError):
    """A model folder, or a file it must have, is not there."""


class ConfigError(ModelError):
    """``config.json`` is malformed or describes a model of an unsupported kind."""


class CheckpointError(ModelError):
    """The weights are damaged, incomplete, or do not fit ``config.json``."""


class TokenizerError(ModelError):
    """The tokenizer is damaged, does not fit the model, or was given text it cannot encode."""


class TemplateError(ModelError):
    """The chat template is missing, is not valid, or refused the messages."""


class InvalidParameter(LanguageModelError, ValueError):
    """An argument is out of range."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        """The name of the argument, as a user spells it in Python and JSON."""


class ContextLengthExceeded(LanguageModelError):
    """A sequence is longer than the context can hold."""

    def __init__(self, tokens: int, context_length: int) -> None:
        super().__init__(
            f"{tokens} tokens do not fit into the context of {context_length} tokens; "
            "shorten the prompt or ask for fewer tokens"
        )
        self.tokens = tokens
        self.context_length = context_length
