"""``chat-revert`` as a user meets it."""

from __future__ import annotations

import json

import pytest
from programs import Result, run_program
from shared_files import story_model

BLOCKS = ["PROMPT:", "ANSWER:", "correct PROMPT after [revertion]:", "true PROMPT after [revertion]:"]


def prove(*arguments: str) -> Result:
    return run_program(
        "chat_revert", ["-m", str(story_model()), "--chat-template", "plain", "-n", "30", *arguments]
    )


def test_prints_the_four_blocks_and_the_proof() -> None:
    result = prove()
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    starts = [lines.index(title) for title in [*BLOCKS, "Proof:"]]
    assert starts == sorted(starts)
    blocks = dict(zip(BLOCKS, _between(result.out, [*BLOCKS, "Proof:"]), strict=True))
    assert "How many legs does a rabbit have?" in blocks["PROMPT:"]
    # It ends exactly where it should, in the middle of nothing else.
    assert blocks[BLOCKS[3]] == blocks[BLOCKS[2]] and blocks["PROMPT:"].startswith(blocks[BLOCKS[2]])
    assert "rabbit" not in blocks[BLOCKS[3]]
    proof = lines[starts[-1] + 1 : -1]
    assert [line.split("  ")[1] for line in proof] == [
        "truncation",
        "tokens",
        "cache length",
        "keys and values",
        "next logits",
        "next answer",
    ]
    assert all(" equal " in line for line in proof) and lines[-1].startswith("Proved: ")


def test_json_is_one_object_with_the_same_content() -> None:
    report = json.loads(prove("--json").out)
    assert report["equal"] is True and list(report["blocks"]) == [title[:-1] for title in BLOCKS]
    assert all(check["equal"] for check in report["proof"])


@pytest.mark.parametrize(
    "options", [["-t", "0"], ["--dtype", "bf16"], ["-r", "1.176", "--seed", "3"], ["--speculate"]]
)
def test_proves_it_however_tokens_are_chosen_and_weights_are_kept(options: list[str]) -> None:
    assert prove(*options).code == 0


def test_a_random_script_has_the_turns_and_reverts_that_were_asked_for() -> None:
    result = prove("--turns", "7", "--random-reverts", "6", "--seed", "2")
    assert result.code == 0, result.err
    steps = result.out.splitlines()
    assert sum(step.startswith("turn ") for step in steps) == 7
    assert sum(step.startswith("revert to ") for step in steps) == 6
    assert prove("--turns", "7", "--random-reverts", "6", "--seed", "2", "--speculate").out == result.out
    assert prove("--turns", "7", "--random-reverts", "6", "--seed", "3").out != result.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--random-reverts", "1"], 2, ["--turns"]),
        (["--turns", "2", "--random-reverts", "3"], 2, ["--random-reverts", "2 turns"]),
        (["--turns", "0"], 2, ["--turns"]),
        (["--chat-template", "no-such"], 2, ["no-such", "chatml"]),
        (["-t", "nan"], 2, ["temperature"]),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], code: int, words: list[str]) -> None:
    prove(*arguments).assert_one_line_error(code, *words)


def test_a_model_without_a_chat_template_is_told_apart() -> None:
    result = run_program("chat_revert", ["-m", str(story_model())])
    assert result.code == 1 and "no chat template" in result.err and "Traceback" not in result.err


def test_a_model_that_is_not_here_is_not_fetched_against_the_users_will() -> None:
    result = run_program("chat_revert", ["-m", "no/such-model", "--no-pull"])
    result.assert_one_line_error(1, "no/such-model")


def _between(text: str, titles: list[str]) -> list[str]:
    starts = [text.index(f"{title}\n") for title in titles]
    ends = starts[1:]
    return [
        text[start + len(title) + 1 : end].rstrip("\n")
        for title, start, end in zip(titles, starts, ends, strict=False)
    ]
