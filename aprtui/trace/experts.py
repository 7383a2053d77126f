"""How the router of a layer spreads its tokens over the experts: each expert's load, and how sure the router is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.graph.config import ExpertGroups, GroupScore
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ROUTER, ROUTER_CHOICE
from aprtui.trace.graph.stage_graph import StageGraph

_Float = TypeVar("_Float", np.float32, np.float64)

ROUTER_STAGES = (ROUTER, ROUTER_CHOICE)
"""The stages that the use of experts is counted from."""

_MOST_EXPERTS = 1 << 16
"""More than any model has: a damaged manifest must not make a table of that size."""


def group_scores(values_NE: NDArray[_Float], groups: ExpertGroups) -> NDArray[_Float]:
    """What each token chooses its groups by, `[N, groups]`, of what it chooses experts by. NaN counts as −∞."""
    grouped = np.nan_to_num(values_NE, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    grouped = np.sort(grouped.reshape(len(values_NE), groups.count, -1), axis=-1)
    if groups.score is GroupScore.LARGEST:
        return grouped[..., -1]
    with np.errstate(invalid="ignore"):
        return np.asarray(grouped[..., -1] + grouped[..., -2])


def in_groups(values_NE: NDArray[np.float32], groups: ExpertGroups) -> NDArray[np.bool_]:
    """Which experts each token may choose, `[N, E]`: those of its best groups, of equally good ones the first."""
    best = np.argsort(-group_scores(values_NE, groups), axis=-1, kind="stable")[:, : groups.used]
    chosen = np.zeros((len(values_NE), groups.count), np.bool_)
    np.put_along_axis(chosen, best, True, axis=-1)
    return np.repeat(chosen, values_NE.shape[1] // groups.count, axis=-1)


@dataclass(frozen=True, slots=True)
class ExpertUse:
    """What the tokens of a layer chose, in the chosen slots of all tokens.

    `load` is the share of the slots that each expert has, of all slots that name an expert; `dropped` slots name none,
    as engines with a limit for each expert write them. `entropy` is that of the router's probabilities in nats (of what
    a sigmoid gives each expert: as shares of the sum), the mean over tokens, at most `most_entropy`; NaN where no
    router is known, or none of its rows are probabilities.
    """

    slots: int
    load: tuple[float, ...]
    dropped: int
    entropy: float

    @property
    def experts(self) -> int:
        return len(self.load)

    @property
    def busiest(self) -> int:
        """The expert that is chosen most often; the first of several."""
        return max(range(self.experts), key=self.load.__getitem__)

    @property
    def never_chosen(self) -> int:
        return sum(share == 0 for share in self.load)

    @property
    def even(self) -> float:
        """The load of each expert if all had the same."""
        return 1 / self.experts

    @property
    def most_entropy(self) -> float:
        """The entropy of a router that finds all experts equally likely."""
        return math.log(self.experts)


class ExpertCounts:
    """Counts the choices of `layers`, piece by piece. Rows of several layers can be counted in one call.

    `logits`: what routers give are no probabilities yet.
    """

    def __init__(self, layers: int, experts: int, *, logits: bool = False) -> None:
        self._logits = logits
        self.counts: NDArray[np.int64] = np.zeros((layers, experts), np.int64)
        self.dropped: NDArray[np.int64] = np.zeros(layers, np.int64)
        self._entropy: NDArray[np.float64] = np.zeros(layers)
        """Summed over `_routed` tokens of each layer."""
        self._routed: NDArray[np.int64] = np.zeros(layers, np.int64)

    def add_choices(self, layers: NDArray[np.int64], chosen: NDArray[np.float32]) -> None:
        """Count the experts `[rows, chosen]` of tokens in `layers` `[rows]`; what is no index of one is dropped."""
        count, experts = self.counts.shape
        named = (chosen >= 0) & (chosen < experts) & (chosen == np.floor(chosen))
        places = (layers[:, None] * experts + np.where(named, chosen, 0).astype(np.int64))[named]
        self.counts += np.bincount(places, minlength=self.counts.size).reshape(self.counts.shape)
        self.dropped += np.bincount(layers, (~named).sum(axis=1), count).astype(np.int64)

    def add_routers(self, layers: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Take in the probabilities `[rows, experts]` of tokens in `layers` `[rows]`, or their logits.

        Rows that are no probabilities (negative, NaN, of sum 0) do not count, nor logits that are not finite.
        """
        wide = values.astype(np.float64)
        if self._logits:
            with np.errstate(invalid="ignore", over="ignore"):
                wide = np.exp(wide - wide.max(axis=1, keepdims=True))
        totals = wide.sum(axis=1)
        usable = (wide >= 0).all(axis=1) & np.isfinite(totals) & (totals > 0)
        share, of = wide[usable] / totals[usable, None], layers[usable]
        entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
        self._entropy += np.bincount(of, entropy, self._entropy.size)
        self._routed += np.bincount(of, minlength=self._routed.size)

    @property
    def entropy(self) -> NDArray[np.float64]:
        """The mean entropy `[layers]`; NaN where no router was taken in."""
        with np.errstate(invalid="ignore"):
            return self._entropy / self._routed

    def use(self, layer: int) -> ExpertUse:
        """The figures of one layer."""
        return expert_use(self.counts[layer], int(self.dropped[layer]), float(self.entropy[layer]))


def expert_use(counts: NDArray[np.integer], dropped: int, entropy: float) -> ExpertUse:
    """The figures of `counts` `[experts]`: loads of 0 where nothing was chosen."""
    named = int(counts.sum())
    load = tuple((counts / max(named, 1)).tolist())
    return ExpertUse(named + dropped, load, dropped, entropy)


def most_uneven(uses: Sequence[ExpertUse]) -> int:
    """The index of the one with the busiest expert; the first of several."""
    return max(range(len(uses)), key=lambda index: max(uses[index].load))


def expert_words(use: ExpertUse) -> list[str]:
    """The figures in a few words each, the most telling first."""
    words = [f"load max {_percent(use.load[use.busiest])} (even: {_percent(use.even)})"]
    if not math.isnan(use.entropy):
        words.append(f"entropy {use.entropy:.2f} of {use.most_entropy:.2f}")
    words.append(f"never chosen: {use.never_chosen} of {use.experts}")
    words += [f"{use.dropped} dropped"] if use.dropped else []
    return [*words, f"busiest: {use.busiest}", f"{use.slots} choices"]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def router_gives_logits(graph: StageGraph) -> bool:
    """Whether the experts of `graph` are chosen by logits, of which only the chosen ones' become probabilities."""
    return ROUTER in graph and graph[ROUTER].op not in (Op.ROUTER_SOFTMAX, Op.SIGMOID)


def counted_experts(graph: StageGraph) -> int:
    """How many experts the layers of `graph` choose from; 0 where they have none, or where it is not known."""
    width = graph[ROUTER].width if ROUTER in graph else 0
    return width if width <= _MOST_EXPERTS else 0
