"""The check of a model file without any capture, by itself or against what it was converted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aprtui.compare.verdict import Verdict
from aprtui.conversion.checkpoint import Checkpoint
from aprtui.conversion.finding import FileFinding
from aprtui.conversion.hyperparameters import hyperparameter_findings
from aprtui.conversion.sanity import metadata_findings, value_findings
from aprtui.conversion.tensors import tensor_findings
from aprtui.conversion.tokens import token_findings
from aprtui.model.model import Model
from aprtui.progress import Progress


@dataclass(frozen=True, slots=True)
class FileCheck:
    """All findings, those about numbers in the order of the forward pass, and the verdict that follows.

    UNKNOWN findings of a check without a folder are remarks: nothing there could be compared, and they fail nothing.
    """

    findings: tuple[FileFinding, ...]
    against: Path | None

    @property
    def verdict(self) -> Verdict:
        verdicts = {finding.verdict for finding in self.findings}
        if Verdict.FAIL in verdicts:
            return Verdict.FAIL
        return Verdict.UNKNOWN if verdicts else Verdict.PASS


def check_model(model: Model, folder: Path | None, progress: Progress) -> FileCheck:
    """Check `model` by itself and, where `folder` is given, against that of a Hugging Face model.

    Raises `UnreadableError` for a folder that has no configuration, or a damaged file.
    """
    found: list[FileFinding] = []
    if folder is None:
        found += [*metadata_findings(model), *value_findings(model, progress)]
    else:
        checkpoint = Checkpoint(folder)
        found += hyperparameter_findings(model, checkpoint)
        found += token_findings(model, checkpoint)
        found += tensor_findings(model, folder, progress)
    return FileCheck(_in_order(model, found), folder)


def _in_order(model: Model, findings: Sequence[FileFinding]) -> tuple[FileFinding, ...]:
    """FAIL first, then by the stage that breaks first."""
    places = {stage.name: place for place, stage in enumerate(model.graph.stages)}
    last = len(places)
    return tuple(sorted(findings, key=lambda f: (f.verdict is not Verdict.FAIL, places.get(f.stage, last))))
