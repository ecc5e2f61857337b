"""What ``-m`` means: a folder, the name of a manifest, or a hub id.

==================  ========================================================
``-m``              model folder
==================  ========================================================
``some/folder``     that folder, if there is something in it
``chat``            the manifest of that name, in the models folder
``models/chat``     the same manifest, in exactly that folder
``owner/name``      that model of the hub, in the models folder
==================  ========================================================

The models folder is ``models`` of the source checkout that this package is in, or else one of the
user's own.  ``owner/name`` is a path, not a hub id, where ``owner`` is ``models`` or a folder that is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from lm_core.errors import ModelNotFound
from lm_models.manifest import Manifest, hub_manifest, manifests
from lm_models.origin import read_origin
from lm_models.progress import Progress, SilentProgress
from lm_models.staging import clear_leftovers, is_filled
from lm_models.verification import is_model

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_CHECKOUT = Path(__file__).resolve().parents[1]


def model_folder(spec: str, *, pull: bool = True, progress: Progress | None = None) -> Path:
    """The folder that ``spec`` means, fetched first if it is not there.

    A folder that is there is not looked into: if it is damaged, who loads it says how.

    Args:
        spec: a folder, a manifest's name or a path that ends in one, or a hub id.
        pull: fetch a model that is not there; otherwise refuse.
        progress: is told how far the fetching is.

    Raises:
        ModelNotFound: ``spec`` means nothing, or is not there and may not be fetched.
        PullError: it cannot be fetched.
        ModelError: the hub's model is of a kind that is not supported.
    """
    if spec and is_filled(Path(spec)):
        clear_leftovers(Path(spec))
        return Path(spec)
    manifest, folder = find_model(spec)
    if is_filled(folder):
        clear_leftovers(folder)
        return folder
    if not pull:
        raise ModelNotFound(f"the model {spec} is not here yet; fetch it with: lm-models pull {spec}")
    # Imported here so that a program whose model is there does not wait for what fetches models.
    from lm_models.pull import pull as pull_model

    return pull_model(manifest, folder, progress or SilentProgress())


def find_model(spec: str) -> tuple[Manifest, Path]:
    """The manifest that ``spec`` names and the folder it belongs in, whether or not that is there.

    Raises:
        ModelNotFound: ``spec`` names none.
    """
    path = Path(spec)
    if _HUB_ID.fullmatch(spec) and path.parent.name != "models" and not path.parent.is_dir():
        return hub_manifest(spec), models_folder() / path
    manifest = manifests().get(path.name)
    if manifest is None:
        raise ModelNotFound(
            f"there is no model {spec!r}; name a folder, a hub id (OWNER/NAME), "
            f"or one of {', '.join(manifests())}"
        )
    return manifest, models_folder() / spec if path.name == spec else path


@dataclass(frozen=True)
class KnownModel:
    """A model as ``lm-models list`` shows it.  ``folder`` is None where it is not here yet."""

    name: str
    description: str
    licence: str
    folder: str | None


def known_models() -> list[KnownModel]:
    """The model of every manifest, then every other one in the models folder."""
    root, known = models_folder(), manifests()
    models = [
        KnownModel(
            name,
            manifest.description,
            manifest.licence,
            str(root / name) if is_model(root / name) else None,
        )
        for name, manifest in known.items()
    ]
    for file in sorted([*root.glob("[!.]*/config.json"), *root.glob("[!.]*/[!.]*/config.json")]):
        name = file.parent.relative_to(root).as_posix()
        if name not in known and is_model(file.parent):
            origin = read_origin(file.parent) or {}
            description = "from the hub" if origin.get("kind") == "hub" else "a folder"
            licence = str(origin.get("licence", "licence not stated"))
            models.append(KnownModel(name, description, licence, str(file.parent)))
    return models


def models_folder() -> Path:
    """Where models that were asked for by name are kept."""
    if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "lm_core").is_dir():
        return _CHECKOUT / "models"
    return Path(platformdirs.user_data_dir("rewindlm", appauthor=False)) / "models"
