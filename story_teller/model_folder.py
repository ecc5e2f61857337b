"""Which folder is meant: the one that was named, or the story model that came with the program."""

from __future__ import annotations

from pathlib import Path

from lm_core.errors import ModelNotFound

_PACKAGE = Path(__file__).resolve().parent
CANDIDATES = (_PACKAGE / "packaged_model", _PACKAGE.parent / "models" / "story")


def story_model_folder(spec: str | None) -> Path:
    """The folder of ``-m``: a path, the name of a known model, or a hub id; by default, our own model.

    Raises:
        ModelNotFound: it is not here.
    """
    if spec is None:
        return default_model_folder()
    if spec and Path(spec).is_dir():
        return Path(spec)
    # Imported here because the usual start, with a folder, should not wait for it.
    from lm_models.locate import model_folder

    return model_folder(spec, pull=False)


def default_model_folder() -> Path:
    """The story model that came with the program.

    Raises:
        ModelNotFound: it did not come with it.
    """
    for folder in CANDIDATES:
        if (folder / "config.json").is_file():
            return folder
    raise ModelNotFound("no story model came with this installation; name a model folder with -m")
