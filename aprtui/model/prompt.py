"""From a prompt to token ids, as it is or through the model's chat template."""

from __future__ import annotations

from aprtui.errors import UsageError
from aprtui.model.model import Model


def encode_prompt(model: Model, text: str, *, special: bool, chat: bool) -> list[int]:
    """Token ids of the prompt `text`, through the chat template with `chat`.

    Raises `UsageError` where the model has no template, or the text has been through one.
    """
    if not chat:
        return model.tokenizer.encode(text, special=special)
    template = model.chat_template
    if template is None:
        raise UsageError(f"{model.path}: the model has no chat template: leave out --chat")
    if model.tokenizer.has_special(text):
        raise UsageError("--chat: the prompt holds control tokens already: leave out --chat, or give plain text")
    rendered = template.render([{"role": "user", "content": text}])
    # A template that writes BOS itself must not get a second one.
    bos = model.tokenizer.bos_text
    writes_bos = bool(bos) and rendered.startswith(str(bos))
    return model.tokenizer.encode(rendered, special=True, bos=False if writes_bos else None)
