"""What is wrong with a converted file: one sentence, the stage that it breaks, and how the model would misbehave."""

from __future__ import annotations

from dataclasses import dataclass

from aprtui.compare.verdict import Verdict


@dataclass(frozen=True, slots=True)
class FileFinding:
    """`subject` is a key, a tensor or a part of the tokenizer; `stage` the first one that it breaks, empty for what
    changes tokens and no number. UNKNOWN findings could not be judged, or may be meant."""

    verdict: Verdict
    subject: str
    said: str
    stage: str = ""
    symptom: str = ""
