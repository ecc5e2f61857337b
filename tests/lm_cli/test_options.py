"""The options that programs share: spelled alike, with each program's own defaults."""

from __future__ import annotations

import json
from importlib.metadata import version

import click
import pytest

from lm_cli.options import (
    EXIT_CODES,
    debug_option,
    engine_options,
    sampling_options,
    speculate_option,
    version_option,
)
from lm_cli.program import USAGE, run
from lm_core.sampler import SamplingParams

Capture = pytest.CaptureFixture[str]


@click.command()
@sampling_options(temperature=0.7, top_k=40, top_p=0.95, repetition_penalty=1.1, min_p=0.05)
@engine_options()
@speculate_option()
@debug_option()
@version_option()
def program(**options: object) -> None:
    click.echo(json.dumps(options))


@click.command()
@sampling_options(temperature=None, top_k=None, top_p=None, repetition_penalty=None, min_p=None)
def without_defaults(**options: object) -> None:
    click.echo(json.dumps(options))


def given(capture: Capture, *arguments: str, command: click.Command = program) -> dict[str, object]:
    """The options that a command receives."""
    assert run(command, "p", arguments) == 0
    received: dict[str, object] = json.loads(capture.readouterr().out)
    return received


DEFAULTS = {
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "seed": None,
    "dtype": "auto",
    "threads": None,
    "speculate": False,
    "debug": False,
}


def test_defaults_are_the_programs(capsys: Capture) -> None:
    """Or nobody's."""
    assert given(capsys) == DEFAULTS
    assert set(given(capsys, command=without_defaults).values()) == {None}


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["-t", "0"], "temperature", 0.0),
        (["--temperature", "1.5"], "temperature", 1.5),
        (["-k", "5"], "top_k", 5),
        (["--top-k", "0"], "top_k", 0),
        (["-p", "0.5"], "top_p", 0.5),
        (["--top-p", "1"], "top_p", 1.0),
        (["--min-p", "0.1"], "min_p", 0.1),
        (["-r", "1.3"], "repetition_penalty", 1.3),
        (["--repetition-penalty", "1"], "repetition_penalty", 1.0),
        (["-s", "7"], "seed", 7),
        (["--seed", "9223372036854775807"], "seed", (1 << 63) - 1),
        (["--dtype", "bf16"], "dtype", "bf16"),
        (["--threads", "2"], "threads", 2),
        (["--speculate"], "speculate", True),
        (["--speculate", "--no-speculate"], "speculate", False),
        (["--debug"], "debug", True),
    ],
)
def test_each_option_arrives(arguments: list[str], name: str, value: object, capsys: Capture) -> None:
    """Alone, in its short and its long form."""
    assert given(capsys, *arguments) == {**DEFAULTS, name: value}


def test_sampling_options_are_the_samplers(capsys: Capture) -> None:
    """Every parameter has an option, so none can only be reached from Python."""
    options = given(capsys, command=without_defaults)
    assert set(options) == set(SamplingParams.__dataclass_fields__)


@pytest.mark.parametrize(
    "arguments",
    [["-t", "warm"], ["-k", "1.5"], ["--threads", "0"], ["--threads", "-1"], ["--dtype", "f8"], ["-s", "x"]],
)
def test_what_is_no_value(arguments: list[str], capsys: Capture) -> None:
    """Wrong usage, with the option's name."""
    assert run(program, "p", arguments) == USAGE
    err = capsys.readouterr().err
    assert arguments[0] in err and err.count("\n") == 1


def test_help_and_version(capsys: Capture) -> None:
    """Defaults are shown; the version is the distribution's; all four exit codes are explained."""
    assert run(program, "p", ["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("[default: 0.7]", "[default: 40]", "[auto|f32|bf16]", "--min-p", "--debug"):
        assert part in text
    assert all(str(code) in EXIT_CODES for code in (0, 1, 2, 130))
    assert run(program, "p", ["--version"]) == 0
    assert capsys.readouterr().out == f"p {version('rewindlm')}\n"
