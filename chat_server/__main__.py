"""The program's entry: the processor is set up before anything imports NumPy."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType

from lm_core import blas


def main() -> None:
    """Run ``chat-server`` and exit with its code."""
    # Until the server drains by itself there is nothing that could be lost.
    signal.signal(signal.SIGTERM, _leave)
    # What is imported and loaded stays; looking through it for garbage again and again takes time.
    gc.disable()
    blas.prepare()
    from chat_server.cli import chat_server
    from lm_cli.program import run

    sys.exit(run(chat_server, "chat-server"))


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
