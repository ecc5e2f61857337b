"""What ``-m`` means."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import Hub, Repository
from shared_files import PROJECT

from lm_core.errors import ModelNotFound
from lm_models import locate
from lm_models.locate import find_model, known_models, model_folder, models_folder
from lm_models.manifest import manifests
from lm_models.origin import write_origin
from lm_models.progress import SilentProgress

CHAT = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and a models folder that is not this checkout's."""
    monkeypatch.setattr(locate, "_CHECKOUT", tmp_path / "not a checkout")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.usefixtures("elsewhere")
class TestNames:
    def test_a_manifest_s_name_is_in_the_models_folder(self) -> None:
        for name, manifest in manifests().items():
            assert find_model(name) == (manifest, models_folder() / name)

    @pytest.mark.parametrize("spec", ["models/chat", "./chat", "a/b/c/chat", "/somewhere/chat", "../chat"])
    def test_a_path_that_ends_in_a_name_is_exactly_that_folder(self, spec: str) -> None:
        assert find_model(spec) == (manifests()["chat"], Path(spec))

    def test_a_path_below_a_folder_that_is_there(self, elsewhere: Path) -> None:
        (elsewhere / "weights").mkdir()
        assert find_model("weights/chat") == (manifests()["chat"], Path("weights/chat"))

    @pytest.mark.parametrize("spec", ["someone/tiny", "someone/chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"])
    def test_a_hub_id_is_in_the_models_folder_too(self, spec: str) -> None:
        manifest, folder = find_model(spec)
        assert (manifest.name, folder) == (spec, models_folder() / spec)
        assert manifest.sources[0].repository == spec  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "spec", ["", "chatty", "models/mine", "a/b/c", "/a/b", "../x", "-a/b", "some one/x"]
    )
    def test_anything_else_is_refused_with_what_there_is(self, spec: str) -> None:
        with pytest.raises(
            ModelNotFound, match=r"name a folder, .*, or one of chat, minueza-chat, tinyllama"
        ):
            find_model(spec)
        with pytest.raises(ModelNotFound):
            model_folder(spec)

    def test_the_models_folder_is_the_user_s_own_outside_of_a_checkout(self, tmp_path: Path) -> None:
        assert models_folder().is_relative_to(tmp_path)
        assert models_folder().parts[-2:] == ("rewindlm", "models")


def test_the_models_folder_is_the_checkout_s_in_a_checkout() -> None:
    assert models_folder() == PROJECT / "models"


class TestFolders:
    def test_a_folder_that_is_there_is_itself_whatever_its_name(
        self, hub: Hub, elsewhere: Path, converted: Path
    ) -> None:
        (elsewhere / "chat").mkdir()
        (elsewhere / "chat" / "config.json").write_text("{}")
        assert model_folder("chat") == Path("chat")
        assert model_folder(str(converted)) == converted
        assert hub.requests == []

    def test_absent_and_not_to_be_pulled(self, hub: Hub, elsewhere: Path) -> None:
        with pytest.raises(
            ModelNotFound, match="models/chat is not here yet; fetch it with: lm-models pull models/chat"
        ):
            model_folder("models/chat", pull=False)
        assert hub.requests == []
        assert list(elsewhere.iterdir()) == []

    @pytest.mark.usefixtures("elsewhere")
    @pytest.mark.parametrize("spec", ["chat", "models/chat", CHAT])
    def test_absent_and_fetched_with_progress(self, hub: Hub, repository: Repository, spec: str) -> None:
        hub.repositories[CHAT] = repository
        told: list[str] = []

        class Told(SilentProgress):
            def note(self, text: str) -> None:
                told.append(text)

        folder = model_folder(spec, progress=Told())
        assert (folder / "model.safetensors").read_bytes() == repository.files["model.safetensors"]
        assert folder == (Path(spec) if spec == "models/chat" else models_folder() / spec)
        assert told == [f"fetching {find_model(spec)[0].name} from the Hugging Face hub ({CHAT})"]
        requests = len(hub.requests)
        assert model_folder(spec) == folder
        assert len(hub.requests) == requests
        assert model_folder(spec, pull=False) == folder


@pytest.mark.usefixtures("elsewhere")
def test_known_models_are_the_manifests_and_what_else_is_there(model: Path) -> None:
    assert {known.name: known.folder for known in known_models()} == dict.fromkeys(manifests())
    models_folder().mkdir(parents=True)
    for name in ("chat", "mine", "someone/tiny"):
        (models_folder() / name).parent.mkdir(exist_ok=True)
        (models_folder() / name).symlink_to(model)
    (models_folder() / "empty").mkdir()
    write_origin(model, {"kind": "hub", "licence": "MIT"})
    known = {known.name: known for known in known_models()}
    assert list(known) == [*manifests(), "mine", "someone/tiny"]
    assert known["chat"].folder == str(models_folder() / "chat")
    assert known["tinyllama-chat-v1"].folder is None
    assert (known["someone/tiny"].description, known["someone/tiny"].licence) == ("from the hub", "MIT")
