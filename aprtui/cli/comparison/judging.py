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
            from aprtui.recordings.captures.stand_in import open_capture

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
        from aprtui.engine.judging import judged_by_floor

        return judged_by_floor(a, b, requested_model(self.model), options.tokens, progress)

    def _by_replay(self, a: Capture, b: Capture, options: DiffOptions, progress: Progress) -> tuple[Criteria, Tokens]:
        from aprtui.engine.judging import Replaying, Side, judged_by_replay
        from aprtui.engine.replay.arithmetic import parse_rounding

        # Where only one side's model is given, the other side is not replayed.
        alone = bool(self.model_a) != bool(self.model_b)
        of_a = None if alone and self.model_b else requested_model(self.model_a or self.model)
        of_b = None if alone and self.model_a else requested_model(self.model_b or self.model)
        rounding = parse_rounding(self.rounding) if self.rounding else {}
        return judged_by_replay(Side(a, of_a), Side(b, of_b), Replaying(options, rounding), progress)
