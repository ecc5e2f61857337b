"""What the packages that a chat-server is made of take when they are imported, and the tokenizer read.

A program of its own, in which nothing of this project takes part but a call of the C library's: the least
that any such server has resident beside weights, keys and values.  Prints bytes first.
"""

from __future__ import annotations

import importlib
import resource
import sys
from pathlib import Path

from lm_core.memory import give_back

PACKAGES = ("numpy", "sqlalchemy", "fastapi", "uvicorn", "jinja2", "prometheus_client", "click")


def main() -> None:
    """Import the packages, read the tokenizer of the model folder that is named, and measure."""
    for package in PACKAGES:
        importlib.import_module(package)
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(Path(sys.argv[1]) / "tokenizer.json"))
    # What reading it took for a moment is not counted.
    give_back()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    sys.stdout.write(f"{pages * resource.getpagesize()} for {tokenizer.get_vocab_size()} tokens\n")


if __name__ == "__main__":
    main()
