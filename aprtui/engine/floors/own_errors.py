"""What a side of a comparison errs by itself: no floor that is as wide may hide a fault.

The floor between two engines admits what their arithmetics part by, which is wide where one of them rounds to 8 bits,
or errs everywhere. So each side is replayed, which takes its own inputs, and what stands out there is a fault whatever
the floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aprtui.compare.comparison import Cause, Comparison, Everywhere, TriedAlternative
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.engine.replay.arithmetic import NodeEvaluators
from aprtui.engine.replay.identify import IdentifiedCapture, states_weights
from aprtui.engine.replay.replay import ReplayOptions, of_side, replay_capture
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node

OTHER_WEIGHTS = (
    "its products are not those of MODEL's weights, and nothing states whose they are: an estimated floor is too wide "
    "to pass by; give each side its own with --model-a and --model-b"
)
_SETTLED_BY = "if that is meant, replay {} alone with {}"


@dataclass(frozen=True, slots=True)
class OwnErrors:
    """What one side errs by everywhere, the verdicts on those of its stages that err by more, and the `proven` stages:
    those of a complete capture that follow from their own inputs, as all before them do. `causes` were proved of what
    failed, and `alternatives` were tried."""

    everywhere: tuple[Everywhere, ...]
    failed: Mapping[Node, StageVerdict]
    proven: frozenset[Node] = frozenset()
    causes: tuple[Cause, ...] = ()
    alternatives: tuple[TriedAlternative, ...] = ()


def own_errors(name: str, side: IdentifiedCapture, evaluators: NodeEvaluators, progress: Progress | None) -> OwnErrors:
    """The replay of the side `name`. Weights that its manifest states to be another model's are no error of it."""
    # The place of a single token may be unknown, which the replay finds out by itself.
    capture, model, tokens = side.stages.capture, side.stages.model, tuple(side.stages.tokens)
    options = ReplayOptions(tokens=tokens if len(tokens) > 1 else None)
    found = replay_capture(capture, model, options, evaluators, progress, side)
    failed = {
        stage.node: of_side(name, stage.verdict)
        for stage in found.stages
        if stage.verdict.verdict is Verdict.FAIL and found.verdict is Verdict.FAIL
    }
    if states_weights(capture, model) is False:
        return OwnErrors((), failed)
    causes = tuple(replace(cause, side=name) for cause in found.causes)
    alternatives = tuple(replace(one, side=name) for one in found.alternatives)
    everywhere = tuple(_of_side(name, entry) for entry in found.everywhere)
    return OwnErrors(everywhere, failed, _proven(found, model), causes, alternatives)


def _proven(found: Comparison, model: Model) -> frozenset[Node]:
    """Of a complete capture, the stages before the first one that does not follow from its inputs."""
    graph, nodes = model.graph, frozenset(stage.node for stage in found.stages)
    through = {node for stage in found.stages for node in stage.segment}
    is_complete = all(graph[node.stage].is_attention_map for node in through.union(graph.nodes) - nodes)
    if not is_complete or found.verdict is Verdict.UNKNOWN:
        return frozenset()
    wrong = [graph.order[stage.node] for stage in found.stages if stage.verdict.verdict is not Verdict.PASS]
    first = min(wrong, default=len(graph.nodes))
    return frozenset(node for node in nodes if graph.order[node] < first)


def _of_side(name: str, found: Everywhere) -> Everywhere:
    _, option, value = found.settled_by.partition("--rounding ")
    settled_by = _SETTLED_BY.format(name, option + value) if option else found.settled_by
    return replace(found, side=name, settled_by=settled_by)
