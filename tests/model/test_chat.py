"""Chat templates: rendered as transformers renders them, in a sandbox, and with typed errors."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from aprtui.errors import UnreadableError, UsageError
from aprtui.model.chat import ChatTemplate
from aprtui.model.model import load_model
from tests.model.gguf_files import write_model

HELLO = [{"role": "user", "content": "Hello <b>日本</b>"}]


def render(source: str, **options: bool) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(HELLO, **options)


def test_template_of_a_model_renders_with_and_without_generation_prompt(tmp_path: Path) -> None:
    template = load_model(write_model(tmp_path / "model.gguf")).chat_template
    assert template is not None
    question = "<|im_start|>user\nHello <b>日本</b><|im_end|>\n"
    assert template.render(HELLO, add_generation_prompt=False) == question
    assert template.render(HELLO) == question + "<|im_start|>assistant\n"


def test_special_tokens_of_the_model_reach_the_template() -> None:
    assert render("{{ bos_token }}|{{ eos_token }}") == "<s>|</s>"
    assert ChatTemplate("{{ bos_token is defined }}").render(HELLO) == "False"


def test_blocks_take_their_line_with_them() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"


def test_loop_controls_json_time_and_generation_tags_work() -> None:
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{{ messages[0] | tojson }}") == '{"role": "user", "content": "Hello <b>日本</b>"}'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}") == '{\n "a": 2,\n "b": 1\n}'
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().astimezone().year)
    assert render("{% generation %}x{% endgeneration %}") == "x"


def test_template_that_refuses_the_messages_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="refuses the messages: roles must alternate"):
        render("{{ raise_exception('roles must\n alternate') }}")


def test_template_that_fails_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="fails on the messages: ZeroDivisionError"):
        render("{{ 1 / 0 }}")


def test_template_that_is_no_jinja_is_unreadable() -> None:
    with pytest.raises(UnreadableError, match="the chat template cannot be read: "):
        render("{% if %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ strftime_now.__globals__['os'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ cycler.__init__.__globals__.os }}",
    ],
)
def test_sandbox_refuses_internals_and_changes(source: str) -> None:
    with pytest.raises(UsageError, match="refuses the messages"):
        render(source)


def test_text_with_control_tokens_counts_as_templated(tmp_path: Path) -> None:
    tokenizer = load_model(write_model(tmp_path / "model.gguf")).tokenizer
    assert tokenizer.has_special("<|im_start|>user\nhello")
    assert not tokenizer.has_special("a < b | c > d im_start")
