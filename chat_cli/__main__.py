"""The program's entry."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``chat-cli`` and exit with its code."""
    from chat_cli.cli import chat_cli
    from lm_cli.program import run

    sys.exit(run(chat_cli, "chat-cli"))


if __name__ == "__main__":
    main()
