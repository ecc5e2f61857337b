"""Chat templates: what they render, and what a hostile one may not do."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lm_core.chat_template import ChatTemplate
from lm_core.errors import InvalidParameter, ModelNotFound, TemplateError
from lm_core.template_budget import TemplateLimits

SHARED_MODELS = Path(__file__).parents[3] / "shared" / "models"
LOCAL_MODELS = Path(__file__).parents[2] / "models"

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

CHATML_WITH_DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

QUICK = TemplateLimits(
    output_characters=100_000, value_bytes=1_000_000, total_bytes=20_000_000, cpu_seconds=1.0
)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def render(source: str, messages: Sequence[dict[str, Any]] = (), **special_tokens: str) -> str:
    return ChatTemplate(source, special_tokens, limits=QUICK).render(messages)


class TestRendering:
    def test_zephyr_style(self) -> None:
        template = ChatTemplate(ZEPHYR, {"eos_token": "</s>"})
        messages = [system("Be brief."), user("Hi"), assistant("Hello"), user("Bye")]
        assert template.render(messages) == (
            "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n"
            "<|user|>\nBye</s>\n<|assistant|>\n"
        )
        assert template.render(messages[1:2], add_generation_prompt=False) == "<|user|>\nHi</s>\n"

    def test_chatml_with_default_system_message(self) -> None:
        template = ChatTemplate(CHATML_WITH_DEFAULT_SYSTEM)
        assert template.render([user("Hi")]) == (
            "<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )
        assert template.render([system("S"), user("Hi")], add_generation_prompt=False) == (
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        )

    def test_text_of_messages_is_neither_escaped_nor_interpreted(self) -> None:
        text = "{{ 1 + 1 }} {% if %} <b>&amp;\"'  é 🐢\n"
        assert render("{% for m in messages %}{{ m.content }}{% endfor %}", [user(text)]) == text

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("{{ {'b': ['<é>', 1], 'a': none} | tojson }}", '{"b": ["<é>", 1], "a": null}'),
            ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
            ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
            ("{% for i in range(4) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "023"),
            (
                "{% set ns = namespace(n=0) %}{% for i in [1, 2, 3] if i > 1 %}"
                "{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
                "5",
            ),
            ("{% macro twice(x) %}{{ x ~ x ~ 1 }}{% endmacro %}{{ twice('ab') }}", "abab1"),
            ("{% set x %}a{% for i in [1, 2] %}{{ i }}{% endfor %}{% endset %}{{ x | upper }}", "A12"),
            ("{{ ' a '.strip() + 'b,c'.split(',')[-1] + 'xyz'[::-1] }}", "aczyx"),
            ("{{ ['a', 'b'] | map('upper') | join('-') }}{{ '.'.join(['x', 'y']) }}", "A-Bx.y"),
            ("{% generation %}answer{% endgeneration %}", "answer"),
            ("{{ '%s is %03d' % ('x', 7) }}{{ 'ab' * 2 }}", "x is 007abab"),
            ("{{ missing is defined }}{{ missing }}{{ tools is none }}", "FalseTrue"),
            ("{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}", "a=1"),
            (
                "{% for x in [[1, [2]]] recursive %}{% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}"
                "{% endif %}{% endfor %}",
                "12",
            ),
            ("{{ 'aXbX' | replace('X', 'yy') }}{{ 'aXb'.replace('X', '') }}", "ayybyyab"),
            ("{{ 'a\nb' | indent(2) }}{{ [3, 1] | sort | first }}{{ [1, 2] | sum }}", "a\n  b13"),
            ("  {% if true %}\n  kept\n  {% endif %}\n", "  kept\n"),
        ],
    )
    def test_language(self, source: str, expected: str) -> None:
        assert render(source) == expected

    def test_clock(self) -> None:
        template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", clock=lambda: datetime(2024, 2, 29))
        assert template.render([]) == "29 Feb 2024"

    def test_one_template_serves_many_threads(self) -> None:
        template = ChatTemplate(ZEPHYR, {"eos_token": "</s>"})
        results: dict[int, str] = {}

        def work(n: int) -> None:
            results[n] = template.render([user(str(n))] * 20)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {n: f"<|user|>\n{n}</s>\n" * 20 + "<|assistant|>\n" for n in range(8)}


class TestMessages:
    @pytest.mark.parametrize(
        "message",
        [
            "text",
            {"content": "no role"},
            {"role": 3},
            {"role": "user", "content": object()},
            {"role": "u", 3: ""},
        ],
    )
    def test_malformed(self, message: Any) -> None:
        with pytest.raises(InvalidParameter) as caught:
            ChatTemplate(ZEPHYR).render([message])
        assert caught.value.param == "messages"

    def test_too_long(self) -> None:
        with pytest.raises(InvalidParameter, match="too long"):
            ChatTemplate("", limits=QUICK).render([user("x" * 300_000)])

    def test_objects_of_the_caller_stay_outside(self) -> None:
        class Text(str):
            def leak(self) -> str:
                return "leaked"

        with pytest.raises(TemplateError, match="leak"):
            render("{{ messages[0].content.leak() }}", [user(Text("x"))])


def write_model(folder: Path, config: dict[str, Any], **files: str) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_jinja", ".jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


class TestModelFolder:
    def test_text_in_tokenizer_config(self, tmp_path: Path) -> None:
        config = {"chat_template": "{{ bos_token }}|{{ eos_token }}", "bos_token": "<s>"}
        write_model(tmp_path, config | {"eos_token": {"content": "</s>", "special": True}})
        assert ChatTemplate.from_pretrained(tmp_path).render([]) == "<s>|</s>"

    def test_file_comes_first(self, tmp_path: Path) -> None:
        write_model(tmp_path, {"chat_template": "config"}, chat_template_jinja="file {{ eos_token }}")
        (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<end>"}')
        assert ChatTemplate.from_pretrained(str(tmp_path)).render([]) == "file <end>"

    def test_list_of_named_templates(self, tmp_path: Path) -> None:
        named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
        write_model(tmp_path, {"chat_template": named})
        assert ChatTemplate.from_pretrained(tmp_path).render([]) == "d"
        assert ChatTemplate.from_pretrained(tmp_path, name="tool_use").render([]) == "t"
        with pytest.raises(TemplateError, match="no chat template 'rag'; it has default, tool_use"):
            ChatTemplate.from_pretrained(tmp_path, name="rag")

    def test_folder_of_named_templates(self, tmp_path: Path) -> None:
        write_model(tmp_path, {}, additional_chat_templates__rag_jinja="rag")
        assert ChatTemplate.from_pretrained(tmp_path, name="rag").render([]) == "rag"

    @pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", ""])
    def test_name_is_not_a_path(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidParameter):
            ChatTemplate.from_pretrained(tmp_path, name=name)

    def test_model_without_template_names_the_fallbacks(self, tmp_path: Path) -> None:
        write_model(tmp_path, {"bos_token": "<s>"})
        with pytest.raises(TemplateError, match="has no chat template .* fallback by name: chatml, plain"):
            ChatTemplate.from_pretrained(tmp_path)

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound):
            ChatTemplate.from_pretrained(tmp_path / "absent")

    @pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
    def test_damaged_tokenizer_config(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(TemplateError, match="tokenizer_config.json"):
            ChatTemplate.from_pretrained(tmp_path)

    def test_template_that_is_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
        with pytest.raises(TemplateError, match="not UTF-8"):
            ChatTemplate.from_pretrained(tmp_path)


class TestFallback:
    def test_chatml(self) -> None:
        assert ChatTemplate.fallback("chatml").render([system("S"), user("U")]) == (
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_plain(self) -> None:
        assert ChatTemplate.fallback("plain").render([user("U")]) == "User: U\nAssistant:"

    def test_unknown(self) -> None:
        with pytest.raises(InvalidParameter, match="chatml, plain"):
            ChatTemplate.fallback("alpaca")


class TestRefusals:
    def test_of_the_template_itself(self) -> None:
        with pytest.raises(TemplateError) as caught:
            render("{{ raise_exception('Roles must\n alternate.') }}")
        assert str(caught.value) == "the chat template refused the messages: Roles must alternate"

    @pytest.mark.parametrize(
        "source",
        [
            "{{ ''.__class__ }}",
            "{{ ''.__class__.__mro__ }}",
            "{{ ''['__class__'] }}",
            "{{ [1] | map(attribute='__class__') | list }}",
            "{{ '' | attr('__class__') }}",
            "{{ '{0.__class__}'.format(1) }}",
            "{{ self.__init__.__globals__ }}",
            "{{ raise_exception.__globals__ }}",
            "{{ namespace.__init__ }}",
            "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
            "{{ namespace(_x=1) }}",
            "{{ messages.append(1) }}",
            "{{ lipsum() }}",
            "{{ cycler('a').next() }}",
            "{{ 'a'.encode() }}",
            "{% include 'x' %}",
            "{% import 'x' as x %}",
            "{% from 'x' import y %}",
            "{% extends 'x' %}",
            "{% block x %}{% endblock %}",
            "{% autoescape true %}{% endautoescape %}",
            "{{ missing.attribute }}",
            "{{ missing() }}",
            "{{ 1 / 0 }}",
            "{{ 'a' + 1 }}",
            "{% if %}",
            "{{ '(' * }}",
            "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
            "{{ " + "1 + " * 3000 + "1 }}",
            "{% if true %}" * 2000 + "{% endif %}" * 2000,
        ],
    )
    def test_escape_or_error(self, source: str) -> None:
        with pytest.raises(TemplateError) as caught:
            render(source)
        assert str(caught.value).startswith("the chat template ")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400

    def test_immutable_messages(self) -> None:
        messages = [user("Hi")]
        for source in ("{{ messages.pop() }}", "{{ messages[0].update(content='x') }}"):
            with pytest.raises(TemplateError, match="unsafe"):
                render(source, messages)
        assert messages == [user("Hi")]


def test_a_long_conversation_fits() -> None:
    messages = [user("x" * 1000), assistant("y" * 1000)] * 250
    text = ChatTemplate(ZEPHYR, {"eos_token": "</s>"}).render(messages)
    assert len(text) == 250 * (len("<|user|>\n</s>\n<|assistant|>\n</s>\n") + 2000) + len("<|assistant|>\n")


CONVERSATIONS = [
    [user("Hi")],
    [system("Be brief."), user("Hi")],
    [user("Hi\n"), assistant(" Hello <b>&\"'"), user("é 🐢 ")],
    [system(""), user(""), assistant(""), user("{{ x }}</s>")],
    [user("a"), assistant("b")] * 20,
]


@pytest.mark.parity
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize(
    "folder",
    [
        SHARED_MODELS / "tinyllama-chat-v1.0",
        SHARED_MODELS / "minueza-32m-ultrachat",
        LOCAL_MODELS / "chat",
    ],
    ids=lambda folder: folder.name,
)
def test_equals_transformers(folder: Path, add_generation_prompt: bool) -> None:
    transformers = pytest.importorskip("transformers")
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not here")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    template = ChatTemplate.from_pretrained(folder)
    for messages in CONVERSATIONS:
        expected = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        assert template.render(messages, add_generation_prompt) == expected
