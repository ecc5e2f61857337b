"""What one rendering of a chat template may spend: time, memory, and the size of any one value.

A chat template is a program that comes with the weights.  Every operation of it that can
take time or memory reports here (:mod:`lm_core.template_sandbox` sees to that), before it is
done where its size can be told from its operands, and after it otherwise.  Knows nothing of
Jinja.
"""

from __future__ import annotations

import re
import time
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True)
class TemplateLimits:
    """Bounds of one template and of one rendering of it."""

    source_characters: int = 128 * 1024
    """Length of the template itself."""
    output_characters: int = 4 * 1024 * 1024
    """Length of the rendered text."""
    value_bytes: int = 16 * 1024 * 1024
    """Memory of any one string, list or mapping, shared parts counted as often as they occur."""
    total_bytes: int = 256 * 1024 * 1024
    """Memory of all the values that a rendering makes, freed ones included."""
    cpu_seconds: float = 1.0
    """Processor time of the rendering thread; a busy machine does not make a template fail."""


class TemplateLimitExceeded(Exception):
    """A template asked for more than :class:`TemplateLimits` allows; the message says of what."""


_SCALAR_BYTES = 64
_MAX_DEPTH = 100
_MAX_INTEGER_BITS = 4096
_MAX_FIELD_WIDTH = 999
_WIDE_FIELD = re.compile(r"%[-#0 +]*(?:\*|\d{4,}|\d*\.(?:\*|\d{4,}))")
_WIDE_ANYTHING = re.compile(r"\*|\d{4,}")


class Budget:
    """The account of one rendering.  Belongs to the thread that renders."""

    def __init__(self, limits: TemplateLimits) -> None:
        self.limits = limits
        self._spent_bytes = 0
        self._deadline = time.thread_time() + limits.cpu_seconds
        # Values cannot change inside the sandbox, so a weight once found stays true; the
        # value is kept beside it so that its id is not given to another.
        self._containers: dict[int, tuple[object, int, int]] = {}

    def step(self, size: int = 0) -> None:
        """Pays for one operation that makes ``size`` bytes.

        Raises:
            TemplateLimitExceeded: the time or the memory of the rendering is used up.
        """
        self._spent_bytes += size
        if self._spent_bytes > self.limits.total_bytes:
            raise TemplateLimitExceeded(f"it uses more than {self.limits.total_bytes} bytes of memory")
        if time.thread_time() > self._deadline:
            raise TemplateLimitExceeded(f"it takes longer than {self.limits.cpu_seconds:g} s")

    def pay(self, value: object) -> None:
        """Pays for a value that was just made."""
        size, _ = self._weigh(value)
        self.step(size)

    def weigh(self, value: object) -> int:
        """Bytes of ``value``, an upper bound also of four times the characters of its text."""
        return self._weigh(value)[0]

    def allow(self, size: int) -> None:
        """Refuses a value of ``size`` bytes before it is made.

        Raises:
            TemplateLimitExceeded: it would be larger than one value may be.
        """
        if size > self.limits.value_bytes:
            raise TemplateLimitExceeded(f"it makes a value larger than {self.limits.value_bytes} bytes")

    def allow_width(self, width: object) -> None:
        """Refuses a field width, indentation or precision beyond three digits."""
        if isinstance(width, int) and abs(width) > _MAX_FIELD_WIDTH:
            raise TemplateLimitExceeded(f"it asks for a width of more than {_MAX_FIELD_WIDTH}")

    def allow_binary(self, operator: str, left: object, right: object) -> None:
        """Refuses ``left operator right`` where the result would be out of bounds."""
        if operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(count, int) and isinstance(sequence, str):
                    self.allow(4 * len(sequence) * count)
                elif isinstance(count, int) and isinstance(sequence, list | tuple):
                    self.allow(self.weigh(sequence) * count)
        elif operator == "**":
            if (
                isinstance(left, int)
                and isinstance(right, int)
                and left.bit_length() * right > _MAX_INTEGER_BITS
            ):
                raise TemplateLimitExceeded(f"it makes a number of more than {_MAX_INTEGER_BITS} bits")
        elif operator == "%" and isinstance(left, str):
            self.allow_percent_format(left, right)

    def allow_percent_format(self, text: str, values: object) -> None:
        """Refuses ``text % values`` where the result could be out of bounds."""
        wide = _WIDE_ANYTHING if isinstance(values, Mapping) else _WIDE_FIELD
        if wide.search(text):
            raise TemplateLimitExceeded(f"it asks for a width of more than {_MAX_FIELD_WIDTH}")
        fields = text.count("%")
        repeats = fields if isinstance(values, Mapping) else 1
        self.allow(self.weigh(text) + repeats * self.weigh(values) + fields * 4 * _MAX_FIELD_WIDTH)

    def allow_replace(self, text: str, old: str, new: str) -> None:
        """Refuses ``text.replace(old, new)`` where the result would be out of bounds."""
        self.allow(self.weigh(text) + text.count(old) * 4 * len(new))

    def _weigh(self, value: object) -> tuple[int, int]:
        if isinstance(value, str):
            size, depth = _SCALAR_BYTES + 4 * len(value), 0
        elif isinstance(value, int):
            if value.bit_length() > _MAX_INTEGER_BITS:
                raise TemplateLimitExceeded(f"it makes a number of more than {_MAX_INTEGER_BITS} bits")
            size, depth = _SCALAR_BYTES, 0
        elif isinstance(value, list | tuple | dict | KeysView | ValuesView | ItemsView):
            size, depth = self._weigh_container(value)
        else:
            # Numbers, None, functions, ranges, generators: constant in size and in text.
            size, depth = _SCALAR_BYTES, 0
        self.allow(size)
        return size, depth

    def _weigh_container(
        self,
        value: list[object]
        | tuple[object, ...]
        | dict[object, object]
        | KeysView[object]
        | ValuesView[object]
        | ItemsView[object, object],
    ) -> tuple[int, int]:
        known = self._containers.get(id(value))
        if known is not None:
            return known[1], known[2]
        # Refused before it is walked through: it may be long.
        self.allow(len(value) * _SCALAR_BYTES)
        size, depth = _SCALAR_BYTES, 0
        items = chain(value, value.values()) if isinstance(value, dict) else value
        for item in items:
            item_size, item_depth = self._weigh(item)
            size += item_size
            depth = max(depth, item_depth)
        depth += 1
        self.allow(size)
        if depth > _MAX_DEPTH:
            raise TemplateLimitExceeded(f"it nests values more than {_MAX_DEPTH} deep")
        self._containers[id(value)] = (value, size, depth)
        return size, depth
