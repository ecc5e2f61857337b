"""Finds float64 arrays in the engine's arithmetic, also those that live inside one expression.

An array of class :class:`Watched` makes every result that NumPy computes from it a ``Watched``
again.  Planted in the weights' products and in every array that the engine's modules make, it
follows the numbers through the whole forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from lm_core import linear, model, ops, step

HANDFUL = 8
"""A scalar in float64 is harmless; an array is not."""


class Float64Found(AssertionError):
    """An operator computed in float64."""


class Watched(np.ndarray):
    """A float32 array that cannot meet a float64 one unnoticed."""

    operations = 0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        _check(ufunc.__name__, inputs)
        plain_keywords = {name: _plain(value) for name, value in keywords.items()}
        if "out" in keywords:
            plain_keywords["out"] = tuple(_plain(out) for out in keywords["out"])
        result = getattr(ufunc, method)(*(_plain(value) for value in inputs), **plain_keywords)
        _check(ufunc.__name__, result if isinstance(result, tuple) else (result,))
        Watched.operations += 1
        if "out" in keywords:
            return keywords["out"][0]
        return watched(result)

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        _check(function.__name__, arguments)
        result = super().__array_function__(function, types, arguments, keywords)
        _check(function.__name__, result if isinstance(result, list | tuple) else (result,))
        return result

    def astype(self, dtype: Any, *arguments: Any, **keywords: Any) -> Any:
        """A conversion is not a ufunc, so it is watched here."""
        result = super().astype(dtype, *arguments, **keywords)
        _check("astype", (result,))
        return result


class WatchedNumpy:
    """NumPy for a module under watch: the arrays that its functions make are watched from the start."""

    def __init__(self, numpy: Any) -> None:
        self._numpy = numpy

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._numpy, name)
        if isinstance(member, type | np.ufunc) or not callable(member):
            return member

        def watching(*arguments: Any, **keywords: Any) -> Any:
            result = member(*arguments, **keywords)
            _check(name, (result,))
            return watched(result)

        return watching


def watched(value: Any) -> Any:
    """The same array, watched; anything else as it is."""
    return value.view(Watched) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


@contextmanager
def only_float32() -> Iterator[None]:
    """Fail with :class:`Float64Found` where a forward pass meets more than a handful of float64 numbers."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (linear, model, ops, step):
            patch.setattr(module, "np", WatchedNumpy(module.np))  # type: ignore[attr-defined]
        for layer in (linear.Float32Linear, linear.Bfloat16Linear):
            for name in ("rows", "prefill", "decode"):
                patch.setattr(layer, name, _watching(getattr(layer, name)))
        before = Watched.operations
        yield
        assert Watched.operations > before + 20, "the numbers were not followed: nothing was watched"


def _watching(method: Callable[..., Any]) -> Callable[..., Any]:
    def watching(*arguments: Any) -> Any:
        _check(method.__name__, arguments)
        result = method(*arguments)
        _check(method.__name__, (result,))
        return watched(result)

    return watching


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Watched) else value


def _check(operation: str, values: Any) -> None:
    for value in values:
        if isinstance(value, list | tuple):
            _check(operation, value)
        elif (
            isinstance(value, np.ndarray)
            and value.dtype.kind in "fc"
            and value.itemsize > 4
            and value.size > HANDFUL
        ):
            raise Float64Found(f"{operation} met a {value.dtype} array of shape {value.shape}")
