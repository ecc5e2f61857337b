"""The Jinja environment in which a model's chat template runs.

Jinja's own immutable sandbox keeps a template from Python's internals.  It does not keep it
from running for ever or from filling the memory, so three things are added:

* the syntax tree is rewritten before it is compiled: each turn of a loop and each call of a
  macro pays a step, and every literal, slice, comparison and concatenation is weighed;
* filters, tests, functions and methods come from a list; whatever is not on it is refused;
* operators, filters and methods that can make something large are checked beforehand.

With every single operation bounded, looking at the clock between operations is enough to end
any template, on any thread, without signals or tracing.

One environment serves one rendering: it holds that rendering's :class:`Budget`.
"""

from __future__ import annotations

import functools
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from lm_core.template_budget import Budget, TemplateLimitExceeded
from lm_core.template_metering import CONCAT, PAY, STEP, Metering

_FILTERS = frozenset(
    "abs capitalize count d default dictsort e escape first float format groupby indent int items join last "
    "length list lower map max min reject rejectattr replace reverse round safe select selectattr sort "
    "string title trim truncate unique upper wordcount".split()
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize casefold center count endswith find index isalnum isalpha isascii isdecimal isdigit "
        "islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix "
        "removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip "
        "swapcase title upper zfill".split()
    ),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
    LoopContext: frozenset(("changed", "cycle")),
}
_MAX_DICT_ENTRIES = 4096
_MAX_DATE_FORMAT = 200
_LINE_END = re.compile(r"\r\n|\r|\n")


class TemplateRefusal(jinja2.TemplateError):
    """The template itself refused the messages, by ``raise_exception``."""


class TemplateNamespace(Namespace):
    """``namespace()``: no private names, and a text that does not grow with its contents."""

    def __init__(self, values: dict[str, Any]) -> None:
        for name in values:
            TemplateNamespace._check_name(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: Any) -> None:
        TemplateNamespace._check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"

    @staticmethod
    def _check_name(name: object) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold the name {name!r}.")


class GenerationBlock(Extension):
    """``{% generation %}``: marks the assistant's words for training; rendered as it stands."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of one rendering, which spends from ``budget``."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self, budget: Budget, clock: Callable[[], datetime]) -> None:
        # Unoptimized: folding constants would run the template's operators at compile time.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_output,
            extensions=["jinja2.ext.loopcontrols", GenerationBlock],
        )
        self.budget = budget
        self._clock = clock
        self._functions: dict[str, Callable[..., Any]] = {
            "range": safe_range,
            "dict": _make_dict,
            "namespace": _make_namespace,
            "raise_exception": _raise_exception,
            "strftime_now": self._strftime_now,
        }
        self.globals = dict(self._functions)
        filters: dict[str, Callable[..., Any]] = {name: self.filters[name] for name in _FILTERS}
        filters |= {"tojson": _to_json, "sum": _sum_numbers}
        self.filters = {name: self._bounded_filter(name, f) for name, f in filters.items()}
        self.filters |= {STEP: self._step, PAY: self._pay, CONCAT: self._concat}
        self.tests = {name: self._paying(f) for name, f in self.tests.items()}

    def compile_bounded(self, source: str) -> types.CodeType:
        """Compiles ``source`` so that it pays its way when it runs.

        Raises:
            jinja2.TemplateSyntaxError: it is not a template.
            jinja2.exceptions.SecurityError: it uses a statement that is not on the list.
        """
        tree = Metering().visit(self.parse(source))
        tree.set_environment(self)
        return self.compile(tree)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function or method of the list; pays for what it returns."""
        method = self._listed_method(function)
        if method is not None:
            if isinstance(function.__self__, str):
                args = self._check_string_method(method, function.__self__, args)
        elif not (
            isinstance(function, Macro | LoopContext | Undefined)
            or any(function is listed for listed in self._functions.values())
        ):
            name = getattr(function, "__qualname__", None) or type(function).__name__
            raise jinja2.exceptions.SecurityError(f"a chat template may not call {name!r}.")
        result = super().call(context, function, *args, **kwargs)
        self.budget.pay(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Applies an operator, once it is known that the result is not too large."""
        self.budget.allow_binary(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        self.budget.pay(result)
        return result

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``."""
        self.budget.step()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``."""
        self.budget.step()
        return super().getitem(obj, argument)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Refuses at once; Jinja would let the empty text through until it is used."""
        raise jinja2.exceptions.SecurityError(
            f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe."
        )

    def _step(self, value: Any) -> Any:
        self.budget.step()
        return value

    def _pay(self, value: Any) -> Any:
        self.budget.pay(value)
        return value

    def _concat(self, first: Any, *rest: Any) -> str:
        self.budget.allow(sum(self.budget.weigh(value) for value in (first, *rest)))
        result = "".join(str(value) for value in (first, *rest))
        self.budget.pay(result)
        return result

    def _strftime_now(self, format: str) -> str:
        if not isinstance(format, str) or len(format) > _MAX_DATE_FORMAT:
            raise TemplateLimitExceeded(
                f"it asks for a date format of more than {_MAX_DATE_FORMAT} characters"
            )
        return self._clock().strftime(format)

    def _listed_method(self, function: Any) -> str | None:
        if not isinstance(function, types.BuiltinMethodType | types.MethodType):
            return None
        for owner, names in _METHODS.items():
            if isinstance(function.__self__, owner) and function.__name__ in names:
                return function.__name__
        return None

    def _check_string_method(self, name: str, text: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if name in ("center", "ljust", "rjust", "zfill"):
            self.budget.allow_width(args[0] if args else None)
        elif name == "replace" and len(args) >= 2 and all(isinstance(arg, str) for arg in args[:2]):
            self.budget.allow_replace(text, args[0], args[1])
        elif name == "join" and args:
            return (self._check_join(args[0], text), *args[1:])
        return args

    def _check_join(self, values: Iterable[Any], separator: Any) -> list[Any]:
        items = list(self._stepping(values))
        size = sum(self.budget.weigh(item) for item in items)
        self.budget.allow(size + len(items) * self.budget.weigh(separator))
        return items

    def _stepping(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.budget.step()
            yield value

    def _paying(self, function: Any) -> Callable[..., Any]:
        @functools.wraps(function)
        def paying(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.budget.pay(result)
            return result

        return paying

    def _bounded_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        paying = self._paying(function)
        # Jinja hands some filters its environment or a context before the value.
        leading = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            value, rest = args[leading], args[leading + 1 :]
            value = self._check_filter(name, value, rest, kwargs)
            return paying(*args[:leading], value, *rest, **kwargs)

        return bounded

    def _check_filter(self, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "join":
            return self._check_join(value, args[0] if args else kwargs.get("d", ""))
        if name in ("list", "unique"):
            return self._stepping(value)
        if name == "replace":
            old = args[0] if args else kwargs.get("old", "")
            new = args[1] if len(args) > 1 else kwargs.get("new", "")
            self.budget.allow_replace(str(value), str(old), str(new))
        elif name == "format":
            self.budget.allow_percent_format(str(value), kwargs or args)
        elif name == "indent":
            width = args[0] if args else kwargs.get("width", 4)
            self.budget.allow_width(width)
            prefix = len(width) if isinstance(width, str) else 999
            text = str(value)
            self.budget.allow(self.budget.weigh(text) + 4 * prefix * (len(_LINE_END.findall(text)) + 1))
        elif name in ("round", "tojson"):
            for argument in (*args, *kwargs.values()):
                self.budget.allow_width(argument)
        return value


@jinja2.pass_context
def _output(context: Context, value: Any) -> Any:
    # Taking the context keeps Jinja from calling this while it compiles.
    environment = context.environment
    if isinstance(environment, TemplateEnvironment):
        environment.budget.pay(value)
    return value


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    for pairs in args:
        # Python's dictionaries are slow for keys chosen to collide.
        if hasattr(pairs, "__len__") and len(pairs) <= _MAX_DICT_ENTRIES:
            continue
        raise TemplateLimitExceeded(f"it makes a dict from more than {_MAX_DICT_ENTRIES} pairs")
    return dict(*args, **kwargs)


def _make_namespace(*args: Any, **kwargs: Any) -> TemplateNamespace:
    return TemplateNamespace(_make_dict(*args, **kwargs))


def _raise_exception(message: Any) -> None:
    raise TemplateRefusal(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes for HTML, which prompts must not; the options are those of transformers.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@jinja2.pass_environment
def _sum_numbers(
    environment: jinja2.Environment,
    values: Iterable[Any],
    attribute: str | int | None = None,
    start: float = 0,
) -> float:
    # Sums of lists take quadratic time, so only numbers are added.
    numbers = list(values if attribute is None else map(make_attrgetter(environment, attribute), values))
    if not all(isinstance(number, int | float) for number in (start, *numbers)):
        raise TypeError("the filter 'sum' adds numbers only")
    return sum(numbers, start)
