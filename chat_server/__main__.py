"""The program's entry: the processor is set up before anything imports NumPy."""

from __future__ import annotations

import sys

from lm_core import blas


def main() -> None:
    """Run ``chat-server`` and exit with its code."""
    blas.prepare()
    from chat_server.cli import chat_server
    from lm_cli.program import run

    sys.exit(run(chat_server, "chat-server"))


if __name__ == "__main__":
    main()
