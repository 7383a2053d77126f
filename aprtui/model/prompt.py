"""From a prompt to token ids, as it is or through the model's chat template."""

from __future__ import annotations

from dataclasses import dataclass

from aprtui.errors import UsageError
from aprtui.model.chat import ChatTemplate
from aprtui.model.model import Model

_ANSWER = "answer"


_MESSAGE = "<|message|>"
"""Stands before each message of an answer of gpt-oss, behind the channel that it is for."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A turn of a conversation that is over: what the user said, and what the model answered."""

    user: str
    answer: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What the user says next in a conversation, and what was said before.

    `tokens` are the ids of everything before, the answers as the model chose them: text that is encoded again can give
    other ids. Without them, everything is encoded.
    """

    user: str
    system: str = ""
    earlier: tuple[Exchange, ...] = ()
    tokens: tuple[int, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates take them, each with `role` and `content`."""
        said = [("system", self.system)] if self.system else []
        for exchange in self.earlier:
            said += [("user", exchange.user), ("assistant", _last_message(exchange.answer))]
        return [{"role": role, "content": content} for role, content in (*said, ("user", self.user))]


def _last_message(answer: str) -> str:
    """What an answer says: of several messages the last, as templates want it; those before are thoughts."""
    return answer.rpartition(_MESSAGE)[2]


def encode_prompt(model: Model, text: str, *, special: bool, chat: bool, system: str = "") -> list[int]:
    """Token ids of the prompt `text`, through the chat template with `chat`, and then after a `system` message.

    Raises `UsageError` where the model has no template, or the text has been through one.
    """
    if chat:
        return encode_chat(model, ChatPrompt(text, system))
    return model.tokenizer.encode(text, special=special)


def encode_chat(model: Model, prompt: ChatPrompt) -> list[int]:
    """Token ids of a conversation up to the mark behind which the model answers.

    They begin with `prompt.tokens` where the template renders what was said before as it did then (some leave thoughts
    out of earlier answers) and goes on with a special token, so that no ids depend on where the text was cut. Raises
    `UsageError` where the model has no template, or a text has been through one.
    """
    template, tokenizer = require_template(model), model.tokenizer
    for what, text in (("prompt", prompt.user), ("system prompt", prompt.system)):
        if tokenizer.has_special(text):
            raise UsageError(f"--chat: the {what} holds control tokens already: leave out --chat, or give plain text")
    rendered = template.render(prompt.messages)
    # A template that writes BOS itself must not get a second one.
    bos = tokenizer.bos_text
    writes_bos = bool(bos) and rendered.startswith(str(bos))
    before = prompt.tokens
    if before and not writes_bos and before[0] == tokenizer.vocabulary.bos:
        before = before[1:]
    text = tokenizer.decode(before)
    if before and rendered.startswith(text):
        following = tokenizer.encode(rendered[len(text) :], bos=False)
        if following and tokenizer.is_special(following[0]):
            return [*prompt.tokens, *following]
    return tokenizer.encode(rendered, bos=False if writes_bos else None)


def require_template(model: Model) -> ChatTemplate:
    """The model's chat template. Raises `UsageError` where it has none."""
    template = model.chat_template
    if template is None:
        raise UsageError(f"{model.path}: the model has no chat template: leave out --chat")
    return template


def chat_stop_ids(model: Model) -> frozenset[int]:
    """The tokens that end an answer: the model's own, and the one that its chat template writes behind an answer.

    Not every file names the latter among its special tokens.
    """
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
    tokenizer = model.tokenizer
    try:
        rendered = require_template(model).render(messages, add_generation_prompt=False)
    except UsageError:
        return tokenizer.stop_ids
    following = tokenizer.encode(rendered.rpartition(_ANSWER)[2].lstrip(), bos=False)[:1]
    return tokenizer.stop_ids | frozenset(filter(tokenizer.is_special, following))
