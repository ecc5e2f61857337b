"""The tree of errors: as it is drawn, and one line each."""

from __future__ import annotations

import re

import pytest

from lm_core import errors
from lm_core.errors import ContextLengthExceeded, InvalidParameter, LanguageModelError


def test_the_tree_is_as_it_is_drawn() -> None:
    """Every class of the module is in its docstring, below the class that it comes from."""
    drawn: list[tuple[str, str]] = []
    branch: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([├└│─ ]*)(\w+)", line):
            depth = len(found[1]) // 4
            branch[depth:] = [found[2]]
            drawn.append((found[2], branch[depth - 1] if depth else "Exception"))
    classes = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert {name: kind.__bases__[0].__name__ for name, kind in classes.items()} == dict(drawn)
    assert len(drawn) == len(classes) > 8


def test_an_argument_out_of_range_is_named() -> None:
    """For programs and APIs that point at it; also a ``ValueError``, for callers who know no other."""
    with pytest.raises(ValueError, match="top_k is -1") as raised:
        raise InvalidParameter("top_k", "top_k is -1")
    assert isinstance(raised.value, LanguageModelError) and raised.value.param == "top_k"


def test_a_full_context_tells_both_numbers() -> None:
    """And what to do."""
    error = ContextLengthExceeded(2050, 2048)
    assert (error.tokens, error.context_length) == (2050, 2048)
    assert re.fullmatch(r"2050 tokens do not fit .* 2048 tokens; shorten .*", str(error))
