"""What a chat template may spend: time, memory and length are bounded, whatever it does."""

from __future__ import annotations

import threading
import time

import pytest

from lm_core.chat_template import ChatTemplate
from lm_core.errors import TemplateError
from lm_core.template_budget import TemplateLimits

QUICK = TemplateLimits(
    output_characters=100_000, value_bytes=1_000_000, total_bytes=20_000_000, cpu_seconds=1.0
)


def render(source: str) -> str:
    return ChatTemplate(source, limits=QUICK).render([])


NAMESPACE = "{% set ns = namespace(x='ab', l=[1], t=(1,)) %}"
FOREVER = "{% for i in range(100000) %}"


def test_source() -> None:
    with pytest.raises(TemplateError, match="longer than 131072 characters"):
        ChatTemplate("x" * 131_073)


@pytest.mark.parametrize(
    "source",
    [
        FOREVER * 3 + "{% endfor %}" * 3,
        "{% for i in range(100000) if false %}{% endfor %}" * 500,
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        FOREVER * 2 + "{{ '' }}" + "{% endfor %}" * 2,
        "{% for x in [1] recursive %}{{ loop(range(100000)) if loop.depth < 4 }}{% endfor %}",
        # Integers that are multiples of 2**61 - 1 all have the same hash.
        "{% set s %}{% for i in range(20000) %}{{ i * 2305843009213693951 }} {% endfor %}{% endset %}"
        "{{ s.split() | map('int') | unique | list | length }}",
    ],
)
def test_time(source: str) -> None:
    template = ChatTemplate(source, limits=TemplateLimits(cpu_seconds=0.1))
    start = time.thread_time()
    with pytest.raises(TemplateError, match="takes longer than 0.1 s"):
        template.render([])
    assert time.thread_time() - start < 2


def test_time_on_a_thread_that_is_not_the_first() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            ChatTemplate(FOREVER * 3 + "{% endfor %}" * 3, limits=TemplateLimits(cpu_seconds=0.1)).render([])
        except TemplateError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=20)
    assert "takes longer" in str(caught[0])


def test_recursion() -> None:
    with pytest.raises(TemplateError, match="calls itself too deeply"):
        render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 10**10 * 'a' }}",
        "{{ [1] * 10**9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%(a)1000000000d' % {'a': 1} }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ ('%s' * 1000) % (('x' * 100000,) * 1000) }}",
        "{{ 9**999999999 }}",
        "{{ 2**4000 * 2**4000 }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'.rjust(10**9) }}",
        "{{ 'a'.zfill(10**9) }}",
        "{{ 'a'.center(10**9) }}",
        "{{ 'a' | indent(10**9) }}",
        "{{ ('a\n' * 10000) | indent(900) }}",
        "{{ ('a\n' * 10000) | indent('x' * 10000) }}",
        "{{ [1] | tojson(indent=10**9) }}",
        "{{ 1.5 | round(10**9, 'ceil') }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000) | replace(new='b' * 100000, old='a') }}",
        "{{ ('b' * 100000).join(range(100000) | map('string')) }}",
        "{{ range(100000) | join('b' * 100000) }}",
        "{{ dict(range(100000)) }}",
        "{{ strftime_now('%c' * 1000) }}",
        NAMESPACE + FOREVER + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        NAMESPACE + FOREVER + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        NAMESPACE + FOREVER + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        NAMESPACE + FOREVER + "{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}{{ ns.l | tojson }}",
        NAMESPACE + FOREVER + "{% set ns.l = ns.l + [i] %}{% endfor %}",
        NAMESPACE + FOREVER + "{% set ns.t = (ns.t,) %}{% endfor %}{{ {ns.t: 1} }}",
        "{% set x %}" + FOREVER * 2 + "y" * 1000 + "{% endfor %}{% endfor %}{% endset %}",
        FOREVER + "y" * 1000 + "{% endfor %}",
        "{{ [-10**12] | map('(step)') | list }}{{ 'a' * 10**8 }}",
        "{% if " + "1 < " * 50 + "1 %}{% endif %}",
    ],
)
def test_memory(source: str) -> None:
    start = time.thread_time()
    with pytest.raises(TemplateError):
        render(source)
    assert time.thread_time() - start < 2


def test_printing_a_namespace_does_not_print_what_it_holds() -> None:
    assert render("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}{{ [ns] }}") == (
        "<Namespace>[<Namespace>]"
    )
