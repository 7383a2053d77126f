"""Judge the bugs that were written by hand: `python -m tests.bugs FOLDER [--only WORDS] [--quick | --logits]
[--json FILE]`.

FOLDER holds the GGUF files of the real models. A line a bug, then the totals; `--json` writes what was said of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from tests.bugs.judge import Judged, Kept, Outcome, judged_bugs
from tests.bugs.table import BUGS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bugs", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of the real models")
    parser.add_argument("--only", default="", help="bugs whose name or model contains this")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--quick", dest="kept", action="store_const", const=Kept.QUICK, default=Kept.WHOLE,
                      help="judge the first layers and those of a fault only")  # fmt: skip
    kept.add_argument("--logits", dest="kept", action="store_const", const=Kept.LOGITS,
                      help="judge by the logits of the last token alone")  # fmt: skip
    parser.add_argument("--json", type=Path, help="a line of JSON a bug, with all that was said")
    options = parser.parse_args()
    chosen = [bug for bug in BUGS if options.only in f"{bug.name} {bug.model}"]
    counts: Counter[Outcome] = Counter()
    for judged in judged_bugs(options.folder, chosen, options.kept):
        counts[judged.outcome] += 1
        print(f"{judged.outcome:18}  {judged.bug.model:18}  {judged.bug.name}\n{'':20}{judged.said}", flush=True)
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps(record(judged)) + "\n")
    print(", ".join(f"{outcome} {counts[outcome]}" for outcome in Outcome), f"of {len(chosen)}")
    sys.exit(0 if counts[Outcome.WRONG] == 0 else 1)


def record(judged: Judged) -> dict[str, object]:
    return {
        "bug": judged.bug.name, "model": judged.bug.model, "outcome": judged.outcome, "said": judged.said,
        "causes": judged.causes, "wrong": judged.wrong,
    }  # fmt: skip


if __name__ == "__main__":
    main()
