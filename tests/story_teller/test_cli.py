"""``story-teller`` as a user meets it: a process with a terminal's or a pipe's streams."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import Result, run_program
from shared_files import PROJECT, story_model
from terminal import take_terminal

from lm_core.config import LlamaConfig


def tell(*arguments: str, stdin: bytes = b"", environment: dict[str, str] | None = None) -> Result:
    return run_program("story_teller", ["-m", str(story_model()), *arguments], stdin, environment)


def test_prints_prompt_and_story_then_two_performance_lines() -> None:
    result = tell("Once upon a time")
    assert result.code == 0
    assert result.out.startswith("Once upon a time") and result.out.endswith("\n")
    assert len(result.out.split()) > 20
    assert re.fullmatch(
        r"--- Performance ---\n"
        r"AVG Prompt Processing: \d+\.\d\d tokens/s\n"
        r"AVG Generation: \d+\.\d\d tokens/s\n",
        result.err,
    )


def test_without_a_model_takes_the_one_that_came_along() -> None:
    story_model()
    result = run_program("story_teller", ["-t", "0", "-n", "5"])
    assert result.code == 0 and result.out == tell("-t", "0", "-n", "5").out


def test_greedy_is_the_same_every_time() -> None:
    assert tell("-t", "0").out == tell("-t", "0").out


def test_a_seed_repeats_a_story_and_another_seed_tells_another() -> None:
    first, again, other = tell("--seed", "7"), tell("--seed", "7"), tell("--seed", "8")
    assert first.out == again.out != other.out


def test_json_is_one_object() -> None:
    result = tell("--json", "-t", "0", "-n", "10", "Tom and Lily")
    story = json.loads(result.out)
    assert result.err == ""
    assert story["prompt"] == "Tom and Lily" and len(story["tokens"]) == 10
    assert story["finish_reason"] == "length"
    assert story["text"] and story["timings"]["predicted_per_second"] > 0
    plain = tell("-t", "0", "-n", "10", "Tom and Lily")
    assert plain.out == "Tom and Lily" + story["text"] + "\n"


def test_speculation_changes_nothing_but_the_time() -> None:
    """It is asked for by option or environment, and tells how many guesses it made."""
    arguments = ["--json", "-n", "60", "--seed", "1", "The cat saw the big dog. " * 8]
    plain, *others = (
        json.loads(result.out)
        for result in (
            tell(*arguments),
            tell("--speculate", *arguments),
            tell(*arguments, environment={"STORY_TELLER_SPECULATE": "1"}),
        )
    )
    for speculated in others:
        assert speculated["tokens"] == plain["tokens"]
        drafted, accepted = (speculated["timings"][name] for name in ("drafted_tokens", "accepted_tokens"))
        assert drafted > 0 and 0 <= accepted <= drafted
    assert plain["timings"]["drafted_tokens"] == 0


def test_stories_end_by_themselves_and_the_end_token_is_not_printed() -> None:
    ends = [json.loads(tell("--json", "--seed", str(seed)).out) for seed in range(4)]
    assert [story["finish_reason"] for story in ends].count("stop") >= 3
    assert not any("<|" in story["text"] for story in ends)


def test_reads_the_prompt_from_stdin() -> None:
    assert tell("-", "-t", "0", "-n", "5", stdin=b"The dragon\n").out.startswith("The dragon")


@pytest.mark.parametrize("prompt", ["", "x", "Why?", "你好，世界", "🙂👩‍👩‍👧", "a\nb", "שלום", "\x1b[31mred"])
def test_any_prompt_works_and_prints_no_broken_characters(prompt: str) -> None:
    result = tell("--seed", "1", "-n", "60", "--", prompt)
    assert result.code == 0, result.err
    assert "\ufffd" not in result.out and "\x1b" not in result.out
    assert result.out.startswith(prompt.replace("\x1b", ""))


def test_options_come_from_the_environment_too() -> None:
    environment = {"STORY_TELLER_TEMPERATURE": "0", "STORY_TELLER_MAX_TOKENS": "5"}
    assert tell(environment=environment).out == tell("-t", "0", "-n", "5").out


def test_help_has_examples_and_version_is_the_distributions() -> None:
    help_text = run_program("story_teller", ["--help"])
    assert help_text.code == 0 and "Examples:" in help_text.out and "Exit codes:" in help_text.out
    version = run_program("story_teller", ["--version"])
    assert re.fullmatch(r"story-teller \d+\.\d+\.\d+\n", version.out)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-t", "nan"], 2, ["temperature"]),
        (["-t", "-1"], 2, ["temperature"]),
        (["-t", "inf"], 2, ["temperature"]),
        (["-k", "-1"], 2, ["top_k"]),
        (["-p", "1.5"], 2, ["top_p"]),
        (["--min-p", "2"], 2, ["min_p"]),
        (["-r", "0"], 2, ["repetition_penalty"]),
        (["-s", "-1"], 2, ["seed"]),
        (["-s", str(1 << 63)], 2, ["seed"]),
        (["-n", "0"], 2, ["--max-tokens"]),
        (["--threads", "0"], 2, ["--threads"]),
        (["--dtype", "f8"], 2, ["--dtype"]),
        (["--no-such-option"], 2, ["--no-such-option"]),
        (["a", "b"], 2, ["b"]),
        (["word " * 3000], 1, ["context"]),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], code: int, words: list[str]) -> None:
    tell(*arguments).assert_one_line_error(code, *words)


def test_a_prompt_that_is_not_utf_8_is_one_clear_line() -> None:
    tell("-", stdin=b"\xff\xfe").assert_one_line_error(2, "UTF-8")


def test_a_missing_folder_or_file_is_one_clear_line(tmp_path: Path) -> None:
    run_program("story_teller", ["-m", str(tmp_path / "no")]).assert_one_line_error(1, "no")
    run_program("story_teller", ["-m", str(tmp_path)]).assert_one_line_error(1, "config.json")
    shutil.copy(story_model() / "config.json", tmp_path)
    run_program("story_teller", ["-m", str(tmp_path)]).assert_one_line_error(1, "model.safetensors")
    shutil.copy(story_model() / "model.safetensors", tmp_path)
    run_program("story_teller", ["-m", str(tmp_path)]).assert_one_line_error(1, "tokenizer.json")


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(story_model(), tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab_size = LlamaConfig.from_pretrained(folder).vocab_size
    tokenizer["model"]["vocab"]["one-more"] = vocab_size
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    run_program("story_teller", ["-m", str(folder)]).assert_one_line_error(
        1, "tokenizer.json", str(vocab_size)
    )


def test_debug_shows_the_trace(tmp_path: Path) -> None:
    result = run_program("story_teller", ["--debug", "-m", str(tmp_path / "no")])
    assert result.code == 1 and "Traceback" in result.err


def test_a_reader_that_leaves_early_ends_it_quietly() -> None:
    command = [sys.executable, "-m", "story_teller", "-m", str(story_model()), "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert "Traceback" not in process.stderr.read().decode()
    assert process.returncode in (0, 1)


def test_streams_to_a_terminal_and_ctrl_c_ends_it_with_130() -> None:
    """A pty shows text before the story is done, and ^C typed into it interrupts."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "story_teller", "-m", str(story_model()), "-n", "100000"]
    # Sampling from the whole flat distribution never ends a story by itself.
    command += ["-t", "50", "-k", "0", "-p", "1"]
    with subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=PROJECT,
        start_new_session=True,
        preexec_fn=take_terminal,
    ) as process:
        os.close(terminal)
        shown = b""
        while len(shown) < len("Once upon a time") + 5:
            shown += os.read(controller, 1024)
        os.write(controller, b"\x03")
        try:
            while os.read(controller, 1024):
                pass
        except OSError:
            pass
        code = process.wait()
    os.close(controller)
    # It may have reached the end of its context before the key arrived.
    assert code in (130, 0) and shown.startswith(b"Once upon a time")
