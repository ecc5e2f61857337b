"""Where time goes: functions wrapped from outside, each call's own time booked to a part of the whole.

What is measured is not edited.  A function's time is what passes in it less what passes in other
wrapped functions that it calls.  Only the thread that made the stopwatch is looked at: work that
another one does at the same time costs that thread nothing.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from types import SimpleNamespace
from typing import Any


class Stopwatch:
    """Seconds and calls by part, of everything that was wrapped with it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._inner = [0.0]
        """Seconds of wrapped functions within each that is running, outermost first."""
        self._thread = threading.get_ident()

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, with its own time booked to ``part``."""
        inner, seconds, calls, thread = self._inner, self.seconds, self.calls, self._thread

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != thread:
                return function(*arguments, **named)
            inner.append(0.0)
            start = perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                whole = perf_counter() - start
                seconds[part] += whole - inner.pop()
                calls[part] += 1
                inner[-1] += whole

        return timed

    @contextmanager
    def watching(self, owners: Mapping[Any, Mapping[str, str]]) -> Iterator[None]:
        """Wrap functions while the context lasts.

        Args:
            owners: for each module or class, the part of each of its functions, by name; a name
                that it does not have is left out.
        """
        originals = [
            (owner, name, owner.__dict__[name], part)
            for owner, parts in owners.items()
            for name, part in parts.items()
            if name in owner.__dict__
        ]
        try:
            for owner, name, function, part in originals:
                setattr(owner, name, self.wrapped(part, function))
            yield
        finally:
            for owner, name, function, _ in originals:
                setattr(owner, name, function)

    @contextmanager
    def watching_numpy(self, module: Any, parts: Mapping[str, str]) -> Iterator[None]:
        """Wrap functions of NumPy, by name, where ``module`` calls them as ``np.…``.

        Operators (``a @ b``) and methods of arrays (``a.dot(b)``) cannot be seen.
        """
        numpy = module.np
        replaced = {name: self.wrapped(part, getattr(numpy, name)) for name, part in parts.items()}
        module.np = SimpleNamespace(**{**vars(numpy), **replaced})
        try:
            yield
        finally:
            module.np = numpy
