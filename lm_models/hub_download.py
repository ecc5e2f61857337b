"""A model from the Hugging Face hub, through its own client.

The client honours ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE``.  Its ``hf_hub_download``
starts again what another process began, and compares sizes only.  So the layer below it is used: a file
is continued where it stopped, and compared with the digest that the hub states for it, SHA-256 for
large files and git's blob id for small ones.
"""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from lm_core.checkpoint import SHARD_INDEX, SINGLE_FILE
from lm_core.config import LlamaConfig
from lm_models.checksums import KnownFile, check_download
from lm_models.errors import SourceUnavailable, Unreachable
from lm_models.manifest import HubSource
from lm_models.progress import Advance, Progress
from lm_models.staging import require_space

_CONFIG = "config.json"
_SETTINGS = (
    _CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICENSE*",
)
_SHARDS = (SHARD_INDEX, "model-*-of-*.safetensors")
_CONNECT_SECONDS = 5.0


def download_from_hub(source: HubSource, folder: Path, progress: Progress) -> str:
    """Fill ``folder`` with the model's files and return the commit that they are of.

    Raises:
        SourceUnavailable: the hub cannot be reached, or has no such model.
        DownloadDamaged: a file is not the one that the hub announced; it was removed.
        ConfigError: the model is of a kind that is not supported.
        PullError: the disk is too small.
    """
    commit, files = _announced(source)
    _remove_all_but(folder, {name for file in files for name in (file.name, _partial_name(file))})
    missing = [file for file in files if not file.is_in(folder / file.name)]
    require_space(folder, sum(file.size - _begun(folder, file) for file in missing))
    # The weights come last.
    for file in sorted(missing, key=lambda file: (file.name != _CONFIG, file.size)):
        _download(source, commit, file, folder, progress)
        if file.name == _CONFIG:
            # It alone tells whether the rest is worth fetching.
            LlamaConfig.from_pretrained(folder)
    return commit


def _download(source: HubSource, commit: str, file: KnownFile, folder: Path, progress: Progress) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented there

    partial = folder / _partial_name(file)
    done = _begun(folder, file)
    with progress.bar(file.name, file.size, done) as advance, partial.open("ab") as stream:
        if done < file.size:
            with _hub_errors(source):
                http_get(
                    hf_hub_url(source.repository, file.name, revision=commit, endpoint=_endpoint()),
                    stream,
                    resume_size=done,
                    # A compressed answer could not be continued in the middle.
                    headers=build_hf_headers() | {"Accept-Encoding": "identity"},
                    tqdm_class=_bar_class(advance, done),
                )
    check_download(partial, file)
    partial.replace(folder / file.name)


def _announced(source: HubSource) -> tuple[str, list[KnownFile]]:
    # Imported here: it takes a fifth of a second, and most commands do not need it.
    from huggingface_hub import HfApi

    with _hub_errors(source):
        info = HfApi(endpoint=_endpoint()).model_info(
            source.repository, revision=source.revision, files_metadata=True, timeout=_CONNECT_SECONDS
        )
    files = {sibling.rfilename: _known_file(sibling) for sibling in info.siblings or []}
    wanted = _SETTINGS + ((SINGLE_FILE,) if SINGLE_FILE in files else _SHARDS)
    # Names with a folder in them are skipped: they would also be a way out of this one.
    chosen = [
        file
        for name, file in files.items()
        if Path(name).name == name and any(fnmatch.fnmatchcase(name, glob) for glob in wanted)
    ]
    names = {file.name for file in chosen}
    for needed in (_CONFIG, "tokenizer.json", SINGLE_FILE if SINGLE_FILE in files else SHARD_INDEX):
        if needed not in names:
            # Weights are looked for under two names, of which people know the first.
            name = SINGLE_FILE if needed == SHARD_INDEX else needed
            raise SourceUnavailable(f"{source.repository} has no {name} on the hub")
    undigested = [file.name for file in chosen if not file.digest]
    if undigested or info.sha is None:
        raise SourceUnavailable(
            f"the hub states no checksum for {', '.join(undigested) or source.repository}"
        )
    return info.sha, chosen


def _known_file(sibling: Any) -> KnownFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
    return KnownFile(sibling.rfilename, sibling.size or 0, sha256, sibling.blob_id)


def _partial_name(file: KnownFile) -> str:
    # The digest keeps what was begun of another version of the file apart.
    return f"{file.name}.{file.digest[:16]}.part"


def _begun(folder: Path, file: KnownFile) -> int:
    """How many bytes of ``file`` an earlier run fetched."""
    partial = folder / _partial_name(file)
    return partial.stat().st_size if partial.is_file() else 0


def _remove_all_but(folder: Path, names: set[str]) -> None:
    """Remove what an earlier run left of another version, or wrote beside the downloads."""
    for entry in folder.iterdir():
        if entry.name not in names:
            entry.unlink()


def _endpoint() -> str | None:
    # The client reads the variable when it is imported, which may have been long ago.
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _hub_errors(source: HubSource) -> Iterator[None]:
    """Turn the client's errors into one sentence, and keep its own warnings off the terminal."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceUnavailable(
            f"{source.repository} must be requested on its page on the hub first, and HF_TOKEN be set"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise SourceUnavailable(f"the hub has no public model {source.repository}") from error
    except errors.OfflineModeIsEnabled as error:
        raise SourceUnavailable("HF_HUB_OFFLINE forbids the hub") from error
    except errors.HfHubHTTPError as error:
        raise SourceUnavailable(f"the hub refused: {_first_line(error)}") from error
    except HTTPError as error:
        raise Unreachable(f"the hub cannot be reached ({_first_line(error)})") from error
    except OSError as error:
        if error.errno is not None:
            # Of this machine, such as a full disk.
            raise
        raise Unreachable(f"the hub broke off ({_first_line(error)})") from error
    except ValueError as error:
        # Such as the page of a network that asks for a password first.
        raise SourceUnavailable(f"the hub's answer cannot be used: {_first_line(error)}") from error
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0].rstrip(". ")
    # The system's own errors begin with a number that helps nobody.
    return line.partition("] ")[2] if line.startswith("[Errno ") else line or type(error).__name__


def _bar_class(advance: Advance, done: int) -> Any:
    """What the client takes for a progress bar, reporting to ``advance``."""

    class Bar(AbstractContextManager["Bar"]):
        def __init__(self, *, initial: int, **_: Any) -> None:
            # Less than was done, where a server cannot send the rest alone.
            advance(initial - done)

        def update(self, size: int) -> None:
            advance(size)

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            """The bar belongs to the caller."""

    return Bar
