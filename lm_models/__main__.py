"""The program's entry."""

from __future__ import annotations

import sys

from lm_core import blas


def main() -> None:
    """Run ``lm-models`` and exit with its code."""
    blas.prepare()
    from lm_cli.program import run
    from lm_models.cli import lm_models

    sys.exit(run(lm_models, "lm-models"))


if __name__ == "__main__":
    main()
