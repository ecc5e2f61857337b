"""How every program ends: its exit code, one line for an error, and options from the environment."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from shared_files import PROJECT

from lm_cli.program import FAILED, INTERRUPTED, USAGE, run
from lm_core.errors import (
    CheckpointError,
    ConfigError,
    ContextLengthExceeded,
    InvalidParameter,
    LanguageModelError,
    ModelNotFound,
    TemplateError,
    TokenizerError,
)

Capture = pytest.CaptureFixture[str]


def command(error: BaseException | None = None) -> click.Command:
    """A program that tells its options and then fails, or does not."""

    @click.command(epilog="Examples: none.")
    @click.option("--max-tokens", type=click.IntRange(min=1), default=3)
    @click.option("--name", default="nobody")
    @click.option("--flag/--no-flag")
    @click.option("--debug", is_flag=True)
    @click.argument("words", nargs=-1)
    def program(max_tokens: int, name: str, flag: bool, debug: bool, words: tuple[str, ...]) -> None:  # noqa: ARG001
        click.echo(f"{max_tokens} {name} {flag} {' '.join(words)}")
        if error is not None:
            raise error

    return program


def failed(error: BaseException, capture: Capture) -> tuple[int, str]:
    """Exit code and the one line on stderr, without the program's name."""
    code = run(command(error), "story-teller", [])
    err = capture.readouterr().err
    assert err.startswith("story-teller: error: ") and err.endswith("\n") and err.count("\n") == 1
    assert err[:-1].isprintable()
    return code, err.removeprefix("story-teller: error: ").rstrip("\n")


def test_a_program_that_does_its_work(capsys: Capture) -> None:
    """Ends with 0 and prints nothing else."""
    assert run(command(), "p", ["--max-tokens", "5", "a", "b"]) == 0
    assert capsys.readouterr() == ("5 nobody False a b\n", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LanguageModelError("It failed"), FAILED, "It failed"),
        (ModelNotFound("there is no model folder 'x'"), FAILED, "there is no model folder 'x'"),
        (ConfigError("config.json is wrong"), FAILED, "config.json is wrong"),
        (CheckpointError("the weights are wrong"), FAILED, "the weights are wrong"),
        (TokenizerError("the tokenizer is wrong"), FAILED, "the tokenizer is wrong"),
        (TemplateError("the template is wrong"), FAILED, "the template is wrong"),
        (ContextLengthExceeded(7, 5), FAILED, "7 tokens do not fit"),
        (InvalidParameter("top_k", "top_k is -1"), USAGE, "top_k is -1; see --help"),
        (click.UsageError("No such thing."), USAGE, "No such thing; see --help"),
        (
            click.BadParameter("too low", param_hint="--max-tokens"),
            USAGE,
            "--max-tokens: too low; see --help",
        ),
        (click.ClickException("It is full."), FAILED, "It is full."),
        (FileNotFoundError(2, "No such file", "x"), FAILED, "No such file: 'x'"),
        (MemoryError(), FAILED, "not enough memory"),
        (KeyError("x"), FAILED, "internal error: KeyError: 'x'; run again with --debug"),
        (
            RuntimeError("impossible"),
            FAILED,
            "internal error: RuntimeError: impossible; run again with --debug",
        ),
    ],
)
def test_errors_are_one_line(error: Exception, code: int, line: str, capsys: Capture) -> None:
    """What a user can do differently is 2; what failed is 1; a bug says that it is one."""
    found = failed(error, capsys)
    assert found[0] == code and line in found[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interruption_is_130_and_silent(error: BaseException, capsys: Capture) -> None:
    """As of a program that the shell's ^C ended."""
    assert run(command(error), "p", []) == INTERRUPTED == 130
    assert capsys.readouterr().err == ""


def test_an_exit_code_of_clicks_own(capsys: Capture) -> None:
    """``--help`` ends with 0, and a command may end with any."""
    assert run(command(), "p", ["--help"]) == 0
    assert "Examples" in capsys.readouterr().out
    assert run(command(click.exceptions.Exit(3)), "p", []) == 3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--no-such"], "--no-such"), (["--max-tokens", "0"], "--max-tokens"), (["--max-tokens", "x"], "'x'")],
)
def test_wrong_usage(arguments: list[str], word: str, capsys: Capture) -> None:
    """Found before the command runs."""
    assert run(command(), "p", arguments) == USAGE
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and word in err and err.endswith("; see --help\n")


def test_a_line_stays_a_line(capsys: Capture) -> None:
    """Whatever a file name or a downloaded file brings into the message."""
    code, line = failed(ModelNotFound("no 'a\nb\r\n\x1b]0;title\x07c\u2028d'"), capsys)
    assert code == FAILED and line == "no 'a b ]0;titlec d'"


@pytest.mark.parametrize("debug", [True, False])
def test_the_trace_is_shown_on_request(debug: bool, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an option, or by the environment; the one line still comes last."""
    for arguments, environment in (([*(["--debug"] * debug)], None), ([], str(int(debug)))):
        if environment is not None:
            monkeypatch.setenv("P_DEBUG", environment)
        assert run(command(CheckpointError("damaged")), "p", arguments) == FAILED
        err = capsys.readouterr().err
        assert ("Traceback" in err and "CheckpointError" in err) == debug
        assert err.splitlines()[-1] == "p: error: damaged"


class TestEnvironment:
    """Every option is also a variable."""

    def test_its_name_is_the_programs_and_the_options(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In capitals, with underscores; a variable of another program means nothing."""
        monkeypatch.setenv("STORY_TELLER_MAX_TOKENS", "9")
        monkeypatch.setenv("STORY_TELLER_FLAG", "yes")
        monkeypatch.setenv("CHAT_CLI_NAME", "other")
        assert run(command(), "story-teller", []) == 0
        assert capsys.readouterr().out == "9 nobody True \n"

    def test_the_command_line_comes_first(self, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORY_TELLER_MAX_TOKENS", "9")
        assert run(command(), "story-teller", ["--max-tokens", "4"]) == 0
        assert capsys.readouterr().out.startswith("4 ")

    def test_a_wrong_value_is_wrong_usage(self, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORY_TELLER_MAX_TOKENS", "many")
        assert run(command(), "story-teller", []) == USAGE
        assert "many" in capsys.readouterr().err


def test_arguments_are_those_of_the_process(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they are given."""
    monkeypatch.setattr(sys, "argv", ["ignored", "--name", "somebody"])
    assert run(command(), "p") == 0
    assert capsys.readouterr().out == "3 somebody False \n"


def python(code: str, encoding: str = "utf-8") -> subprocess.Popen[bytes]:
    """A process of its own, with streams of this encoding."""
    return subprocess.Popen(
        [sys.executable, "-X", "utf8=0", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PROJECT,
        env={"PYTHONIOENCODING": encoding, "LC_ALL": "C"},
    )


ECHO = (
    "import sys, click\n"
    "from lm_cli.program import run\n"
    "@click.command()\n"
    "def program():\n"
    "    for _ in range({times}): click.echo({text!a})\n"
    "    {last}\n"
    "sys.exit(run(program, 'p', []))\n"
)


def test_a_terminal_that_cannot_show_a_character() -> None:
    """Shows a question mark instead of ending the program."""
    code = ECHO.format(times=1, text="", last="sys.stdout.write('a\\u597d\\udcffb')")
    with python(code, "ascii") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"\na??b", b"")


def test_a_reader_that_has_gone() -> None:
    """As in ``program | head -1``: no trace, and no complaint of Python's own on exit."""
    with python(ECHO.format(times=200_000, text="line", last="pass")) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == FAILED


def test_variables_are_named_after_options_as_they_are_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """``CHAT_CLI_JSON`` was ignored, because the option's parameter is called ``as_json``."""

    @click.group()
    def group() -> None:
        pass

    @group.command("a-list")
    @click.option("-m", "--model-dir", "model")
    @click.option("--json", "as_json", is_flag=True)
    def a_list(model: str | None, as_json: bool) -> None:
        click.echo(f"{model} {as_json}")

    monkeypatch.setenv("LM_MODELS_A_LIST_JSON", "1")
    monkeypatch.setenv("LM_MODELS_A_LIST_MODEL_DIR", "x")
    assert run(group, "lm-models", ["a-list"]) == 0
    assert run(group, "lm-models", ["a-list", "-m", "y"]) == 0
    monkeypatch.setenv("LM_MODELS_A_LIST_JSON", "perhaps")
    assert run(group, "lm-models", ["a-list"]) == USAGE
    captured = capsys.readouterr()
    assert captured.out == "x True\ny True\n" and "--json" in captured.err


def test_streams_that_are_closed_are_empty_ones() -> None:
    """A program without stdout said that it has an internal error."""
    program = (
        "import click, sys; from lm_cli.program import run; "
        "f = click.command()(lambda: click.echo(sys.stdin.read() + 'said')); sys.exit(run(f, 'p', []))"
    )
    for redirections, out in (("<&-", "said\n"), (">&-", ""), ("2>&-", "said\n"), ("<&- >&- 2>&-", "")):
        command = f'exec "{sys.executable}" -c "{program}" {redirections}'
        ended = subprocess.run(
            ["sh", "-c", command], input="", capture_output=True, text=True, cwd=PROJECT, check=False
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, out, ""), redirections
