"""What two captures are judged by where a model is known: the floor between their engines, or a replay of each side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aprtui.compare.captures import Criteria, DiffOptions
from aprtui.compare.comparison import Comparison
from aprtui.engine.floors.criteria import OtherForm, criteria_by_model
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.form import in_form_of, is_of_other_form
from aprtui.engine.replay.misfit import padding
from aprtui.engine.replay.replay import ReplayOptions, criteria_by_replay, replay_capture
from aprtui.engine.replay.token_ids import known_tokens
from aprtui.model.latent_forms import in_other_form
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.capture import Capture

Tokens = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Side:
    """A capture, and the model that it is replayed with; without one it is not replayed."""

    capture: Capture
    model: Model | None


@dataclass(frozen=True, slots=True)
class Replaying:
    """How sides are replayed: what is compared, what an engine is stated to round, and on how many threads (all by
    default)."""

    options: DiffOptions
    rounding: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None


def judged_by_floor(
    a: Capture, b: Capture, model: Model, tokens: Tokens, progress: Progress, threads: int | None = None
) -> tuple[Criteria, Tokens]:
    """The floor between the engines of `a` and `b` on `model`, and the token ids that were found; `tokens` are those
    that the user gives."""
    found = known_tokens(a, b, model, tokens)
    if found is None:
        return Criteria(), tokens
    is_stated = tokens is not None or a.tokens is not None or b.tokens is not None
    if not is_stated and (padded := padding(model, found)):
        return Criteria(doubts=(padded,), unjudgeable=True), found
    others = [name for name, side in (("A", a), ("B", b)) if is_of_other_form(side, model)]
    if not others:
        with Evaluators(model, threads=threads, progress=progress) as evaluators:
            return criteria_by_model(a, b, model, found, evaluators, progress), found
    other = in_other_form(model, progress)
    with (
        Evaluators(model, threads=threads, progress=progress) as of_file,
        Evaluators(other, threads=threads, progress=progress) as of_other,
    ):
        if len(others) == 2:
            return criteria_by_model(a, b, other, found, of_other, progress), found
        sides = {others[0]: OtherForm(other, of_other)}
        return criteria_by_model(a, b, model, found, of_file, progress, sides), found


def judged_by_replay(a: Side, b: Side, replaying: Replaying, progress: Progress) -> tuple[Criteria, Tokens]:
    """A replay of each side that has a model, and the token ids that were found."""
    of_a, of_b = _replayed(a, replaying, progress), _replayed(b, replaying, progress)
    # What a replay has found out is for the sides that record no ids; those that do may differ from it.
    sides = [(side.capture.tokens, replay[1]) for side, replay in ((a, of_a), (b, of_b)) if replay is not None]
    given = replaying.options.tokens
    found = next((tokens for recorded, tokens in sides if recorded is None and tokens), given)
    if any(side.capture.tokens not in (None, found) for side in (a, b)):
        found = given
    return criteria_by_replay(of_a[0] if of_a else None, of_b[0] if of_b else None), found


def _replayed(side: Side, replaying: Replaying, progress: Progress) -> tuple[Comparison, Tokens] | None:
    """The replay of one side, and the token ids that were used."""
    if side.model is None:
        return None
    options = replaying.options
    replay_options = ReplayOptions(
        selection=options.selection,
        rounding=replaying.rounding,
        bounds=(lambda node: options.tolerances) if options.tolerances else None,
        allow_missing=options.allow_missing,
        tokens=options.tokens,
        limit=options.limit,
    )
    model = in_form_of(side.capture, side.model, progress)
    with Evaluators(model, threads=replaying.threads, progress=progress) as evaluators:
        comparison = replay_capture(side.capture, model, replay_options, evaluators, progress)
        return comparison, known_tokens(side.capture, side.capture, model, options.tokens)
