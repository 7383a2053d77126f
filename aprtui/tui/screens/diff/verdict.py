"""The verdict at the top of the diff screen: its word and sign, a sentence, what to do next, details."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from textual.geometry import Size
from textual.reactive import reactive
from textual.strip import Strip

from aprtui.compare.verdict import Verdict
from aprtui.tui.draw.text import clipped
from aprtui.tui.widgets.line_widget import LineWidget

HIGH = 34
"""From this height of the screen on, details are seen, and panes and lists together."""

WORD = 13
"""Cells of the verdict's word and the space around it."""

SIGNS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.UNKNOWN: "?"}
SEPARATOR = " · "


@dataclass(frozen=True, slots=True)
class VerdictText:
    """A word (a verdict, or what is going on), the sentence beside it, steps to take next, and lines of details."""

    word: str = ""
    sentence: str = ""
    steps: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


class VerdictLines(LineWidget):
    """The sentence is wrapped and never cut; of the steps as many are shown as fit in a line."""

    PREFIX = "verdict"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"verdict--{name}" for name in ("pass", "fail", "unknown", "other", "sentence", "steps", "details")
    }
    DEFAULT_CSS = """
    VerdictLines {
        height: auto; padding: 0 1; background: $panel;
        .verdict--pass { color: $background; background: $success; text-style: bold; }
        .verdict--fail { color: $background; background: $error; text-style: bold; }
        .verdict--unknown { color: $background; background: $foreground; text-style: bold; }
        .verdict--other { color: $accent; text-style: bold; }
        .verdict--sentence { color: $foreground; text-style: bold; }
        .verdict--steps { color: $accent; }
        .verdict--details { color: $text-muted; }
        &:nocolor .verdict--pass, &:nocolor .verdict--fail, &:nocolor .verdict--unknown { text-style: reverse bold; }
    }
    """

    text: reactive[VerdictText] = reactive(VerdictText(), layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._lines(width, viewport.height))

    def render_line(self, y: int) -> Strip:
        width, word = self.size.width, self.text.word
        lines = self._lines(width, self.app.size.height)
        name, text = lines[y] if y < len(lines) else ("", "")
        label = Segment(" " * (WORD - 1), self.style())
        if y == 0 and word in set(Verdict):
            verdict = Verdict(word)
            label = Segment(f" {SIGNS[verdict]} {word} ".center(WORD - 1), self.style(word.lower()))
        elif y == 0:
            label = Segment(f" {word} ".center(WORD - 1), self.style("other"))
        gap = Segment(" ", self.style())
        return Strip([label, gap, Segment(text, self.style(name))]).adjust_cell_length(width, self.style())

    def _lines(self, width: int, height: int) -> list[tuple[str, str]]:
        """Each line beside the word: the name of its style, and its text."""
        content, room = self.text, max(width - WORD, 10)
        lines = [("sentence", line) for line in textwrap.wrap(content.sentence, room) or [""]]
        steps = fitting(content.steps, room)
        lines += [("steps", steps)] if steps else []
        details = content.details if height >= HIGH else ()
        return lines + [("details", clipped(line, room)) for line in details if line]


def fitting(steps: tuple[str, ...], room: int) -> str:
    """As many of `steps` as fit, the first ones first."""
    while len(steps) > 1 and len(SEPARATOR.join(steps)) > room:
        steps = steps[:-1]
    return clipped(SEPARATOR.join(steps), room)
