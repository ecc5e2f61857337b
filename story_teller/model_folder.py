"""Where the story model is when nobody says: beside the package, or in the source checkout."""

from __future__ import annotations

from pathlib import Path

from lm_core.errors import ModelNotFound

_PACKAGE = Path(__file__).resolve().parent
CANDIDATES = (_PACKAGE / "packaged_model", _PACKAGE.parent / "models" / "story")


def default_model_folder() -> Path:
    """The story model that came with the program.

    Raises:
        ModelNotFound: it did not come with it.
    """
    for folder in CANDIDATES:
        if (folder / "config.json").is_file():
            return folder
    raise ModelNotFound("no story model came with this installation; name a model folder with -m")
