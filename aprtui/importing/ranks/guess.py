"""A proposal of how ranks share the stages of a model, with what proves each line: widths, copies, sums.

`sure` is what widths or bits leave no other reading of; `likely` is what nothing contradicts; `doubtful` is a comment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aprtui.errors import UsageError, printable
from aprtui.importing.dims import RankGroup, Sharing
from aprtui.importing.elements import Floats
from aprtui.importing.ranks.copies import CopyState, compare_copies, distance_of, honest_bound, unit_roundoff
from aprtui.importing.ranks.description import PIPELINE, RankDescription
from aprtui.importing.ranks.gather import Held, SharedAxis, part_widths, put_together, split_parts
from aprtui.importing.ranks.result import graph_of
from aprtui.importing.ranks.sources import RankedSource, RankHoldings, rank_numbers, read_ranks
from aprtui.importing.ranks.stage_axes import fused_parts
from aprtui.importing.reading import ImportRequest
from aprtui.progress import Progress
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node
from aprtui.trace.graph.stage_graph import StageGraph

_ADDED = {"attn_out": "post_attn_residual", "ffn_out": LAYER_OUTPUT, "moe_ffn_out": LAYER_OUTPUT}
"""Stages that are added to the residual stream, and what comes of it."""
_WHOLE_ROWS = frozenset({Op.EMBED, Op.RMS_NORM, Op.ADD})
"""Ops whose result is never shared by channels: each row is needed as a whole."""
_SAME = 0.02
"""Sums that are this near to what they must give are those: of another tensor they are off by about their size."""


@dataclass(frozen=True, slots=True)
class ProposedLine:
    """Dims for a stage, how sure they are, and why."""

    stage: str
    dims: str
    sure: str
    why: str

    @property
    def text(self) -> str:
        comment = "#" if self.sure == "doubtful" else ""
        return f'  {comment}{self.stage}: "{self.dims}"  # {self.sure}: {printable(self.why)}'


def propose(path: Path, request: ImportRequest, progress: Progress) -> str:
    """A file for `--dims`. Raises `UsageError` where the model is not given, or where ranks say too little."""
    if request.graph is None or request.graph.config is None:
        raise UsageError("--guess: needs the widths of the model: give --model")
    groups, why = _groups(path, request)
    source = read_ranks(path, request, RankDescription() if groups is None else RankDescription(groups))
    guesser = _Guesser(source, graph_of(source, request))
    lines = [f"# proposed for {printable(str(path))}: read it before you use it"]
    if groups is not None:
        sizes = ", ".join(f"{name}: {size}" for name, size in groups.items())
        lines.append(f"groups: {{{sizes}}}  # likely: {why}")
    lines.append("stages:")
    for done, stage in enumerate(guesser.stages):
        progress("guessing", done, len(guesser.stages))
        lines += [line.text for line in guesser.lines(stage)]
    return "\n".join(lines) + "\n"


def _groups(path: Path, request: ImportRequest) -> tuple[dict[str, int] | None, str]:
    """Groups, where the files tell none: ranks that hold other layers are stages of a pipeline."""
    known = rank_numbers(path, request.format_name)
    if not known or any(known.values()):
        return None, ""
    source = read_ranks(path, request, RankDescription({"tp": max(known) + 1}))
    kinds: dict[frozenset[Node], list[int]] = {}
    for one in source.ranks:
        kinds.setdefault(frozenset(node for node in one.tensors if node.layer is not None), []).append(one.rank)
    each = len(source.ranks) // len(kinds)
    consecutive = all(ranks == list(range(ranks[0], ranks[0] + each)) for ranks in kinds.values())
    if len(kinds) == 1 or not consecutive or each * len(kinds) != len(source.ranks):
        return {"tp": len(source.ranks)}, f"{len(source.ranks)} ranks that hold the same layers"
    return {"tp": each, PIPELINE: len(kinds)}, f"ranks hold layers in {len(kinds)} runs of {each}"


class _Guesser:
    def __init__(self, source: RankedSource, graph: StageGraph) -> None:
        self.source, self.graph = source, graph
        held = {node for one in source.ranks for node in one.tensors}
        self.nodes = [node for node in graph.nodes if node in held]
        self.stages = list(dict.fromkeys(node.stage for node in self.nodes))
        self.groups = [name for name, size in source.sizes.items() if size > 1 and name != PIPELINE]

    def lines(self, stage: str) -> list[ProposedLine]:
        """What the first layer that has the stage says of how ranks share it."""
        node = next(node for node in self.nodes if node.stage == stage)
        found = [self._in_group(node, name) for name in self.groups]
        if not found:
            return []
        if len(found) == 1:
            return list(found[0])
        best = [options[0] for options in found]
        return [_merged(best)]

    def _members(self, node: Node, group: str) -> list[RankHoldings]:
        """Ranks that differ in their number in one group alone."""
        holders = [one for one in self.source.ranks if node in one.tensors]
        rest = {name: number for name, number in holders[0].numbers.items() if name != group}
        members = [one for one in holders if all(one.numbers[name] == number for name, number in rest.items())]
        return sorted(members, key=lambda one: one.numbers[group])

    def _values(self, node: Node, group: str) -> list[Floats]:
        """What the ranks of a group hold, in its order; in rows where the axes are not known."""
        if not self._is_held(node):
            return []
        members = [one.tensors[node] for one in self._members(node, group)]
        values = [tensor.load() for tensor in members]
        if all(value.ndim > 1 for value in values):
            return values
        count = len(members)
        return [
            self._read_as(node, tensor.inferred, value, count) for tensor, value in zip(members, values, strict=True)
        ]

    def _read_as(self, node: Node, inferred: tuple[int, ...] | None, value: Floats, count: int) -> Floats:
        """A file that states no axes: of the residual stream and its norms a rank has whole rows, of others all rows
        of some channels."""
        stage = self.graph[node.stage]
        rows, rest = divmod(value.size, stage.width)
        if stage.is_attention_map:
            return value if inferred is None else value.reshape(inferred)
        tokens = self.source.token_count or 1
        fits = value.size % tokens == 0 and value.size // tokens <= stage.width
        if stage.holds_logits and not (fits and value.size // tokens * count == stage.width):
            fits = False
        elif rows and not rest and (stage.op in _WHOLE_ROWS or stage.name in _ADDED):
            return value.reshape(rows, stage.width)
        return value.reshape(tokens if fits else 1, -1)

    def _states_axes(self, node: Node) -> bool:
        return all(one.tensors[node].load().ndim > 1 for one in self.source.ranks if node in one.tensors)

    def _is_held(self, node: Node) -> bool:
        return any(node in one.tensors for one in self.source.ranks)

    def _in_group(self, node: Node, group: str) -> tuple[ProposedLine, ...]:
        stage, count = self.graph[node.stage], self.source.sizes[group]
        values = self._values(node, group)
        layer = "" if node.layer is None else f", layer {node.layer}"
        shape = "h q k" if stage.is_attention_map else "t h"
        copied = f"{shape} # {group}:replicated"
        if len(values) < count or len({value.shape for value in values}) > 1 or values[0].ndim < 2:
            why = f"{len(values)} of {count} ranks have it, as {[list(value.shape) for value in values[:3]]}"
            return (ProposedLine(stage.name, copied, "doubtful", why),)
        own = values[0].shape[0] if stage.is_attention_map else values[0].shape[1]
        rows, tokens = values[0].shape[-2], self.source.token_count
        whole_rows = tokens is None or rows == tokens or stage.of_last_position
        if own == stage.width and whole_rows:
            return self._whole(node, group, values, copied, layer)
        if own == stage.width and not stage.is_attention_map:
            return self._of_tokens(node, group, rows)
        if own * count == stage.width and not fused_parts(stage):
            dims = f"h[{group}] q k" if stage.is_attention_map else f"t h[{group}]"
            why = f"{own} x {count} is the width {stage.width}"
            if stage.is_attention_map or self._states_axes(node) or tokens is None or tokens % count:
                return (ProposedLine(stage.name, dims, "sure", why),)
            return (ProposedLine(stage.name, dims, "likely", f"{why}; files state no axes, so it may be rows as well"),)
        return self._of_matrices(node, group, values, own)

    def _of_matrices(self, node: Node, group: str, values: Sequence[Floats], own: int) -> tuple[ProposedLine, ...]:
        stage, config = self.graph[node.stage], self.graph.config
        assert config is not None
        parts = fused_parts(stage)
        ends = [config.part(part).indices(stage.width) for part in parts]
        widths = tuple(end - first for first, end, _ in ends) or (stage.width,)
        split = part_widths(own, widths, len(values))
        dims = f"t (q+k+v)[{group}]" if parts else f"t h[{group}]"
        if split is None:
            why = f"a rank has {own} of {stage.width}: no part that {len(values)} ranks would have"
            return (ProposedLine(stage.name, dims, "doubtful", why),)
        own_widths, copies = split
        place = 0 if stage.is_attention_map else 1
        matrices = split_parts(list(values), place, widths)[len(widths) > 1 :]
        runs = [part[first : first + copies] for part in matrices for first in range(0, len(part), copies)]
        alike = all(np.array_equal(run[0], other) for run in runs for other in run[1:])
        text = f"{' + '.join(map(str, own_widths))} of {' + '.join(map(str, widths))}"
        if copies == 1:
            return (ProposedLine(stage.name, dims, "likely", f"{text}: each rank has its heads"),)
        sure = "sure" if alike else "doubtful"
        return (
            ProposedLine(
                stage.name, dims, sure, f"{text}, {copies} neighbours {'' if alike else 'do not '}hold the same"
            ),
        )

    def _whole(
        self, node: Node, group: str, values: Sequence[Floats], copied: str, layer: str
    ) -> tuple[ProposedLine, ...]:
        """Of the width that the model has: copies, or terms of a sum."""
        stage, unit = self.graph[node.stage], max(map(unit_roundoff, values))
        bound = honest_bound(unit, len(values), node.layer, self.graph.layers)
        found = compare_copies(dict(enumerate(np.ascontiguousarray(v) for v in values)), bound, unit)
        if found.state is CopyState.EQUAL:
            return (ProposedLine(stage.name, copied, "sure", f"equal to the bit on {len(values)} ranks{layer}"),)
        if found.state is not CopyState.PARTS:
            return (ProposedLine(stage.name, copied, "likely", f"equal but for {found.distance:.2g}{layer}"),)
        partial = ProposedLine(stage.name, copied.partition(" #")[0] + f"[{group}:partial]", "doubtful", "")
        error = self._sum_error(node, group, values)
        if error is not None and error < _SAME:
            return (replace(partial, sure="sure", why=f"the sum is what is added to the residual, to {error:.2g}"),)
        why = f"ranks differ by {found.distance:.2g}{layer}: terms of a sum, or a rank parts"
        return (replace(partial, why=why), ProposedLine(stage.name, copied, "doubtful", why))

    def _sum_error(self, node: Node, group: str, values: Sequence[Floats]) -> float | None:
        """How far the sum of all ranks is from what is added to the residual stream; None where that is not there."""
        after = replace(node, stage=_ADDED[node.stage]) if node.stage in _ADDED else None
        if after is None or node.layer is None:
            return None
        before = next((source for source in self.graph.inputs(after) if source.stage != node.stage), None)
        if before is None or not (self._is_held(after) and self._is_held(before)):
            return None
        ends = [self._values(one, group)[0] for one in (before, after)]
        if any(end.shape != values[0].shape for end in ends):
            return None
        added = (ends[1].astype(np.float64) - ends[0]).astype(np.float32)
        return distance_of(added, np.asarray(np.sum(values, axis=0, dtype=np.float64), np.float32))

    def _of_tokens(self, node: Node, group: str, rows: int) -> tuple[ProposedLine, ...]:
        count, tokens = self.source.sizes[group], self.source.token_count or 0
        name = node.stage
        if not tokens <= rows * count < tokens + 2 * count:
            why = f"{rows} rows on each of {count} ranks, of {tokens} tokens"
            return (ProposedLine(name, f"t[{group}] h", "doubtful", why),)
        orders = self._orders(group)
        why = f"{rows} rows x {count} are {tokens} tokens and their padding"
        if len(orders) == 1:
            ((order, text),) = orders.items()
            return (ProposedLine(name, f"t[{group}{order}] h", "sure", f"{why}; {text}"),)
        both = (("", "in their order"), (":zigzag", "from both ends"))
        return tuple(
            ProposedLine(name, f"t[{group}{order}] h", "doubtful", f"{why}; {text}? embedding and ids would tell")
            for order, text in both
        )

    def _orders(self, group: str) -> Mapping[str, str]:
        """The orders of tokens in which equal ids have equal embeddings; all where nothing tells them apart."""
        values, ids = self._values(Node(0, ENTRY), group), self.source.tokens
        both = {"": Sharing.PART, ":zigzag": Sharing.ZIGZAG}
        if ids is None or not values or values[0].ndim != 2 or len(ids) == len(values[0]) or len(values[0]) % 2:
            return {"": "", ":zigzag": ""}
        found = {}
        held = [Held((number,), {group: number}, value) for number, value in enumerate(values)]
        for text, sharing in both.items():
            (whole,) = put_together(held, SharedAxis(0, (RankGroup(group, sharing),)))
            first: dict[int, bytes] = {}
            rows = whole.values[: len(ids)]
            if all(first.setdefault(id_, row.tobytes()) == row.tobytes() for id_, row in zip(ids, rows, strict=False)):
                found[text] = "equal ids have equal embeddings in this order"
        return found


def _merged(lines: Sequence[ProposedLine]) -> ProposedLine:
    """Lines of several groups as one: the least sure of them says how sure it is."""
    order = ("sure", "likely", "doubtful")
    shapes = [line.dims.partition(" #")[0] for line in lines]
    shape = next((text for text in shapes if "[" in text), shapes[0])
    copies = [line.dims.partition("# ")[2] for line in lines if "# " in line.dims]
    dims = shape + (f" # {' '.join(copies)}" if copies else "")
    sure = max((line.sure for line in lines), key=order.index)
    if sum("[" in text for text in shapes) > 1:
        sure = "doubtful"
    return ProposedLine(lines[0].stage, dims, sure, "; ".join(line.why for line in lines))
