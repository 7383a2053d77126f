"""Stages that were not selected, as far as what is said of the selected ones rests on them.

What a capture tells of itself is a matter of all of it: that its rows begin with the first token, what other layers err
by, whether all matrix products do. So the same stage is judged alike, whatever is selected beside it. Stages are looked
at until they have told enough: in most captures these are few.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import StageComparison
from aprtui.compare.verdict import Verdict
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node


@dataclass(slots=True)
class NotSelected:
    """The captured `nodes` that were not selected, in execution order; `compare` judges one of them."""

    nodes: Sequence[Node]
    compare: Callable[[Node], StageComparison | Unpaired]
    progress: Progress | None
    found: dict[Node, StageComparison] = field(default_factory=dict)

    def look_at_all(self) -> None:
        self.look_until(lambda node: True, lambda stage: False)

    def look_at_stages(self, stages: Collection[str]) -> None:
        """Those in other layers."""
        self.look_until(lambda node: node.stage in stages, lambda stage: False)

    def look_until(
        self, concerns: Callable[[Node], bool], tells: Callable[[StageComparison], bool], times: int = 1
    ) -> bool:  # fmt: skip
        """Whether so many of the nodes that it `concerns` tell."""
        told = 0
        for done, node in enumerate(self.nodes):
            if not concerns(node):
                continue
            if node not in self.found:
                if self.progress:
                    self.progress(f"looking at {node}, which was not selected,", done, len(self.nodes))
                result = self.compare(node)
                if isinstance(result, Unpaired):
                    continue
                self.found[node] = result
            told += tells(self.found[node])
            if told >= times:
                return True
        return False


def passes(stage: StageComparison) -> bool:
    return stage.verdict.verdict is Verdict.PASS
