"""How cached tokens were computed: what a lost cache needs to come back bit for bit.

A prefill chunk must be repeated with the same number of rows, since GEMM gives a row other bits in
other company.  Decoded tokens depend on nothing but themselves and what came before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Span:
    """``count`` consecutive tokens: one prefill chunk, or any number of tokens decoded one by one."""

    kind: Kind
    count: int


class Schedule:
    """The spans that computed the first ``length`` tokens of a sequence, in order."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans = list(spans)
        self._length = sum(span.count for span in self._spans)

    @property
    def length(self) -> int:
        """How many tokens it covers."""
        return self._length

    @property
    def spans(self) -> tuple[Span, ...]:
        """All spans, first to last."""
        return tuple(self._spans)

    @property
    def count(self) -> int:
        """How many spans there are."""
        return len(self._spans)

    def append(self, count: int) -> None:
        """Record one call of ``Llama.forward`` with ``count`` tokens: a single one is decoded."""
        if count > 1:
            self._spans.append(Span("prefill", count))
        elif self._spans and self._spans[-1].kind == "decode":
            self._spans[-1] = Span("decode", self._spans[-1].count + 1)
        else:
            self._spans.append(Span("decode", 1))
        self._length += count

    def repeatable_length(self, length: int) -> int:
        """The longest prefix of at most ``length`` tokens that can be kept: no chunk is cut."""
        start = self._length
        for span in reversed(self._spans):
            if start <= length:
                return start
            start -= span.count
            if span.kind == "decode" and start <= length:
                return length
        return 0

    def spans_from(self, index: int) -> tuple[Span, ...]:
        """The spans after the first ``index``."""
        return tuple(self._spans[index:])

    def untouched(self, length: int) -> int:
        """How many spans stay as they are when the schedule is cut to ``length`` and grows again."""
        index, stop = len(self._spans), self._length
        while index and stop > length:
            index -= 1
            stop -= self._spans[index].count
        # A token that is decoded next becomes part of a span that was decoded last.
        return index - 1 if index and self._spans[index - 1].kind == "decode" else index

    def replace(self, index: int, spans: Iterable[Span]) -> None:
        """Keep the first ``index`` spans, and follow them by ``spans``."""
        old, new = self._spans[index:], list(spans)
        self._spans[index:] = new
        self._length += sum(span.count for span in new) - sum(span.count for span in old)

    def cut(self, length: int) -> None:
        """Forget what follows the first ``length`` tokens; no prefill chunk may be cut in two."""
        while self._length > length:
            span = self._spans.pop()
            self._length -= span.count
            if self._length < length:
                if span.kind == "prefill":
                    raise ValueError(f"length {length} is inside a prefill chunk of {span.count} tokens")
                self._spans.append(Span("decode", length - self._length))
                self._length = length

    def next_span(self, position: int) -> Span:
        """What computed the tokens from ``position`` on, up to the end of that span.

        ``position`` is the beginning of a prefill chunk, or anywhere in a decoded span.
        """
        start = 0
        for span in self._spans:
            stop = start + span.count
            if position < stop:
                if span.kind == "prefill" and position != start:
                    raise ValueError(f"position {position} is inside a prefill chunk")
                return Span(span.kind, stop - position)
            start = stop
        raise ValueError(f"position {position} is past the {self._length} tokens of the schedule")
