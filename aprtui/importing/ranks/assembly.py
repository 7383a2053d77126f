"""The ranks of one model, put together stage by stage, and what is found on the way."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aprtui.errors import UsageError
from aprtui.importing.dims import Dims, Sharing, parse_dims
from aprtui.importing.elements import Floats
from aprtui.importing.ranks.copies import Copies, CopyState
from aprtui.importing.ranks.description import PIPELINE, RankDescription
from aprtui.importing.ranks.gather import (
    Held,
    SharedAxis,
    by_group,
    owners,
    part_widths,
    put_together,
    split_parts,
)
from aprtui.importing.ranks.judging import CopyJudge
from aprtui.importing.ranks.sources import RankedSource, RankHoldings, RankTensor
from aprtui.importing.ranks.stage_axes import TOKENS, fused_parts, stage_axes
from aprtui.trace.graph.stage import ROUTER_CHOICE, Node, Stage
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.rank_parts import Runs

_IGNORED = frozenset({"recompute_pseudo"})


@dataclass(frozen=True, slots=True)
class Assembled:
    """A stage of the whole model. `owners` says which positions of `axis` (0: tokens, of maps heads; 1: channels) are
    from which ranks, where they are not from all. `copies` is None where nothing is there twice."""

    node: Node
    dims: Dims
    values: Floats
    copies: Copies | None
    axis: int = 1
    owners: Mapping[tuple[int, ...], Runs] = field(default_factory=dict)
    padding: int = 0


class Assembler:
    """Puts the stages of a source together, in execution order."""

    def __init__(self, source: RankedSource, description: RankDescription, graph: StageGraph) -> None:
        self.source, self.description, self.graph = source, description, graph
        self.judge = CopyJudge(graph, len(source.ranks))
        self.missing: list[str] = []
        self._choices: dict[int | None, Floats] = {}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The stages that some rank holds, in execution order."""
        held = {node for one in self.source.ranks for node in one.tensors}
        return tuple(node for node in self.graph.nodes if node in held)

    def dims_of(self, node: Node) -> Dims:
        """How the ranks share a stage: as the description says, else as the files do. Raises `UsageError`."""
        described = self.description.dims(node.stage)
        if described is not None:
            return described
        stated = {one.tensors[node].dims for one in self.source.ranks if node in one.tensors}
        if len(stated) == 1 and (text := stated.pop()):
            return parse_dims(text, f"{self.source.path}: {node}")
        first = next(one.tensors[node] for one in self.source.ranks if node in one.tensors)
        shape = first.inferred or first.load().shape
        stage = self.graph[node.stage]
        channels = "(q+k+v)" if fused_parts(stage) else "h"
        example = f"h[{self._example}] q k" if stage.is_attention_map else f"t {channels}[{self._example}]"
        raise UsageError(
            f"{self.source.path}: {node}: a rank has {list(shape)}, and nothing says how ranks share it: write "
            f'{node.stage}: "{example}" or "t h # {self._example}:replicated" under stages in a file for --dims; '
            f"aprtui ranks {self.source.path} --guess proposes all"
        )

    @property
    def _example(self) -> str:
        active = [name for name, size in self.source.sizes.items() if size > 1 and name != PIPELINE]
        return active[0] if active else "tp"

    def stages(self) -> Iterator[Assembled]:
        """All stages, one after the other; those that not enough ranks hold are left out and said in `missing`."""
        for node in self.nodes:
            found = self._assembled(node)
            if found is not None:
                yield found

    def _assembled(self, node: Node) -> Assembled | None:
        dims = self.dims_of(node)
        where = f"{self.source.path}: {node}"
        held = self._held(node, dims, where)
        lacking = self._lacking(held, dims)
        if lacking:
            self.missing.append(f"{node}: {lacking}: left out")
            return None
        held, found = self._one_copy_each(node, held, dims, where)
        shapes = {one.values.shape for one in held}
        if len({len(shape) for shape in shapes}) > 1 or not shapes:
            raise UsageError(f"{where}: ranks hold {sorted(map(list, shapes))}: of different axes")
        axes = stage_axes(node, dims, self.graph, self.source.sizes, held[0].values.shape, where)
        shared = next((axis for axis in axes if _has_parts(axis)), None)
        owned = owners(held, shared) if shared is not None else {}
        for axis in axes:
            self._require_equal_parts(held, axis, where)
            found += self._repeated_parts(node, held, axis)
            held = put_together(held, axis)
        (whole,) = held
        values, padding = self._without_padding(np.asarray(whole.values, np.float32), node, dims, axes, where)
        values = self._of_chosen(node, values)
        self._require_width(node, values, where)
        if node.stage == ROUTER_CHOICE:
            self._choices[node.layer] = values
        copies = None if not found else max(found, key=lambda one: tuple(CopyState).index(one.state))
        return Assembled(node, dims, values, copies, 0 if shared is None else shared.place, owned, padding)

    def _held(self, node: Node, dims: Dims, where: str) -> list[Held]:
        """What ranks hold, by their numbers in the groups that the dims speak of.

        Groups that the others determine need not be spoken of: attention's own groups are those of `tp` where it has no
        others. One that is not determined is refused.
        """
        holders = [one for one in self.source.ranks if node in one.tensors]
        loaded = {one.rank: self._in_axes(one.tensors[node], node, dims, where) for one in holders}
        filled = [one for one in holders if loaded[one.rank].size or dims.data_group not in one.numbers]
        active = {name for name in self.source.sizes if self.source.sizes[name] > 1} - _IGNORED
        spoken = (dims.shared | dims.replicated) & active
        unknown = (dims.shared | dims.replicated) - self.source.sizes.keys()
        if unknown:
            raise UsageError(
                f"{where}: dims {dims.text!r} speak of {min(unknown)}: the groups are {', '.join(self.source.sizes)}"
            )
        for name in sorted(active - spoken):
            if len({one.numbers[name] for one in filled}) > 1 and not _determined(name, spoken, filled):
                raise UsageError(self._undescribed(node, name, dims, where))
        return [
            Held((one.rank,), {name: one.numbers[name] for name in spoken}, loaded[one.rank]) for one in filled
        ]  # fmt: skip

    def _in_axes(self, tensor: RankTensor, node: Node, dims: Dims, where: str) -> Floats:
        """What a rank holds; where no file says in which axes it lies, in those of the model, the dims and the tokens.

        Raises `UsageError` where these do not tell.
        """
        values = tensor.load()
        if values.ndim > 1 or not values.size:
            return values
        stage, tokens = self.graph[node.stage], self.source.token_count
        rows = any(dim.names[0] in TOKENS and dim.parts for dim in dims.dims)
        if stage.is_attention_map:
            found = tensor.inferred
        elif tokens and not rows and not stage.of_last_position and values.size % tokens == 0:
            found = (tokens, values.size // tokens)
        elif self.graph.config is not None:
            groups = {group.name for dim in dims.dims if dim.names[0] not in TOKENS for group in dim.parts}
            width = stage.width // math.prod(self.source.sizes.get(name, 1) for name in groups)
            found = (values.size // width, width) if width and values.size % width == 0 else None
        else:
            found = None if rows else tensor.inferred
        if found is None:
            raise UsageError(
                f"{where}: how many rows its {values.size} values are is not known: give --model and tokens"
            )
        return values.reshape(found)

    def _undescribed(self, node: Node, group: str, dims: Dims, where: str) -> str:
        if group == PIPELINE:
            return (
                f"{where}: is there on ranks of several {PIPELINE}: do they count their own layers? then give "
                f'first_layers: [0, …] in a file for --dims; where they are copies, write "{dims.text} # '
                f'{PIPELINE}:replicated"'
            )
        comment = " " if dims.replicated else " # "
        return (
            f"{where}: dims {dims.text!r} say nothing of {group}, of {self.source.sizes[group]} ranks: write "
            f'"{dims.text}{comment}{group}:replicated" where all have the same, or [{group}] behind the axis that they '
            "share"
        )

    def _lacking(self, held: Sequence[Held], dims: Dims) -> str:
        """Which numbers of a group that shares a stage are missing, in words; empty where none is."""
        if not held:
            return "no rank has values of it"
        for name in sorted(dims.shared & held[0].numbers.keys()):
            there = {one.numbers[name] for one in held}
            gone = sorted(set(range(self.source.sizes[name])) - there)
            if gone:
                return f"{name} {', '.join(map(str, gone))} did not dump it"
        names = sorted(dims.shared & held[0].numbers.keys())
        expected = math.prod(self.source.sizes[name] for name in names)
        if len({tuple(one.numbers[name] for name in names) for one in held}) < expected:
            return "some ranks did not dump it"
        return ""

    def _one_copy_each(
        self, node: Node, held: Sequence[Held], dims: Dims, where: str
    ) -> tuple[list[Held], list[Copies]]:
        """One of those that must be the same, in place of them, and what was found of them."""
        copied = dims.replicated & held[0].numbers.keys()
        buckets: dict[tuple[tuple[str, int], ...], list[Held]] = defaultdict(list)
        for one in held:
            buckets[tuple(sorted((name, n) for name, n in one.numbers.items() if name not in copied))].append(one)
        kept, found = [], []
        for numbers, copies in buckets.items():
            if len({one.values.shape for one in copies}) > 1:
                shapes = ", ".join(f"rank {one.ranks[0]} {list(one.values.shape)}" for one in copies[:4])
                raise UsageError(f"{where}: copies have different shapes: {shapes}: dims {dims.text!r} are not right")
            values = {one.ranks[0]: np.ascontiguousarray(one.values, np.float32) for one in copies}
            chosen = copies[0].ranks[0]
            if len(copies) > 1:
                found.append(self.judge.judge(node, values))
                chosen = found[-1].kept
            kept.append(Held(tuple(rank for one in copies for rank in one.ranks), dict(numbers), values[chosen]))
        return kept, found

    def _require_equal_parts(self, held: Sequence[Held], axis: SharedAxis, where: str) -> None:
        """Raise `UsageError` where ranks hold parts that do not fit together."""
        names = {group.name for group in axis.groups}
        shapes = {one.values.shape for one in held}
        partial = all(group.sharing is Sharing.PARTIAL for group in axis.groups)
        same = {shape[: axis.place] + shape[axis.place + 1 :] for shape in shapes}
        if (names and len(same) > 1) or (partial and len(shapes) > 1):
            raise UsageError(
                f"{where}: ranks hold {' and '.join(str(list(s)) for s in sorted(shapes)[:4])}: no parts of one"
            )
        zigzag = next((group for group in axis.groups if group.sharing is Sharing.ZIGZAG), None)
        if zigzag is not None and (len(shapes) > 1 or next(iter(shapes))[axis.place] % 2):
            raise UsageError(f"{where}: {zigzag.name}:zigzag: each rank has two parts of the same size: an even number")

    def _repeated_parts(self, node: Node, held: Sequence[Held], axis: SharedAxis) -> list[Copies]:
        """What is found of matrices of which neighbouring ranks hold the same, as K and V of few heads."""
        if not axis.parts:
            return []
        (group,) = (group for group in axis.groups if group.sharing is not Sharing.PARTIAL)
        found = []
        for ranks in by_group(held, group.name):
            split = part_widths(ranks[0].values.shape[axis.place], axis.parts, len(ranks))
            assert split is not None, "checked with the axes"
            matrices = split_parts([one.values for one in ranks], axis.place, axis.parts)
            for parts in matrices[len(axis.parts) > 1 :] if split[1] > 1 else []:
                for first in range(0, len(ranks), split[1]):
                    near = range(first, first + split[1])
                    copies = {ranks[n].ranks[0]: np.ascontiguousarray(parts[n], np.float32) for n in near}
                    found.append(self.judge.judge(node, copies))
        return found

    def _without_padding(
        self, values: Floats, node: Node, dims: Dims, axes: Sequence[SharedAxis], where: str
    ) -> tuple[Floats, int]:
        """The rows of tokens, without those that make tokens divide by the ranks that share them."""
        rows = next((axis for axis in axes if axis.place == 0 and _has_parts(axis)), None)
        tokens = self.source.token_count
        if rows is None or self.graph[node.stage].is_attention_map:
            return values, 0
        if tokens is None:
            raise UsageError(
                f"{where}: ranks share the tokens, and how many there are is not known: some rows may be padding: give "
                "tokens: N, or their ids, in a file for --dims"
            )
        extra = len(values) - tokens
        pieces = 2 * len(self.source.ranks)
        if extra < 0 or extra >= max(pieces, 2):
            raise UsageError(
                f"{where}: ranks hold {len(values)} rows together, of {tokens} tokens: dims {dims.text!r}?"
            )
        return (values[:tokens], extra) if extra else (values, 0)

    def _of_chosen(self, node: Node, values: Floats) -> Floats:
        """Of a stage that ranks hold expert by expert, the experts that each token chose."""
        stage, config = self.graph[node.stage], self.graph.config
        if not _is_by_expert(stage, values, self.graph):
            return values
        assert config is not None
        choices = self._choices.get(node.layer)
        if choices is None:
            raise UsageError(
                f"{self.source.path}: {node}: is there by expert: {ROUTER_CHOICE} is needed to tell the chosen"
            )
        by_expert = values.reshape(len(values), config.experts, -1)
        taken = np.take_along_axis(by_expert, choices.astype(np.intp)[:, :, None], axis=1)
        return np.ascontiguousarray(taken.reshape(len(values), -1))

    def _require_width(self, node: Node, values: Floats, where: str) -> None:
        stage = self.graph[node.stage]
        own = values.shape[0] if stage.is_attention_map else values.shape[-1]
        if self.graph.config is not None and own != stage.width:
            raise UsageError(f"{where}: ranks have {own} together, the model has {stage.width}: describe it otherwise")


def _is_by_expert(stage: Stage, values: Floats, graph: StageGraph) -> bool:
    config = graph.config
    return (
        config is not None
        and stage.chosen > 1
        and stage.column_axis == "channel"
        and values.shape[-1] != stage.width
        and values.shape[-1] == stage.width // stage.chosen * config.experts
    )


def _has_parts(axis: SharedAxis) -> bool:
    return any(group.sharing is not Sharing.PARTIAL for group in axis.groups)


def _determined(name: str, spoken: Collection[str], held: Sequence[RankHoldings]) -> bool:
    """Whether the number in a group follows from those in the groups that are spoken of."""
    seen: dict[tuple[int, ...], int] = {}
    return all(
        seen.setdefault(tuple(one.numbers[other] for other in sorted(spoken)), one.numbers[name]) == one.numbers[name]
        for one in held
    )
