"""Every damaged byte and every part that does not fit is found, and named."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import KINDS, RandomCheckpoint
from safetensors.numpy import load_file, save_file

from lm_core.errors import (
    CheckpointError,
    ConfigError,
    LanguageModelError,
    ModelNotFound,
    TemplateError,
    TokenizerError,
)
from lm_models.checksums import SUMS_FILE, read_sums
from lm_models.errors import ContentsChanged
from lm_models.progress import SilentProgress
from lm_models.pull import convert
from lm_models.verification import verify


@pytest.fixture(scope="module")
def sealed(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with its sums.  Read only."""
    return convert(tiny_gguf, tmp_path_factory.mktemp("sealed") / "tiny", SilentProgress())


@pytest.fixture
def folder(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "tiny"))


def check(folder: Path) -> list[str]:
    return list(verify(folder, SilentProgress()))


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_says_what_is_in_order(folder: Path) -> None:
    numbers = sum(tensor.size for tensor in load_file(folder / "model.safetensors").values())
    assert check(folder) == [
        "contents: 6 files equal SHA256SUMS",
        "config.json: LlamaForCausalLM, 2 layers, supported",
        "weights: 20 tensors, all that the configuration asks for",
        "tokenizer: 269 tokens, within the vocabulary, any text comes back",
        "end tokens: 2",
        f"numbers: {numbers:,}, all finite",
        "chat template: renders",
    ]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="there is no model folder"):
        check(tmp_path / "absent")


class TestContents:
    def test_every_changed_byte(self, folder: Path) -> None:
        """Each file's first and last byte, and two hundred anywhere, the list of sums included."""
        chooser = random.Random(0)
        files = sorted(folder.iterdir())
        assert len(files) == 7
        places = [(file, place) for file in files for place in (0, file.stat().st_size - 1)]
        for file in chooser.choices(files, k=200):
            places.append((file, chooser.randrange(file.stat().st_size)))
        for file, place in places:
            data = bytearray(file.read_bytes())
            data[place] ^= 1 << chooser.randrange(8)
            self.assert_found(folder, file, bytes(data))

    @pytest.mark.parametrize(
        "change", [lambda data: data[:-1], lambda data: data + b"\n", lambda data: data[:0]]
    )
    def test_every_changed_length(self, folder: Path, change: Callable[[bytes], bytes]) -> None:
        for file in sorted(folder.iterdir()):
            self.assert_found(folder, file, change(file.read_bytes()))

    def test_every_lost_file(self, folder: Path) -> None:
        for file in sorted(folder.iterdir()):
            data = file.read_bytes()
            file.unlink()
            with pytest.raises(ContentsChanged, match=f"lacks {file.name}"):
                check(folder)
            file.write_bytes(data)

    def test_every_lost_line_of_the_sums(self, folder: Path) -> None:
        lines = (folder / SUMS_FILE).read_text().splitlines(keepends=True)
        for index in range(len(lines)):
            (folder / SUMS_FILE).write_text("".join(lines[:index] + lines[index + 1 :]))
            with pytest.raises(ContentsChanged, match="which SHA256SUMS does not list"):
                check(folder)

    def test_added_file(self, folder: Path) -> None:
        (folder / ".DS_Store").write_text("of no consequence")
        check(folder)
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        with pytest.raises(ContentsChanged, match=r"holds chat_template\.jinja, which SHA256SUMS does not"):
            check(folder)

    def test_names_cannot_lead_out_of_the_folder(self, folder: Path) -> None:
        with (folder / SUMS_FILE).open("a") as sums:
            sums.write(f"{'0' * 64}  ../secret\n")
        with pytest.raises(ContentsChanged, match="SHA256SUMS is damaged"):
            read_sums(folder)

    def test_sha256sum_reads_the_sums(self, folder: Path) -> None:
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS_FILE], cwd=folder, check=True)

    @staticmethod
    def assert_found(folder: Path, file: Path, changed: bytes) -> None:
        data = file.read_bytes()
        file.write_bytes(changed)
        with pytest.raises(ContentsChanged):
            check(folder)
        file.write_bytes(data)


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def break_a_number(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][7] = np.nan
    save_file(weights, folder / "model.safetensors")


PARTS: dict[str, tuple[Callable[[Path], object], type[LanguageModelError], str]] = {
    "architecture": (
        lambda folder: change_json(folder / "config.json", architectures=["GPT2LMHeadModel"]),
        ConfigError,
        "GPT2LMHeadModel",
    ),
    "shape": (lambda folder: change_json(folder / "config.json", hidden_size=32), CheckpointError, "shape"),
    "missing tensor": (lose_a_tensor, CheckpointError, "lack 'model.layers.1.mlp.up_proj.weight'"),
    "layers": (
        lambda folder: change_json(folder / "config.json", num_hidden_layers=1),
        CheckpointError,
        "no place for",
    ),
    "not a number": (break_a_number, CheckpointError, "infinities or not-numbers in 'model.norm.weight'"),
    "weights cut": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-1]
        ),
        CheckpointError,
        "not a valid safetensors file",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), ModelNotFound, "has no model"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), ModelNotFound, "has no tokenizer"),
    "tokenizer of another model": (
        lambda folder: add_token(folder / "tokenizer.json"),
        TokenizerError,
        "files are of different models",
    ),
    "unknown end token": (
        lambda folder: change_json(folder / "tokenizer_config.json", eos_token="<end>"),
        TokenizerError,
        "names the eos_token '<end>', which tokenizer.json does not have",
    ),
    "end token out of range": (
        lambda folder: change_json(folder / "generation_config.json", eos_token_id=[2, 999]),
        ConfigError,
        "eos_token_id 999",
    ),
    "template": (
        lambda folder: change_json(folder / "tokenizer_config.json", chat_template="{{ x.y }}"),
        TemplateError,
        "template",
    ),
}


def add_token(file: Path) -> None:
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 999, "content": "<more>"})
    file.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("part", PARTS)
def test_parts_that_do_not_fit_are_found_without_sums_too(model: Path, part: str) -> None:
    assert check(model)[0] == "contents: not compared, there is no SHA256SUMS"
    break_it, error, message = PARTS[part]
    break_it(model)
    with pytest.raises(error, match=message):
        check(model)


@pytest.mark.parametrize("kind", ["llama", "f16", "bf16", "bf16_sharded"])
@pytest.mark.parametrize("number", [None, np.inf, -np.inf, np.nan])
def test_not_numbers_of_every_storage(
    converted: Path, tmp_path: Path, kind: str, number: float | None
) -> None:
    checkpoint = RandomCheckpoint(replace(KINDS[kind], config={**KINDS[kind].config, "vocab_size": 300}))
    if number is not None:
        checkpoint.weights["model.layers.1.mlp.down_proj.weight"][-1, -1] = number
    folder = checkpoint.write(tmp_path / kind)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(converted / name, folder)
    if number is None:
        assert check(folder)[-2].endswith(", all finite")
    else:
        with pytest.raises(CheckpointError, match="not-numbers in 'model.layers.1.mlp.down_proj.weight'"):
            check(folder)
