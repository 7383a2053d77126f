"""The list of faults to inject at a stage, and the parameters of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from aprtui.engine.faults.kinds import KINDS, PARAMETERS
from aprtui.trace.graph.stage import Node
from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.widgets.table import Column, Row, Table, Tone


@dataclass(frozen=True, slots=True)
class FaultPlace:
    """Where the cursor is: the stage, and the position of the token.

    `kinds` are the kinds of faults that each stage of the model can have, `maps` the stages that are attention maps.
    """

    node: Node
    kinds: Mapping[Node, tuple[str, ...]]
    maps: frozenset[str]
    token: int | None

    def kinds_here(self) -> tuple[str, ...]:
        return self.kinds.get(self.node, ())

    def kinds_elsewhere(self) -> dict[str, Node]:
        """The kinds that only other stages can have, each with its first stage, in the same layer if there is one."""
        nodes = sorted(self.kinds, key=lambda node: node.layer != self.node.layer)
        found = {kind: node for node in reversed(nodes) for kind in self.kinds[node]}
        return {kind: found[kind] for kind in KINDS if kind in found and kind not in self.kinds_here()}


@dataclass(frozen=True, slots=True)
class FaultEntry:
    """A row of the list: a fault to remove (all without one), a kind to inject, or one to write without a kind.

    `node` is where a kind goes that the stage under the cursor cannot have.
    """

    remove: bool = False
    fault: str = ""
    kind: str = ""
    node: Node | None = None


def fault_rows(active: Sequence[str], place: FaultPlace, wanted: str) -> list[Row]:
    """What the list shows: faults that are injected, kinds for the stage, kinds for others, the way to write one.

    Of all but the last, those with all words that are `wanted`.
    """
    removals = [
        Row(FaultEntry(remove=True, fault=fault), ("remove", f"{fault} (injected now)"), Tone.BAD) for fault in active
    ]
    if len(active) > 1:
        removals.append(Row(FaultEntry(remove=True), ("remove all", f"the {len(active)} faults above"), Tone.BAD))
    offers = [Row(FaultEntry(kind=kind), (kind, KINDS[kind].sentence)) for kind in place.kinds_here()]
    offers += [
        Row(FaultEntry(kind=kind, node=node), (kind, f"at {node}: {KINDS[kind].sentence}"), Tone.MUTED)
        for kind, node in place.kinds_elsewhere().items()
    ]
    write = Row(FaultEntry(), ("write it", "as --inject takes it: layer=…,stage=…,kind=…"), Tone.MUTED)
    words = wanted.lower().split()
    found = [row for row in (*removals, *offers) if all(word in " ".join(row.cells).lower() for word in words)]
    return [*found, write]


def fault_text(fields: Sequence[tuple[str, str]]) -> str:
    """A fault as `--inject` takes it; parameters that are left empty are the engine's to choose."""
    return ",".join(f"{name}={text.strip()}" for name, text in fields if text.strip())


COLUMNS = (Column("fault"), Column("what it does, and the bug that it stands for", grows=True))


class FaultDialog(ModalScreen[tuple[str, ...] | None]):
    """Returns all faults that are to be injected then, or None where nothing changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Take", priority=True),
        Binding("escape", "leave", "Leave all as it is", priority=True),
        Binding("up", "move(-1)", "Up", show=False, priority=True),
        Binding("down", "move(1)", "Down", show=False, priority=True),
        Binding("pageup", "move(-10)", "Ten up", show=False, priority=True),
        Binding("pagedown", "move(10)", "Ten down", show=False, priority=True),
    ]
    DEFAULT_CSS = """
    FaultDialog { align: center middle; }
    FaultDialog > Vertical { width: 120; max-width: 100%; height: auto; max-height: 1fr; }
    FaultDialog {
        Input, Input:focus { border: none; height: 1; padding: 0; background: $panel; margin-bottom: 1; }
        #faults { height: auto; max-height: 22; border: none; padding: 0; }
        #faults .table--resting { color: $background; background: $accent; text-style: bold; }
        #faults:nocolor .table--resting { text-style: reverse bold; }
        #about { height: 2; color: $text-muted; }
    }
    """

    def __init__(self, place: FaultPlace, active: Sequence[str]) -> None:
        super().__init__()
        self._place = place
        self._active = tuple(active)

    def compose(self) -> ComposeResult:
        with Vertical(classes="pane") as box:
            box.border_title = f"Inject a fault at {self._place.node}"
            yield Input(placeholder="type to filter", id="filter")
            table = Table(COLUMNS, id="faults")
            table.remove_class("pane")
            table.can_focus = False
            yield table
            yield Static(id="about", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self._show_rows("")
        if kinds := self._place.kinds_here():  # rather than on a fault that enter would remove
            self.query_one(Table).point(FaultEntry(kind=kinds[0]))
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._show_rows(event.value)

    def on_table_pointed(self) -> None:
        self._show_sentence()

    def on_table_chosen(self) -> None:
        self.action_choose()

    def action_move(self, rows: int) -> None:
        self.query_one(Table).action_move(rows)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_choose(self) -> None:
        entry = self.query_one(Table).key
        assert isinstance(entry, FaultEntry)
        if entry.remove:
            self.dismiss(tuple(fault for fault in self._active if entry.fault and fault != entry.fault))
        else:
            place = replace(self._place, node=entry.node or self._place.node)
            self.app.push_screen(FaultForm(place, entry.kind), self._inject)

    def _inject(self, fault: str | None) -> None:
        if fault:
            self.dismiss((*self._active, fault))

    def _show_rows(self, wanted: str) -> None:
        self.query_one(Table).show(fault_rows(self._active, self._place, wanted))
        self._show_sentence()

    def _show_sentence(self) -> None:
        """The sentence of the row under the cursor: a small screen has no room for all of it in the list."""
        entry = self.query_one(Table).key
        kind = entry.kind if isinstance(entry, FaultEntry) else ""
        self.query_one("#about", Static).update(KINDS[kind].sentence if kind else "")


class FaultForm(ModalScreen[str | None]):
    """Asks for the parameters of a kind, or for a whole fault without one; returns it as `--inject` takes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "inject", "Inject", priority=True),
        Binding("escape", "leave", "Back to the list", priority=True),
        Binding("down,tab", "app.focus_next", "Next line", priority=True),
        Binding("up,shift+tab", "app.focus_previous", "Line before", show=False, priority=True),
    ]
    DEFAULT_CSS = """
    FaultForm { align: center middle; }
    FaultForm > Vertical { width: 90; max-width: 100%; height: auto; max-height: 1fr; }
    FaultForm {
        .line { height: auto; }
        .line > Label { width: 12; color: $foreground; }
        .line > .hint { width: 1fr; height: auto; color: $text-muted; padding: 0 1; }
        Input { border: none; height: 1; padding: 0; width: 18; background: $panel; }
        Input:focus { border: none; background: $boost; }
        #whole { width: 1fr; }
        #about, #text { height: auto; }
        #about { margin-bottom: 1; }
        #text { margin-top: 1; color: $accent; }
    }
    """

    def __init__(self, place: FaultPlace, kind: str) -> None:
        super().__init__()
        self._place = place
        self._kind = kind

    def compose(self) -> ComposeResult:
        node = self._place.node
        with Vertical(classes="pane") as box:
            box.border_title = self._kind or "A fault as --inject takes it"
            if self._kind:
                yield Static(KINDS[self._kind].sentence, id="about", markup=False)
                if node.layer is not None:
                    yield from self._line("layer", str(node.layer), "counted from 0")
                yield from self._line("stage", node.stage, "as the columns of the grid are named")
                left_out = "channel" if node.stage in self._place.maps else "head"
                for name, default in KINDS[self._kind].parameters.items():
                    if name == left_out:
                        continue
                    text = "" if default is None else f"{default:g}"
                    if name == "token" and self._place.token is not None:
                        text = str(self._place.token)
                    yield from self._line(name, text, PARAMETERS[name])
            else:
                yield Input(fault_text(self._here()) + ",kind=", id="whole", select_on_focus=False)
            yield Static(id="text", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        boxes = self.query(Input)
        names = [box.id for box in boxes]
        first = next((name for name in PARAMETERS if name in names), names[0])
        self.query_one(f"#{first}", Input).focus()
        self._show()

    def on_input_changed(self) -> None:
        self._show()

    def action_inject(self) -> None:
        self.dismiss(self._text())

    def action_leave(self) -> None:
        self.dismiss(None)

    def _here(self) -> list[tuple[str, str]]:
        node = self._place.node
        layer = [] if node.layer is None else [("layer", str(node.layer))]
        return [*layer, ("stage", node.stage)]

    def _line(self, name: str, text: str, hint: str) -> ComposeResult:
        with Horizontal(classes="line"):
            yield Label(name)
            yield Input(text, id=name)
            yield Label(hint, classes="hint", markup=False)

    def _text(self) -> str:
        if not self._kind:
            return "".join(self.query_one("#whole", Input).value.split())
        fields = [(box.id or "", box.value) for box in self.query(Input)]
        place = [field for field in fields if field[0] in ("layer", "stage")]
        return fault_text([*place, ("kind", self._kind), *(field for field in fields if field not in place)])

    def _show(self) -> None:
        self.query_one("#text", Static).update(f"--inject {self._text()}" if self._kind else "")
