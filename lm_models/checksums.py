"""Digests: of downloads, compared with what was announced, and of a model folder, in ``SHA256SUMS``.

``SHA256SUMS`` has the format of ``sha256sum``, so that ``sha256sum -c SHA256SUMS`` checks a folder too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lm_models.errors import ContentsChanged, DownloadDamaged
from lm_models.progress import Advance

SUMS_FILE = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class KnownFile:
    """A file whose contents are announced before it is fetched.  ``size`` is in bytes.

    At least one of the digests is known.  Both are in hexadecimal; ``git_blob_id`` is the id under which git
    keeps the contents, which is all that the hub states for small files.
    """

    name: str
    size: int
    sha256: str | None = None
    git_blob_id: str | None = None

    @property
    def digest(self) -> str:
        """The better of the digests that are known."""
        return self.sha256 or self.git_blob_id or ""

    def digest_of(self, file: Path) -> str:
        """The same kind of digest of a file of this machine."""
        return git_blob_id_of(file) if self.sha256 is None else sha256_of(file)

    def is_in(self, file: Path) -> bool:
        """Whether ``file`` is there and has the announced contents."""
        return file.is_file() and file.stat().st_size == self.size and self.digest_of(file) == self.digest


def check_download(file: Path, expected: KnownFile) -> None:
    """Compare a downloaded file with what was announced, and remove it if it differs.

    Raises:
        DownloadDamaged: it differs; the message names the file and both sizes or digests.
    """
    size, actual = file.stat().st_size, expected.digest_of(file)
    if size == expected.size and actual == expected.digest:
        return
    file.unlink()
    kind = "git blob id" if expected.sha256 is None else "sha256"
    difference = (
        f"its {kind} should be {expected.digest} and is {actual}"
        if size == expected.size
        else f"it should have {expected.size} bytes and has {size}"
    )
    raise DownloadDamaged(
        f"the downloaded file {expected.name} is damaged: {difference}; it was removed, run the command again"
    )


def sha256_of(file: Path, advance: Advance | None = None) -> str:
    """The SHA-256 sum of a file, in hexadecimal.  ``advance`` is told of every byte."""
    return _digest(file, hashlib.sha256(), advance)


def git_blob_id_of(file: Path) -> str:
    """The id under which git keeps the file's contents, in hexadecimal."""
    return _digest(file, hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False), None)


def write_sums(folder: Path) -> Mapping[str, str]:
    """Write ``SHA256SUMS`` for the files of ``folder``, and return it: file name to sum."""
    sums = {name: sha256_of(folder / name) for name in listed_files(folder)}
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (folder / SUMS_FILE).write_text(text, encoding="utf-8", newline="\n")
    return sums


def read_sums(folder: Path) -> Mapping[str, str]:
    """File names and their sums from ``SHA256SUMS``; empty where there is none.

    Raises:
        ContentsChanged: it is not a list of sums, or one that was cut.
    """
    file = folder / SUMS_FILE
    if not file.is_file():
        return {}
    sums = {}
    *lines, rest = file.read_bytes().decode("utf-8", "replace").split("\n")
    for match in map(_LINE.fullmatch, lines):
        if match is None or match[2] in sums or rest:
            raise ContentsChanged(f"{file} is damaged; remove the folder and pull the model again")
        sums[match[2]] = match[1]
    return sums


def listed_files(folder: Path) -> list[str]:
    """The names of the files that ``SHA256SUMS`` lists: all but itself and hidden ones, in order."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_file() and entry.name != SUMS_FILE and not entry.name.startswith(".")
    )


def _digest(file: Path, digest: hashlib._Hash, advance: Advance | None) -> str:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            if advance is not None:
                advance(len(block))
    return digest.hexdigest()
