"""Checks of a model's chat template."""

from __future__ import annotations

from typing import Any

from aprtui.contracts.checks.arguments import CheckArguments
from aprtui.contracts.checks.judgement import Judgement, passed_if, unknown
from aprtui.errors import UsageError
from aprtui.model.prompt import encode_prompt

_FIELDS = {"role", "content"}


def chat_template_bytes(arguments: CheckArguments) -> Judgement:
    """The model's own template renders `messages` to the bytes of `expected`.

    `family` is a marker of one kind of template, as `<|im_start|>`: the claim is not about a model without it.
    """
    messages, expected = _messages(arguments), arguments.text("expected")
    family, template = arguments.text("family", ""), arguments.require_model().chat_template
    if not messages or not expected:
        raise UsageError("check chat_template_bytes: give messages and the text that is expected")
    if template is None:
        return unknown("the model has no chat template")
    if family not in template.source:
        return unknown(f"the model's chat template is of another kind: it holds no {family!r:.40}")
    rendered = template.render(messages, add_generation_prompt=arguments.flag("generation_prompt", True))
    got, want = rendered.encode(), expected.encode()
    wrong = sum(a != b for a, b in zip(got, want, strict=False)) + abs(len(got) - len(want))
    if not wrong:
        return passed_if(True, f"{len(want)} bytes, all as expected", "bytes that differ", 0, 0)
    at = next((at for at, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
    reason = f"from byte {at} on {got[at : at + 24]!r}, expected {want[at : at + 24]!r}"
    return passed_if(False, reason, "bytes that differ", wrong, 0)


def _messages(arguments: CheckArguments) -> list[dict[str, str]]:
    value: Any = arguments.parameters.get("messages", [])
    if not isinstance(value, list) or not all(
        isinstance(entry, dict) and set(entry) == _FIELDS and all(isinstance(text, str) for text in entry.values())
        for entry in value
    ):
        raise UsageError("check parameter messages: expected a list of {role: …, content: …}, each a text")
    return value


def chat_refusal(arguments: CheckArguments) -> Judgement:
    """A prompt that must not go through a template is refused: `prompt` where it holds control tokens of the model, and
    any prompt where the model has no template."""
    model, prompt = arguments.require_model(), arguments.text("prompt", "Hello")
    if model.chat_template is not None and not model.tokenizer.has_special(prompt):
        return unknown("the model has a chat template and the prompt no control tokens: nothing is to be refused")
    try:
        ids = encode_prompt(model, prompt, special=True, chat=True)
    except UsageError as error:
        return passed_if(True, f"refused: {error}", "prompts let through", 0, 0)
    return passed_if(False, f"{len(ids)} tokens were made of it", "prompts let through", 1, 0)
