"""Running a click command as a program: exit codes, one clean line for an error, no stack trace.

====  =====================================================
code  meaning
====  =====================================================
0     done
1     failed: a model that cannot be used, a full disk, ...
2     usage: an unknown option, a value out of range
130   interrupted by Ctrl-C
====  =====================================================
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from lm_cli.terminal import printable
from lm_core.errors import InvalidParameter, LanguageModelError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run ``command`` as the program ``name`` and return its exit code.

    Every option can also be given as an environment variable: ``story-teller --top-k`` is
    ``STORY_TELLER_TOP_K``, ``lm-models list --json`` is ``LM_MODELS_LIST_JSON``.
    """
    _open_closed_streams()
    _never_fail_to_print()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prefix = name.upper().replace("-", "_")
    _name_variables(command, prefix)
    debug = False
    try:
        with command.make_context(name, arguments, auto_envvar_prefix=prefix) as context:
            debug = bool(context.params.get("debug"))
            command.invoke(context)
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as in "story-teller | head".
        _drop_what_is_unwritten()
        return FAILED
    except SystemExit:
        # A signal ends the program, perhaps because its terminal has gone.
        _drop_what_is_unwritten()
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = _explain(error)
        # Also where a file name with a line break, or a terminal's control characters, are part of it.
        click.echo(f"{name}: error: {' '.join(printable(message).splitlines())}", err=True)
        return code


def _drop_what_is_unwritten() -> None:
    """Otherwise Python tries to write it on exit, complains, and replaces the exit code by one of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _name_variables(command: click.Command, prefix: str) -> None:
    """Variables are named after options as they are typed; click would name them after their parameters."""
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            option.envvar = [_variable(prefix, name[2:]) for name in option.opts if name.startswith("--")]
    if isinstance(command, click.Group):
        for name, subcommand in command.commands.items():
            _name_variables(subcommand, _variable(prefix, name))


def _variable(prefix: str, name: str) -> str:
    return f"{prefix}_{name}".replace("-", "_").upper()


def _explain(error: Exception) -> tuple[str, int]:
    """One sentence for a person, and the exit code."""
    if isinstance(error, click.UsageError):
        return f"{error.format_message().rstrip('.')}; see --help", USAGE
    if isinstance(error, InvalidParameter):
        return f"{error}; see --help", USAGE
    if isinstance(error, LanguageModelError):
        return str(error), FAILED
    if isinstance(error, click.ClickException):
        return error.format_message(), FAILED
    if isinstance(error, MemoryError):
        return "there is not enough memory; use a smaller model, --dtype bf16, or fewer tokens", FAILED
    if isinstance(error, OSError):
        return str(error), FAILED
    return f"internal error: {type(error).__name__}: {error}; run again with --debug for the trace", FAILED


def _open_closed_streams() -> None:
    """A stream that was closed by who started the program, as by ``<&-``, is empty and takes everything."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest free number is the one that is missing, so that no other file gets it.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _never_fail_to_print() -> None:
    """A terminal that cannot show a character shows a question mark instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        # Tests and embedders put other objects there, which have nothing to reconfigure.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
