"""What putting ranks together gives: a verdict on their copies, and a capture."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted, number_text
from aprtui.errors import UnreadableError, printable
from aprtui.importing.ranks.assembly import Assembler
from aprtui.importing.ranks.copies import Copies, CopyState
from aprtui.importing.ranks.description import FILE_NAME, RankDescription, read_description
from aprtui.importing.ranks.sources import RankedSource, read_ranks
from aprtui.importing.reading import ImportRequest
from aprtui.importing.writing import new_capture
from aprtui.progress import Progress
from aprtui.trace.aprt import write_aprt, write_atomically
from aprtui.trace.capture import PROVENANCE
from aprtui.trace.graph.names import graph_from_names
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.manifest import relative_path
from aprtui.trace.rank_parts import RANKS, RANKS_DIFFER, RankParts, rank_parts_text


@dataclass(frozen=True, slots=True)
class RankedStage:
    """A stage that was put together: how its ranks share it, and what was found of its copies."""

    node: Node
    dims: str
    shape: tuple[int, ...]
    copies: Copies | None
    padding: int


@dataclass(frozen=True, slots=True)
class RankReport:
    """What was found of all ranks. `missing` says what could not be put together, `sizes` are those of the groups."""

    path: Path
    ranks: tuple[int, ...]
    sizes: Mapping[str, int]
    stages: tuple[RankedStage, ...]
    missing: tuple[str, ...]
    tokens: tuple[int, ...] | None
    token_count: int | None

    def _with(self, state: CopyState) -> list[RankedStage]:
        return [stage for stage in self.stages if stage.copies is not None and stage.copies.state is state]

    @property
    def parting(self) -> list[RankedStage]:
        """The stages whose copies part, in execution order."""
        return self._with(CopyState.PARTS)

    @property
    def verdict(self) -> Verdict:
        """FAIL where ranks part; UNKNOWN where that is not settled, or where nothing is there twice."""
        if self.parting:
            return Verdict.FAIL
        compared = any(stage.copies is not None for stage in self.stages)
        return Verdict.PASS if compared and not self._with(CopyState.UNSETTLED) else Verdict.UNKNOWN

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        if self.parting:
            return parting_sentence(self.parting)
        unsettled = self._with(CopyState.UNSETTLED)
        if unsettled:
            first = unsettled[0]
            return f"{first.node}: {first.copies.words if first.copies else ''}"
        copied = [stage for stage in self.stages if stage.copies is not None]
        if not copied:
            return "no stage is there on several ranks: nothing says whether they agree"
        rounded = self._with(CopyState.ROUNDING)
        text = f"copies of {counted(len(copied), 'stage tensor')} on {counted(len(self.ranks), 'rank')} are equal"
        if not rounded:
            return text
        worst = max(rounded, key=lambda stage: stage.copies.distance if stage.copies else 0.0)
        assert worst.copies is not None
        return (
            f"{text}, {len(rounded)} of them but for the rounding of sums: {worst.node} by "
            f"{number_text(worst.copies.distance)}, within {number_text(worst.copies.bound)}"
        )


def parting_sentence(parting: list[RankedStage]) -> str:
    """Which rank parts where first, by how much, and at how many stages after that."""
    first = parting[0]
    copies = first.copies
    assert copies is not None
    others = [rank for rank in copies.ranks if rank not in copies.parting]
    who = _ranks_text(copies.parting)
    verb = "parts" if len(copies.parting) == 1 else "part"
    if copies.settled:
        text = f"{who} {verb} at {first.node}"
    else:
        text = f"{_ranks_text(others)} and {who} part at {first.node}, and nothing here says which is right"
    reason = copies.words or f"{number_text(copies.distance)} of its size, beyond {number_text(copies.bound)}"
    more = f"; and at {counted(len(parting) - 1, 'stage tensor')} after it" if len(parting) > 1 else ""
    return f"{text}: {reason}{more}"


def _ranks_text(ranks: tuple[int, ...] | list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


def description_of(path: Path, given: Path | None) -> RankDescription:
    """The description that is given, else the one that lies with the ranks, else an empty one."""
    own = path / FILE_NAME
    if given is not None:
        return read_description(given)
    return read_description(own) if own.is_file() else RankDescription()


def graph_of(source: RankedSource, request: ImportRequest) -> StageGraph:
    """The graph of the model that was run, or one of the stages that there are."""
    if request.graph is not None:
        return request.graph
    nodes = {node for one in source.ranks for node in one.tensors}
    return graph_from_names({node.stage for node in nodes}, 1 + max((node.layer or 0 for node in nodes), default=0))


def join_ranks(
    path: Path, directory: Path | None, request: ImportRequest, description: RankDescription, progress: Progress,
    *, overwrite: bool = False,
) -> RankReport:  # fmt: skip
    """Put the ranks in `path` together, stage by stage, and write the capture to `directory` if there is one.

    Raises `UsageError` for what is not described, `UnreadableError`, `EngineError`.
    """
    source = read_ranks(path, request, description)
    assembler = Assembler(source, description, graph_of(source, request))
    stages: list[RankedStage] = []
    parts: list[tuple[Node, RankParts]] = []
    with ExitStack() as stack:
        folder = None if directory is None else stack.enter_context(new_capture(directory, overwrite))
        for found in assembler.stages():
            progress("putting ranks together", len(stages), len(assembler.nodes))
            stages.append(RankedStage(found.node, found.dims.text, found.values.shape, found.copies, found.padding))
            if found.owners:
                parts.append((found.node, RankParts(found.axis, found.owners)))
            if folder is not None:
                write_aprt(folder / relative_path(found.node), found.node.layer, found.values)
        report = RankReport(
            path, tuple(one.rank for one in source.ranks), source.sizes, tuple(stages), tuple(assembler.missing),
            source.tokens, source.token_count or _token_count(stages, assembler.graph),
        )  # fmt: skip
        if not stages:
            reason = f": {assembler.missing[0]}" if assembler.missing else ""
            raise UnreadableError(f"{path}: no stage could be put together{reason}")
        if folder is not None:
            _write_provenance(folder, source, report, request.model_name, rank_parts_text(parts))
    return report


def _token_count(stages: list[RankedStage], graph: StageGraph) -> int | None:
    counts = {
        stage.shape[0] for stage in stages if len(stage.shape) == 2 and not graph[stage.node.stage].of_last_position
    }  # fmt: skip
    return counts.pop() if len(counts) == 1 else None


def _write_provenance(folder: Path, source: RankedSource, report: RankReport, model: str, parts: str) -> None:
    lines = {**({"model": model} if model else {}), **source.facts}
    lines |= {"tokens": str(list(report.tokens))} if report.tokens else {}
    lines |= {"token_count": str(report.token_count)} if report.token_count else {}
    lines |= {"ranks_from": str(source.path), "groups": ", ".join(f"{name} {n}" for name, n in report.sizes.items())}
    lines |= {RANKS: parts} if parts else {}
    lines |= {RANKS_DIFFER: report.headline} if report.verdict is not Verdict.PASS and report.parting else {}
    text = "".join(f"{key}: {printable(value)}\n" for key, value in lines.items())
    write_atomically(folder / PROVENANCE, f"# ranks of one model, put together\n{text}".encode())
