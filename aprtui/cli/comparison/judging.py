"""How `aprtui diff` judges: the options of the command line, and the criteria that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aprtui.cli.options import requested_model
from aprtui.errors import UsageError
from aprtui.progress import Progress

if TYPE_CHECKING:
    from aprtui.compare.captures import Criteria, DiffOptions
    from aprtui.compare.comparison import Comparison
    from aprtui.compare.policy import Policy
    from aprtui.trace.capture import Capture

Tokens = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Judging:
    """The options of the command line; at most one way of judging beside the user's own bounds."""

    floor: Path | None
    model: Path | None
    model_a: Path | None
    model_b: Path | None
    replay: bool
    rounding: str

    @property
    def given(self) -> bool:
        return bool(self.floor or self.model or self.model_a or self.model_b or self.replay or self.rounding)

    def words(self) -> list[str]:
        """The options as they would be typed again."""
        named = (("--floor", self.floor), ("--model", self.model), ("--model-a", self.model_a))
        words = [word for name, path in (*named, ("--model-b", self.model_b)) if path for word in (name, str(path))]
        return words + (["--replay"] if self.replay else []) + (["--rounding", self.rounding] if self.rounding else [])

    def criteria(
        self, a: Capture, b: Capture, options: DiffOptions, policy: Policy | None, progress: Progress
    ) -> tuple[Criteria, Tokens]:
        """The criteria of the comparison, and the token ids: the user's, or those that were found by the model.

        Raises `UsageError` for options that contradict each other.
        """
        from aprtui.compare.captures import Criteria

        self._check(policy is not None or bool(options.tolerances))
        if policy is not None:
            return Criteria(bounds=policy.tolerances), options.tokens
        if self.floor is not None:
            from aprtui.compare.floor import reference_criteria
            from aprtui.recordings.captures.as_capture import open_capture

            return reference_criteria(a, open_capture(self.floor), options.tokens, progress), options.tokens
        if self.replay or self.model_a or self.model_b:
            return self._by_replay(a, b, options, progress)
        if self.model is not None:
            return self._by_model(a, b, options, progress)
        return Criteria(), options.tokens

    def _check(self, bounded: bool) -> None:
        if self.model and (self.model_a or self.model_b):
            raise UsageError("--model is of both sides: leave out --model-a and --model-b")
        if self.floor and (self.model or self.model_a or self.model_b or self.replay):
            raise UsageError("--floor and --model or --replay: choose one of them to judge by")
        if bounded and (self.floor or (self.model and not self.replay)):
            raise UsageError("--tolerance and --policy are bounds of your own: leave out --floor and --model")
        if self.rounding and not (self.replay or self.model_a or self.model_b):
            raise UsageError("--rounding says how to replay: give --replay as well")

    def _by_model(self, a: Capture, b: Capture, options: DiffOptions, progress: Progress) -> tuple[Criteria, Tokens]:
        from aprtui.compare.captures import Criteria
        from aprtui.engine.floors.criteria import criteria_by_model
        from aprtui.engine.replay.evaluators import Evaluators
        from aprtui.engine.replay.token_ids import known_tokens

        model = requested_model(self.model)
        tokens = known_tokens(a, b, model, options.tokens)
        if tokens is None:
            return Criteria(), options.tokens
        with Evaluators(model, progress=progress) as evaluators:
            return criteria_by_model(a, b, model, tokens, evaluators, progress), tokens

    def _by_replay(self, a: Capture, b: Capture, options: DiffOptions, progress: Progress) -> tuple[Criteria, Tokens]:
        from aprtui.engine.replay.replay import criteria_by_replay

        of_a = self._replayed(a, self.model_a, other=self.model_b, options=options, progress=progress)
        of_b = self._replayed(b, self.model_b, other=self.model_a, options=options, progress=progress)
        # What a replay has found out is for the sides that record no ids; those that do may differ from it.
        sides = [(capture.tokens, side[1]) for capture, side in ((a, of_a), (b, of_b)) if side is not None]
        found = next((tokens for recorded, tokens in sides if recorded is None and tokens), options.tokens)
        if any(capture.tokens not in (None, found) for capture in (a, b)):
            found = options.tokens
        return criteria_by_replay(of_a[0] if of_a else None, of_b[0] if of_b else None), found

    def _replayed(
        self, capture: Capture, own: Path | None, *, other: Path | None, options: DiffOptions, progress: Progress
    ) -> tuple[Comparison, Tokens] | None:
        """The replay of one side with its own model, and the token ids that were used; None where only the other
        side's model was given."""
        if own is None and other is not None:
            return None
        from aprtui.engine.replay.arithmetic import parse_rounding
        from aprtui.engine.replay.evaluators import Evaluators
        from aprtui.engine.replay.replay import ReplayOptions, replay_capture
        from aprtui.engine.replay.token_ids import known_tokens

        model = requested_model(own or self.model)
        replay_options = ReplayOptions(
            selection=options.selection,
            rounding=parse_rounding(self.rounding) if self.rounding else {},
            bounds=(lambda node: options.tolerances) if options.tolerances else None,
            allow_missing=options.allow_missing,
            tokens=options.tokens,
            limit=options.limit,
        )
        with Evaluators(model, progress=progress) as evaluators:
            comparison = replay_capture(capture, model, replay_options, evaluators, progress)
            return comparison, known_tokens(capture, capture, model, options.tokens)
