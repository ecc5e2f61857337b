"""Fetching from a hub: a real client against a small server on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from checkpoints import MISTRAL, OLDER, Kind, RandomCheckpoint
from comparisons import assert_agrees
from hub_server import COMMIT, Hub, Repository
from reference.llama import ReferenceLlama
from shared_files import PROJECT

from lm_core.errors import ModelError
from lm_core.language_model import LanguageModel
from lm_models.checksums import read_sums
from lm_models.errors import DownloadDamaged, PullError, SourceUnavailable
from lm_models.hub_download import download_from_hub
from lm_models.manifest import HubSource, hub_manifest, manifests
from lm_models.progress import Advance, SilentProgress
from lm_models.pull import pull

# Small weights of the kind that each manifest is about.
FAKES = {
    "chat": Kind({**OLDER, "vocab_size": 300, "torch_dtype": "bfloat16"}, seed=1, storage="BF16"),
    "tinyllama-chat-v1": Kind(
        {**OLDER, "vocab_size": 300, "torch_dtype": "bfloat16", "tie_word_embeddings": False},
        seed=2,
        storage="BF16",
        shards=2,
    ),
    "minueza-chat": Kind(
        {
            **MISTRAL,
            "vocab_size": 300,
            "hidden_size": 78,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "sliding_window": 40,
            "tie_word_embeddings": False,
        },
        seed=3,
    ),
}
REPOSITORY = "someone/tiny"
WANTED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
}


def fetch(folder: Path) -> Path:
    return pull(hub_manifest(REPOSITORY), folder, SilentProgress())


def test_fetches_what_a_model_needs_and_nothing_else(
    hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    hub.repositories[REPOSITORY] = repository
    folder = fetch(tmp_path / "tiny")
    assert {file.name for file in folder.iterdir()} == WANTED | {"SHA256SUMS", "source.json"}
    for name in WANTED:
        assert (folder / name).read_bytes() == repository.files[name]
    assert read_sums(folder).keys() == WANTED | {"source.json"}
    assert COMMIT in (folder / "source.json").read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_there_is_a_fake_of_every_manifest() -> None:
    assert FAKES.keys() == manifests().keys()


@pytest.mark.parametrize("name", FAKES)
def test_every_manifest(hub: Hub, converted: Path, tmp_path: Path, name: str) -> None:
    """Each is fetched from where it says, shards and all, and is a model that the engine runs."""
    made = RandomCheckpoint(FAKES[name]).write(tmp_path / "hub")
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(converted / file, made)
    source = manifests()[name].sources[0]
    assert isinstance(source, HubSource)
    weights = {file.name for file in made.glob("*.safetensors")}
    hub.repositories[source.repository] = Repository(
        {file.name: file.read_bytes() for file in made.iterdir()}, large=weights
    )
    folder = pull(manifests()[name], tmp_path / "models" / name, SilentProgress())
    for file in made.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes(), file.name
    origin = json.loads((folder / "source.json").read_text())
    assert origin == {
        "model": name,
        "kind": "hub",
        "repository": source.repository,
        "commit": COMMIT,
        "licence": "Apache-2.0",
    }
    text = [1, 5, 9, 200]
    model = LanguageModel.from_pretrained(folder)
    reference = ReferenceLlama(model.llama.config, RandomCheckpoint(FAKES[name]).weights)
    assert_agrees(
        model.llama.forward(text, model.llama.new_cache(), all_positions=True), reference.forward(text)
    )


def test_a_name_with_a_folder_in_it_is_not_fetched(hub: Hub, repository: Repository, tmp_path: Path) -> None:
    repository.files["LICENSE/../../../escaped"] = b"x"
    hub.repositories[REPOSITORY] = repository
    fetch(tmp_path / "a" / "tiny")
    assert not any("escaped" in path for _, path, _ in hub.requests)


def test_a_cut_connection_goes_on_where_it_was_cut(
    hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The client hands on whole blocks alone, of 10 MiB.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.repositories[REPOSITORY] = repository
    hub.cut = {"model.safetensors"}
    weights = repository.files["model.safetensors"]
    assert (fetch(tmp_path / "tiny") / "model.safetensors").read_bytes() == weights
    arrived = len(weights) // 2 // 1000 * 1000
    assert hub.downloads("model.safetensors") == [None, f"bytes={arrived}-"]


def test_a_hub_that_cannot_send_the_rest_alone(
    hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.repositories[REPOSITORY] = repository
    hub.cut = {"model.safetensors"}
    hub.ranges = False
    weights = repository.files["model.safetensors"]
    assert (fetch(tmp_path / "tiny") / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("ranges", [True, False])
def test_progress_counts_what_an_earlier_run_began(
    hub: Hub, repository: Repository, tmp_path: Path, ranges: bool
) -> None:
    hub.repositories[REPOSITORY] = repository
    hub.ranges = ranges
    weights = repository.files["model.safetensors"]
    begun = tmp_path / ".tiny.partial" / "hub"
    begun.mkdir(parents=True)
    partial = f"model.safetensors.{hashlib.sha256(weights).hexdigest()[:16]}.part"
    (begun / partial).write_bytes(weights[:100_000])
    counts: dict[str, list[int]] = {}

    class Counting(SilentProgress):
        @contextmanager
        def bar(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
            counts[title] = [done, total, done]

            def advance(size: int) -> None:
                counts[title][2] += size

            yield advance

    pull(hub_manifest(REPOSITORY), tmp_path / "tiny", Counting())
    assert counts["model.safetensors"] == [100_000, len(weights), len(weights)]
    assert hub.downloads("model.safetensors") == ["bytes=100000-"]
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == weights


def test_what_is_left_of_another_version_is_not_mixed_in(
    hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    hub.repositories[REPOSITORY] = repository
    left = tmp_path / ".tiny.partial" / "hub"
    left.mkdir(parents=True)
    (left / "model.safetensors.0123456789abcdef.part").write_bytes(b"older")
    (left / "model.safetensors").write_bytes(b"older still")
    (left / "tokenizer.model").write_bytes(b"of no use any more")
    folder = fetch(tmp_path / "tiny")
    assert {file.name for file in folder.iterdir()} == WANTED | {"SHA256SUMS", "source.json"}
    assert (folder / "model.safetensors").read_bytes() == repository.files["model.safetensors"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "GPT2LMHeadModel"),
        ({"vocab_size": 400}, "shape"),
    ],
)
def test_a_model_that_cannot_be_used_is_not_put_into_place(
    hub: Hub, repository: Repository, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    stated = json.loads(repository.files["config.json"]) | config
    repository.files["config.json"] = json.dumps(stated).encode()
    hub.repositories[REPOSITORY] = repository
    with pytest.raises(ModelError, match=message):
        fetch(tmp_path / "models" / "tiny")
    assert list(tmp_path.iterdir()) == []
    # What is of an unsupported kind is refused before anything large is fetched.
    assert len(hub.downloads("model.safetensors")) == (0 if message == "GPT2LMHeadModel" else 1)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_damaged_download_is_refused_by_name(
    hub: Hub, repository: Repository, tmp_path: Path, name: str
) -> None:
    hub.repositories[REPOSITORY] = repository
    hub.damaged = {name}
    with pytest.raises(
        DownloadDamaged, match=f"{name} is damaged: its .* should be [0-9a-f]+ and is [0-9a-f]+"
    ):
        fetch(tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()
    hub.damaged = set()
    assert (fetch(tmp_path / "tiny") / name).read_bytes() == repository.files[name]
    # Only the damaged file was fetched again.
    assert len(hub.downloads(name)) == 2
    assert len(hub.downloads("config.json")) == 1


class TestUnavailable:
    def test_unknown_model(self, hub: Hub, tmp_path: Path) -> None:
        with pytest.raises(PullError, match="the hub has no public model someone/tiny"):
            fetch(tmp_path / "tiny")
        # The client may ask for things of its own, once a day.
        assert len([path for _, path, _ in hub.requests if REPOSITORY in path]) == 1

    def test_gated_model(self, hub: Hub, repository: Repository, tmp_path: Path) -> None:
        repository.private = True
        hub.repositories[REPOSITORY] = repository
        with pytest.raises(SourceUnavailable, match="must be requested"):
            download_from_hub(HubSource(REPOSITORY), tmp_path, SilentProgress())

    @pytest.mark.usefixtures("no_hub")
    def test_no_hub_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(
            PullError,
            match=r"^someone/tiny cannot be fetched: the hub cannot be reached \(.+\); check the network",
        ):
            fetch(tmp_path / "owner" / "tiny")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("instead", "message"),
        [
            ((500, b""), "the hub refused: .*500"),
            ((200, b"<html>Please log in to the hotel's network"), "the hub's answer cannot be used: "),
        ],
    )
    def test_hub_with_a_fault(
        self, hub: Hub, tmp_path: Path, instead: tuple[int, bytes], message: str
    ) -> None:
        hub.instead = instead
        with pytest.raises(PullError, match=message):
            fetch(tmp_path / "tiny")

    def test_name_that_no_model_can_have(self, hub: Hub, tmp_path: Path) -> None:
        with pytest.raises(PullError, match="the hub has no public model some--one/tiny"):
            pull(hub_manifest("some--one/tiny"), tmp_path / "tiny", SilentProgress())
        assert hub.requests == []

    @pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_not_a_model(self, hub: Hub, repository: Repository, tmp_path: Path, missing: str) -> None:
        del repository.files[missing]
        hub.repositories[REPOSITORY] = repository
        with pytest.raises(PullError, match=f"someone/tiny has no {missing}"):
            fetch(tmp_path / "tiny")

    def test_no_checksums(self, hub: Hub, repository: Repository, tmp_path: Path) -> None:
        repository.without_digests = True
        hub.repositories[REPOSITORY] = repository
        with pytest.raises(PullError, match="states no checksum for"):
            fetch(tmp_path / "tiny")


def test_killed_in_mid_file_it_goes_on_there(hub: Hub, repository: Repository, tmp_path: Path) -> None:
    """A real process, a real SIGKILL."""
    hub.repositories[REPOSITORY] = repository
    hub.stalled = "model.safetensors"
    weights = repository.files["model.safetensors"]
    arrived = len(weights) // 2 // 10000 * 10000
    # The client hands on whole blocks alone, of 10 MiB.
    program = (
        "import huggingface_hub.constants; huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 10000;"
        "import lm_models.__main__; lm_models.__main__.main()"
    )
    command = [sys.executable, "-c", program, "pull", REPOSITORY, "--to", str(tmp_path / "tiny")]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert hub.half_sent.wait(60)
        wait_until_written(process, tmp_path, arrived)
        process.send_signal(signal.SIGKILL)
    hub.go_on.set()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "tiny").exists()
    assert (fetch(tmp_path / "tiny") / "model.safetensors").read_bytes() == weights
    assert hub.downloads("model.safetensors") == [None, f"bytes={arrived}-"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def wait_until_written(process: subprocess.Popen[bytes], folder: Path, size: int) -> None:
    """Until that much of the unfinished file is on the disk."""
    for _ in range(3000):
        if [file.stat().st_size for file in folder.rglob("*.part")] == [size]:
            return
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError("the download did not come so far")
