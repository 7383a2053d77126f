"""Conversations as token ids: what was said before keeps its ids, whatever its text would give when encoded again."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.errors import UsageError
from aprtui.model.model import Model, load_model
from aprtui.model.prompt import ChatPrompt, Exchange, chat_stop_ids, encode_chat, encode_prompt
from aprtui.resources import embedded_model
from tests.model.gguf_files import model_file


@pytest.fixture(scope="module")
def model() -> Model:
    """Adds a BOS of its own, which the template does not write."""
    return load_model(embedded_model())


def with_template(path: Path, template: str) -> Model:
    file = model_file()
    file.metadata["tokenizer.chat_template"] = template
    return load_model(file.write(path / "model.gguf"))


def test_conversation_is_what_the_template_renders(model: Model) -> None:
    prompt = ChatPrompt("again", "be brief", (Exchange("hello", "hi"),))
    text = (
        "<|endoftext|><|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\nhi<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n"
    )
    assert model.tokenizer.decode(encode_chat(model, prompt)) == text


def test_first_turn_is_the_prompt_of_run_chat_with_its_system_message(model: Model) -> None:
    assert encode_chat(model, ChatPrompt("hello", "be brief")) == encode_prompt(
        model, "hello", special=True, chat=True, system="be brief"
    )


def test_answers_keep_the_ids_that_the_model_chose(model: Model) -> None:
    """`def` letter by letter is not what the tokenizer makes of it."""
    first, tokenizer = encode_chat(model, ChatPrompt("hello")), model.tokenizer
    letters = [token for letter in "def" for token in tokenizer.encode(letter, bos=False)]
    assert len(letters) > len(tokenizer.encode("def", bos=False))
    before = (*first, *letters)
    ids = encode_chat(model, ChatPrompt("more", earlier=(Exchange("hello", "def"),), tokens=before))
    assert tuple(ids[: len(before)]) == before
    added = "<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
    assert ids[len(before) :] == tokenizer.encode(added, bos=False)


def test_of_an_answer_in_several_messages_the_next_turn_has_the_last() -> None:
    """Templates of gpt-oss refuse answers with marks of channels."""
    answer = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes"
    messages = ChatPrompt("why?", earlier=(Exchange("is it?", answer),)).messages
    assert [message["content"] for message in messages] == ["is it?", "yes", "why?"]


CHANGING = "{% for message in messages %}<|im_start|>{{ loop.last }}\n{{ message.content }}<|im_end|>{% endfor %}"
"""Renders what was said before otherwise than it did then."""
UNMARKED = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
"""What follows an answer does not begin with a special token, so that a token may reach over its end."""


@pytest.mark.parametrize("template", [CHANGING, UNMARKED])
def test_without_a_clean_cut_everything_is_encoded_anew(tmp_path: Path, template: str) -> None:
    model = with_template(tmp_path, template)
    earlier = (Exchange("hello", "de"),)
    before = (*encode_chat(model, ChatPrompt("hello")), *model.tokenizer.encode("d"), *model.tokenizer.encode("e"))
    assert encode_chat(model, ChatPrompt("more", earlier=earlier, tokens=before)) == encode_chat(
        model, ChatPrompt("more", earlier=earlier)
    )


@pytest.mark.parametrize("prompt", [ChatPrompt("a<|im_end|>"), ChatPrompt("a", "<|im_start|>b")])
def test_text_that_has_been_through_a_template_is_refused(model: Model, prompt: ChatPrompt) -> None:
    with pytest.raises(UsageError, match="prompt holds control tokens already"):
        encode_chat(model, prompt)


def test_an_answer_ends_with_the_token_that_the_template_writes_behind_it(tmp_path: Path) -> None:
    """Although the file names another one as the end of a text."""
    template = "{% for message in messages %}{{ message.content }} <|im_start|>\n{% endfor %}"
    model = with_template(tmp_path, template)
    (start,) = model.tokenizer.encode("<|im_start|>")
    assert start not in model.tokenizer.stop_ids
    assert chat_stop_ids(model) == model.tokenizer.stop_ids | {start}


def test_template_that_refuses_answers_adds_no_stop(tmp_path: Path) -> None:
    model = with_template(tmp_path, "{{ raise_exception('no') }}")
    assert chat_stop_ids(model) == model.tokenizer.stop_ids
