"""Whether two choices of experts differ by more than the probabilities that they were made from explain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.deviations import GROUPS_BY_TWO
from aprtui.compare.metrics.blocks import Values
from aprtui.compare.metrics.logits import measure_indices
from aprtui.compare.verdict import StageVerdict, Verdict, judge_indices
from aprtui.compare.wording import counted
from aprtui.trace.experts import group_scores
from aprtui.trace.graph.config import ExpertGroups, GroupScore
from aprtui.trace.graph.stage import Node

ROUTER_NOISE = 2e-6
"""How far two honest float32 routers are apart at most, relative L2 of a token."""


def judge_choice(
    node: Node, a: Values, b: Values, router: Values, other: Values, noise: float = ROUTER_NOISE,
    *, any_order: bool = False, groups: ExpertGroups | None = None,
) -> StageVerdict:  # fmt: skip
    """The verdict on the experts `b` `[tokens, K]` against `a`, chosen by the probabilities `other` and `router`.

    Experts whose probabilities in `router` are closer than the two routers are apart at that token, or than `noise` as
    a share of its norm, may stand for one another: which of them is the larger is decided before the choice. The
    routers themselves are judged at their own stage. No token may have an expert twice. `any_order`: what is made of
    the chosen ones is judged in the order of `b`, so that the same experts in another order are no other choice. With
    `groups`, groups whose scores are that close may stand for one another as well: each side is held against the best
    experts of the groups that it used.
    """
    verdict = judge_indices(node, measure_indices(a, b))
    if verdict.verdict is not Verdict.FAIL or not _are_explained(
        a, b, router, other, noise, any_order, groups
    ):  # fmt: skip
        return verdict
    if any_order and np.array_equal(np.sort(a, axis=1), np.sort(b, axis=1)):
        return replace(verdict, verdict=Verdict.PASS, reason="the same experts in another order")
    reason = f"{counted(int(np.count_nonzero(a != b)), 'choice')} between experts that the routers find equally likely"
    return replace(verdict, verdict=Verdict.PASS, reason=reason)


def judge_choice_of_groups(
    node: Node, a: Values, b: Values, router: Values, other: Values, groups: ExpertGroups | None
) -> StageVerdict:
    """As `judge_choice`, of two engines: one that scores its groups by their two largest numbers, which llama.cpp does
    whatever the model says, is no wrong one where that explains the choice of every token."""
    verdict = judge_choice(node, a, b, router, other, groups=groups)
    if groups is None or groups.score is GroupScore.TWO_LARGEST or verdict.verdict is not Verdict.FAIL:
        return verdict
    by_two, slack = replace(groups, score=GroupScore.TWO_LARGEST), _slack(router, other, ROUTER_NOISE)
    if not all(_are_experts(side, router.shape[1]) for side in (a, b)):
        return verdict
    own, theirs = (
        [_all_are_best(side, router, slack, score, range(len(side))) for side in (a, b)] for score in (groups, by_two)
    )
    if not all(fits or fits_two for fits, fits_two in zip(own, theirs, strict=True)):
        return verdict
    sides = " and ".join(side for side, fits in zip("AB", own, strict=True) if not fits)
    return replace(verdict, verdict=Verdict.PASS, reason=GROUPS_BY_TWO.said(f" in {sides}"))


def _are_explained(
    a: Values, b: Values, router: Values, other: Values, noise: float, any_order: bool, groups: ExpertGroups | None
) -> bool:
    wide, slack = router.astype(np.float64), _slack(router, other, noise)
    if not all(_are_experts(side, router.shape[1]) for side in (a, b)):
        return False
    if groups is not None:
        differing = np.flatnonzero((a != b).any(axis=1)).tolist()
        return all(_all_are_best(side, router, slack, groups, differing) for side in (a, b))
    chosen_a, chosen_b = (np.take_along_axis(wide, side.astype(np.int64), axis=1) for side in (a, b))
    if any_order:
        chosen_a, chosen_b = np.sort(chosen_a, axis=1), np.sort(chosen_b, axis=1)
    return bool((np.abs(chosen_a - chosen_b) <= slack[:, None]).all())


def _slack(router: Values, other: Values, noise: float) -> NDArray[np.float64]:
    """How much nearer to each other two numbers of a token may be than `router` has them, `[tokens]`."""
    wide = router.astype(np.float64)
    apart = np.linalg.norm(wide - other, axis=1)
    return np.asarray(np.sqrt(2) * apart + 2 * noise * np.linalg.norm(wide, axis=1), np.float64)


def _all_are_best(
    choice: Values, router: Values, slack: NDArray[np.float64], groups: ExpertGroups, tokens: Iterable[int]
) -> bool:
    return all(
        _is_best_of_groups(
            router[token].astype(np.float64), choice[token].astype(np.int64), float(slack[token]), groups
        )
        for token in tokens
    )


def _is_best_of_groups(
    values: NDArray[np.float64], choice: NDArray[np.int64], slack: float, groups: ExpertGroups
) -> bool:
    """Whether `choice`, in any order, are the best experts of the best groups, by `values` of which any two may be
    `slack` nearer to each other, or farther. (Side B comes in the order of A, where both chose the same.)"""
    allowed = _groups_of(values, choice, slack, groups)
    if allowed is None:
        return False
    best = np.sort(values.reshape(groups.count, -1)[list(allowed)].ravel())[::-1][: len(choice)]
    found = np.sort(values[choice])[::-1]
    return bool((np.abs(best - found) <= slack).all())


def _groups_of(
    values: NDArray[np.float64], choice: NDArray[np.int64], slack: float, groups: ExpertGroups
) -> frozenset[int] | None:
    """The groups that a token with this `choice` may have used, those it needs among them; None where it cannot have.

    Where several groups that it does not need are equally good, those with the least experts: they leave the most room.
    """
    scores = group_scores(values[None], groups)[0]
    apart = slack if groups.score is GroupScore.LARGEST else 2 * slack
    falling = np.sort(scores)[::-1]
    last_in, first_out = falling[groups.used - 1 : groups.used + 1]
    possible = set(np.flatnonzero(scores >= last_in - apart).tolist())
    needed = set((choice // (len(values) // groups.count)).tolist())
    taken = needed | set(np.flatnonzero(scores > first_out + apart).tolist())
    if not needed <= possible or len(taken) > groups.used:
        return None
    largest = values.reshape(groups.count, -1).max(axis=1)
    others = sorted(possible - taken, key=lambda group: float(largest[group]))
    return frozenset(taken) | frozenset(others[: groups.used - len(taken)])


def _are_experts(choice: Values, experts: int) -> bool:
    """Whether each token has `K` experts of those that there are."""
    known: NDArray[np.bool_] = (choice >= 0) & (choice < experts) & (choice == np.floor(choice))
    in_order = np.sort(choice, axis=1)
    return bool(known.all() and (in_order[:, 1:] != in_order[:, :-1]).all())
