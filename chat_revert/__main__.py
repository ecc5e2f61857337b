"""The program's entry: the processor is set up before anything imports NumPy."""

from __future__ import annotations

import sys

from lm_core import blas


def main() -> None:
    """Run ``chat-revert`` and exit with its code."""
    blas.prepare()
    from chat_revert.cli import chat_revert
    from lm_cli.program import run

    sys.exit(run(chat_revert, "chat-revert"))


if __name__ == "__main__":
    main()
