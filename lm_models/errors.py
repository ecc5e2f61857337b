"""What can go wrong while a model folder is made.

::

    LanguageModelError
    ├── PullError               a model cannot be fetched
    │   ├── SourceUnavailable   one source does not have it; another may
    │   │   └── Unreachable     the source does not answer; it may later
    │   └── DownloadDamaged     what came is not what was announced; it was removed
    └── ModelError
        ├── ConversionError     a GGUF file is damaged, or of a kind that cannot be converted
        └── ContentsChanged     a file of a model folder is not the one that was put there
"""

from __future__ import annotations

from lm_core.errors import LanguageModelError, ModelError


class PullError(LanguageModelError):
    """A model cannot be fetched."""


class SourceUnavailable(PullError):
    """A source does not have the model, or does not give it."""


class Unreachable(SourceUnavailable):
    """A source does not answer."""


class DownloadDamaged(PullError):
    """A downloaded file is not the one that was announced; it was removed."""


class ConversionError(ModelError):
    """A GGUF file is damaged, or of a kind that cannot be converted."""


class ContentsChanged(ModelError):
    """A file of a model folder is missing, or is not the one that was put there."""
