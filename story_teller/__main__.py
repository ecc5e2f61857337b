"""The program's entry: the processor is set up before anything imports NumPy."""

from __future__ import annotations

import sys

from lm_core import blas


def main() -> None:
    """Run ``story-teller`` and exit with its code."""
    blas.prepare()
    from lm_cli.program import run
    from story_teller.cli import story_teller

    sys.exit(run(story_teller, "story-teller"))


if __name__ == "__main__":
    main()
