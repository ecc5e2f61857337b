"""The client is light: no NumPy, no engine, and nothing at all for ``--help``."""

from __future__ import annotations

import subprocess
import sys

from shared_files import PROJECT

EVERYTHING = """
import pkgutil, sys, chat_cli
for module in pkgutil.iter_modules(chat_cli.__path__, "chat_cli."):
    __import__(module.name)
print("\\n".join(sys.modules))
"""
HELP = """
import sys
from chat_cli.cli import chat_cli
chat_cli.main(["--help"], standalone_mode=False)
print("\\n".join(sys.modules))
"""
CLIENT = """
import sys, chat_cli.client, chat_cli.conversation, chat_cli.records
print("\\n".join(sys.modules))
"""


def imported_by(program: str) -> set[str]:
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    return set(output.splitlines())


def test_no_module_imports_numpy_or_a_tokenizer() -> None:
    assert imported_by(EVERYTHING).isdisjoint({"numpy", "tokenizers", "safetensors", "torch", "chat_server"})


def test_help_waits_for_no_library_but_click() -> None:
    assert imported_by(HELP).isdisjoint({"numpy", "httpx", "rich", "prompt_toolkit", "markdown_it"})


def test_the_client_library_needs_no_terminal_library() -> None:
    # httpx itself imports rich where it finds it.
    terminal = {"chat_cli.prompt_reader", "chat_cli.terminal_display", "chat_cli.cli", "lm_cli.program"}
    assert imported_by(CLIENT).isdisjoint({"numpy", "prompt_toolkit", "rich.markdown", *terminal})
