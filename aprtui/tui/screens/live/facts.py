"""The facts of the loaded model, laid out: what is unusual about it first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.errors import AprtuiError
from aprtui.model.facts import ModelFacts, TokenizerFacts, model_facts
from aprtui.model.model import load_model
from aprtui.model.vocabulary import VocabularyKind
from aprtui.tui.draw.numbers import size_text
from aprtui.tui.draw.text import quoted
from aprtui.tui.widgets.text_stream import printable

TEMPLATE_LINES = 12

_KINDS = {VocabularyKind.BYTE_PAIR: "byte pairs", VocabularyKind.SENTENCE_PIECE: "SentencePiece"}


class ModelFactsScreen(ModalScreen[None]):
    """Shows the facts of a model file, which it reads in a thread."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,I", "dismiss", "Close", show=False),
        Binding("down,j", "scroll_by(1)", "Down", show=False),
        Binding("up,k", "scroll_by(-1)", "Up", show=False),
        Binding("pagedown,space", "scroll_by(10)", "Page down", show=False),
        Binding("pageup", "scroll_by(-10)", "Page up", show=False),
    ]
    DEFAULT_CSS = """
    ModelFactsScreen { align: center middle; }
    ModelFactsScreen > VerticalScroll {
        width: 100; max-width: 100%; height: auto; max-height: 100%; background: $surface;
    }
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="pane", can_focus=False) as box:
            box.border_title = "the model"
            box.border_subtitle = "j k scroll, escape closes"
            yield Static("Reading the model…", markup=False)

    def on_mount(self) -> None:
        self._read()

    def action_scroll_by(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    @work(thread=True)
    def _read(self) -> None:
        try:
            facts = model_facts(load_model(self._path))
        except (AprtuiError, OSError) as error:
            self.app.call_from_thread(self._show, Text(str(error)))
        else:
            self.app.call_from_thread(self._show, laid_out(facts))

    def _show(self, content: Text | Group) -> None:
        if self.is_mounted:
            self.query_one(Static).update(content)


def laid_out(facts: ModelFacts) -> Group:
    """All facts as a table, with what is unusual above it and the beginning of the chat template below."""
    parts: list[Text | Table] = []
    if facts.unusual:
        parts.append(Text("Unusual", style="bold"))
        unusual = Table.grid(padding=(0, 1))
        for sentence in facts.unusual:
            unusual.add_row("•", sentence)
        parts += [unusual, Text("")]
    table = Table.grid(padding=(0, 2))
    for name, words in (*_rows(facts), *_type_rows(facts), *_tokenizer_rows(facts)):
        table.add_row(Text(name, style="dim"), printable(words))
    parts.append(table)
    if facts.template is not None:
        lines = facts.template.splitlines()
        more = f", the first {TEMPLATE_LINES} of {len(lines)} lines" if len(lines) > TEMPLATE_LINES else ""
        parts += [Text(""), Text(f"Chat template{more}", style="bold")]
        parts += [Text(printable(line), overflow="ellipsis", no_wrap=True) for line in lines[:TEMPLATE_LINES]]
    return Group(*parts)


def _rows(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    config, graph = facts.config, facts.config.graph
    yield "model", facts.name
    yield "file", f"{facts.path}, {size_text(facts.size)}"
    yield "architecture", f"{graph.architecture}, {facts.quantization}, {_count(facts.parameters)} parameters"
    yield "layers", f"{graph.layers}, hidden size {graph.hidden}, feed-forward {graph.ffn}"
    yield "heads", f"{graph.heads} for Q, {graph.kv_heads} for K and V, of {graph.head_dim} channels"
    yield "context", f"{config.context} tokens"
    scale = "" if config.rope.scale == 1 else f", positions divided by {config.rope.scale:g}"
    factors = "" if config.rope.factors is None else ", with factors of its own for each frequency"
    yield "RoPE", f"base {config.rope.theta:.12g}, {graph.rope_layout} pairs{scale}{factors}"
    yield "norms", f"RMS, epsilon {config.norm_epsilon:.6g}"
    if facts.temperature is not None:
        yield "temperature", f"{facts.temperature:g} recommended"


def _type_rows(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    for number, found in enumerate(facts.types):
        tensors = "1 tensor" if found.tensors == 1 else f"{found.tensors} tensors"
        bits = 8 * found.size / found.values
        words = f"{found.name:<5} {tensors:>12}, {size_text(found.size):>7}, {bits:.3g} bits a value"
        yield "" if number else "weights", words


def _tokenizer_rows(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    found = facts.tokenizer
    if not isinstance(found, TokenizerFacts):
        yield "tokenizer", found
        return
    pre = f", pre-tokenizer {found.pre_tokenizer}" if found.pre_tokenizer else ""
    yield "tokenizer", f"{_KINDS[found.kind]}{pre}, {found.tokens} tokens"
    begin = "none" if found.bos is None else quoted(found.bos)
    yield "begins with", begin if found.begins or found.bos is None else f"nothing ({begin} is known, but not added)"
    yield "stops at", ", ".join(map(quoted, found.stops)) or "nothing"
    yield "chat template", "none" if facts.template is None else "yes"


def _count(value: int) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return str(value)
