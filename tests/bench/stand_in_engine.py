"""An engine whose figures are known: it stands in for a peer in the tests of workers."""

from __future__ import annotations

import os
import sys

from bench.serving import serve


def _double(number: int) -> float:
    sys.stdout.write("a library that talks\n")
    return 2.0 * number


def _fail() -> float:
    raise ValueError("no such thing")


def _vanish() -> float:
    sys.stderr.write("out of luck\n")
    sys.stderr.flush()
    os._exit(3)


if __name__ == "__main__":
    model, dtype, threads = sys.argv[1:]
    facts = {"model": model, "dtype": dtype, "threads": int(threads)}
    serve(lambda: (facts, {"double": _double, "fail": _fail, "vanish": _vanish}))
