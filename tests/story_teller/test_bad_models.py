"""Every way a model folder can be bad: one clear line, an exit code, and no memory for what it claims.

The program runs inside this process, where its memory can be watched; ``test_cli.py`` runs it as a user does.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors_file import write_safetensors
from shared_files import PROJECT
from tiny_language_model import CONTEXT_LENGTH, write_chat_model

from lm_cli.program import run
from lm_core.checkpoint import Checkpoint
from story_teller.cli import story_teller

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without a fault, and everything imported that a run needs."""
    folder = write_chat_model(tmp_path_factory.mktemp("sound"))
    assert run(story_teller, "story-teller", ["-m", str(folder), "-n", "1"]) == 0
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return shutil.copytree(sound, tmp_path / "model")


def refusal(capture: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The program refuses with this exit code and one line, which is returned."""
    capture.readouterr()
    assert run(story_teller, "story-teller", list(arguments)) == code
    out, err = capture.readouterr()
    assert out == "" and err.startswith("story-teller: error: ") and err.count("\n") == 1
    return err


def config(**changes: Any) -> Damage:
    """Other values in ``config.json``; None removes one."""

    def damage(folder: Path) -> None:
        found = {**json.loads((folder / "config.json").read_text()), **changes}
        kept = {name: value for name, value in found.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return damage


def without(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def content(name: str, data: bytes) -> Damage:
    """Other bytes for a file."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def weights(change: Callable[[bytes], bytes]) -> Damage:
    """Other bytes for the whole file."""

    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return damage


def tensors(change: Callable[[dict[str, Any]], Any], **header: Any) -> Damage:
    """Other tensors, or other entries in the header of the file."""

    def damage(folder: Path) -> None:
        checkpoint = Checkpoint.open(folder)
        found = {name: np.array(checkpoint[name]) for name in checkpoint.tensors}
        change(found)
        changes = header.get("changes")
        write_safetensors(folder / "model.safetensors", found, changes(found) if changes else None)

    return damage


def tokenizer_with_one_more(folder: Path) -> None:
    found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    found["model"]["vocab"]["one-more"] = len(found["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(found), encoding="utf-8")


def overlapping(found: dict[str, Any]) -> dict[str, Any]:
    """The second tensor begins where the first does."""
    first, second = list(found)[:2]
    return {
        name: {"dtype": "F32", "shape": list(found[name].shape), "data_offsets": [0, found[name].nbytes]}
        for name in (first, second)
    }


NORM = "model.norm.weight"
HUGE = (1 << 31) - 8

DAMAGES: dict[str, tuple[Damage, list[str]]] = {
    "no_config": (without("config.json"), ["config.json"]),
    "empty_config": (content("config.json", b""), ["config.json", "JSON"]),
    "garbage_config": (content("config.json", b"\xff\x00{"), ["config.json", "JSON"]),
    "no_weights": (without("model.safetensors"), ["model.safetensors"]),
    "empty_weights": (weights(lambda _: b""), ["model.safetensors", "again"]),
    "garbage_weights": (weights(lambda _: bytes(range(256)) * 100), ["model.safetensors", "again"]),
    "truncated_weights": (weights(lambda data: data[:-1]), ["model.safetensors", "again"]),
    "truncated_header": (weights(lambda data: data[:100]), ["model.safetensors", "again"]),
    "header_of_2_63": (
        weights(lambda data: (1 << 63).to_bytes(8, "little") + data[8:]),
        ["model.safetensors"],
    ),
    "header_of_2_40": (
        weights(lambda data: (1 << 40).to_bytes(8, "little") + data[8:]),
        ["model.safetensors"],
    ),
    "overlapping_offsets": (tensors(lambda _: None, changes=overlapping), ["model.safetensors", "again"]),
    "wrong_shape": (
        tensors(lambda found: found.update({NORM: np.ones(63, np.float32)})),
        [NORM, "[63]", "[64]"],
    ),
    "missing_tensor": (tensors(lambda found: found.pop(NORM)), ["lack", NORM]),
    "left_over_tensor": (
        tensors(lambda found: found.update(more=np.ones(1, np.float32))),
        ["'more'", "no place"],
    ),
    "quantized_tensor": (
        tensors(lambda found: found.update({NORM: np.ones(64, np.int8)})),
        [NORM, "I8", "F32, F16 or BF16"],
    ),
    "unknown_architecture": (
        config(architectures=["GPT2LMHeadModel"]),
        ["GPT2LMHeadModel", "LlamaForCausalLM"],
    ),
    "unknown_rope": (config(rope_scaling={"rope_type": "longrope", "factor": 4.0}), ["longrope", "yarn"]),
    "heads_not_divisible": (
        config(num_key_value_heads=3),
        ["num_attention_heads 4", "num_key_value_heads 3"],
    ),
    "quantized": (config(quantization_config={"bits": 4}), ["quantized"]),
    "huge_shapes": (config(vocab_size=HUGE, hidden_size=HUGE, intermediate_size=HUGE), ["shape", str(HUGE)]),
    "huge_heads": (config(head_dim=HUGE), ["shape", "q_proj"]),
    "many_layers": (config(num_hidden_layers=4096), ["lack", "model.layers.2."]),
    "no_tokenizer": (without("tokenizer.json"), ["tokenizer.json"]),
    "damaged_tokenizer": (content("tokenizer.json", b"{}"), ["tokenizer.json"]),
    "too_many_ids": (tokenizer_with_one_more, ["tokenizer.json", "266"]),
    "damaged_settings": (content("tokenizer_config.json", b"["), ["tokenizer_config.json"]),
    "damaged_generation_config": (content("generation_config.json", b"["), ["generation_config.json"]),
    "wrong_end_token": (content("generation_config.json", b'{"eos_token_id": 266}'), ["eos_token_id 266"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_models(damage: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused by name, with 1, before more memory is taken than the folder's files have bytes."""
    change, words = DAMAGES[damage]
    size = sum(file.stat().st_size for file in folder.iterdir())
    change(folder)
    tracemalloc.start()
    try:
        line = refusal(capsys, 1, "-m", str(folder))
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()
    for word in words:
        assert word in line
    assert "internal error" not in line


@pytest.mark.parametrize(
    "damage", ["header_of_2_63", "header_of_2_40", "huge_shapes", "huge_heads", "many_layers"]
)
def test_not_even_the_system_is_asked_for_memory(damage: str, folder: Path) -> None:
    """A process that may take no more than 64 MB still says what is wrong, not that memory is short."""
    DAMAGES[damage][0](folder)
    code = (
        "import resource, sys\n"
        "from story_teller.cli import story_teller\n"
        "from story_teller import story\n"
        "from lm_cli.program import run\n"
        "from lm_core.blas import set_threads\n"
        "set_threads(1)\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + (64 << 20), taken + (64 << 20)))\n"
        "sys.exit(run(story_teller, 'story-teller'))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, "-m", str(folder), "--threads", "1"],
        capture_output=True,
        cwd=PROJECT,
        timeout=60,
        check=False,
    )
    line = found.stderr.decode()
    assert found.returncode == 1 and line.count("\n") == 1
    for word in DAMAGES[damage][1]:
        assert word in line


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-t", "nan"], 2, ["temperature is nan"]),
        (["-k", "-1"], 2, ["top_k is -1"]),
        (["-p", "1.5"], 2, ["top_p is 1.5"]),
        (["and " * CONTEXT_LENGTH], 1, [f"context of {CONTEXT_LENGTH}", "shorten"]),
        (["a\udcff"], 2, ["not valid Unicode"]),
    ],
)
def test_bad_arguments(
    arguments: list[str], code: int, words: list[str], sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is printed."""
    line = refusal(capsys, code, "-m", str(sound), *arguments)
    for word in words:
        assert word in line


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, and so is what could be."""
    line = refusal(capsys, 1, "-m", str(tmp_path / "nowhere"))
    assert "nowhere" in line and "folder" in line


def test_the_empty_prompt_begins_a_story(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the beginning token; a model that has none says so."""
    assert run(story_teller, "story-teller", ["-m", str(sound), "--json", "-n", "3", "-t", "0", ""]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["prompt"] == "" and report["timings"]["prompt_tokens"] == 1


def test_the_empty_prompt_without_a_beginning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing can be continued."""
    found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps({**found, "post_processor": None}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}")
    assert "the prompt is empty" in refusal(capsys, 2, "-m", str(folder), "")
