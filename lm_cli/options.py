"""The options that several programs share, so that they are spelled and explained alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."


def version_option() -> Callable[[Command], Command]:
    """``--version``: the version of the distribution."""
    return click.version_option(package_name="rewindlm", message="%(prog)s %(version)s")


def debug_option() -> Callable[[Command], Command]:
    """``--debug``, which :func:`lm_cli.program.run` reads."""
    return click.option("--debug", is_flag=True, help="Show the stack trace of an error.")


def sampling_options(
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float | None = 1.0,
    min_p: float | None = 0.0,
) -> Callable[[Command], Command]:
    """``-t -k -p --min-p -r -s`` with a program's own defaults; their bounds are ``SamplingParams``'.

    A default of None leaves the choice to somebody else, such as a server.
    """
    options = [
        click.option(
            "-t",
            "--temperature",
            type=float,
            default=temperature,
            show_default=True,
            help="Higher is bolder; 0 is greedy and always makes the same choice.",
        ),
        click.option(
            "-k",
            "--top-k",
            type=int,
            default=top_k,
            show_default=True,
            help="Choose among this many most likely tokens; 0 for all.",
        ),
        click.option(
            "-p",
            "--top-p",
            type=float,
            default=top_p,
            show_default=True,
            help="Choose among the most likely tokens that together have this probability.",
        ),
        click.option(
            "--min-p",
            type=float,
            default=min_p,
            show_default=True,
            help="Drop tokens less likely than this fraction of the most likely one.",
        ),
        click.option(
            "-r",
            "--repetition-penalty",
            type=float,
            default=repetition_penalty,
            show_default=True,
            help="Above 1, make tokens that occurred already less likely.",
        ),
        click.option("-s", "--seed", type=int, help="Make every random choice repeatable."),
    ]
    return _all(options)


def max_tokens_option(default: int | None, help_text: str) -> Callable[[Command], Command]:
    """``-n/--max-tokens``, at least one; None leaves the number to somebody else."""
    return click.option(
        "-n",
        "--max-tokens",
        type=click.IntRange(min=1),
        default=default,
        show_default=default is not None,
        help=help_text,
    )


def engine_options() -> Callable[[Command], Command]:
    """``--dtype --threads``."""
    return _all(
        [
            click.option(
                "--dtype",
                type=click.Choice(["auto", "f32", "bf16"]),
                default="auto",
                show_default=True,
                help="How weights are kept in memory; auto follows the file, and widens small bf16 models.",
            ),
            click.option(
                "--threads",
                type=click.IntRange(min=1),
                help="Threads for BLAS.  [default: OPENBLAS_NUM_THREADS, or else the available cores]",
            ),
        ]
    )


def speculate_option() -> Callable[[Command], Command]:
    """``--speculate/--no-speculate``, for :class:`lm_core.speculation.Speculation`."""
    return click.option(
        "--speculate/--no-speculate",
        default=False,
        show_default=True,
        help="Compute ahead what the text so far suggests: the same result, sooner where it repeats itself.",
    )


def chat_template_option() -> Callable[[Command], Command]:
    """``--chat-template``, for :meth:`lm_core.chat_template.ChatTemplate.chosen`."""
    return click.option(
        "--chat-template",
        metavar="NAME-or-FILE",
        help="Use this template instead of the model's own: chatml, plain, or a Jinja file.",
    )


def _all(options: list[Callable[[Any], Any]]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
