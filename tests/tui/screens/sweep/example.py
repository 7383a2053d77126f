"""Results of a sweep as the screen reads them: eight prompts, three pairs, one engine that errs at every third."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from aprtui.resources import embedded_model
from aprtui.sweep.folder import SweepFolder
from aprtui.sweep.results import RESULTS, ROLLUP, ResultRow, RollupRow
from aprtui.trace.aprt import write_atomically
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import changed, write_capture

FAULT = Node(1, "ffn_gate")
HEADLINE = "layer 1 ffn_gate, token 0: looks like 1 channel alone: 0"
AGAIN = "aprtui trace model.gguf --tokens 1,2 --save-tensor-dir made-again"
PASSING = ResultRow(
    "tiny", str(embedded_model()), 0, "def fib(n):", 5, "exact × fast", "exact", "fast", "floor", "0" * 32, "PASS",
    "every compared stage is bit-equal", None, None, None, None, None, None, 54, 54, 0.5, "", "", "", f"{AGAIN}-exact",
    f"{AGAIN}-fast",
)  # fmt: skip
FAILING = replace(
    PASSING, pair="exact × mine", b="mine", verdict="FAIL", headline=HEADLINE, layer=FAULT.layer, stage=FAULT.stage,
    metric="token_rel_l2", error=0.31, floor=1.1e-7, bound=3.3e-7, again_b="./mine --tokens 1,2",
)  # fmt: skip
UNKNOWN = replace(
    PASSING, pair="other replayed", a="", b="other", judge="replay", verdict="UNKNOWN", compared=0, expected=0,
    headline="other: ./other: exit code 1: no such kernel", problem="other: ./other: exit code 1: no such kernel",
    again_a="", again_b="./other --tokens 1,2",
)  # fmt: skip


def write_results(path: Path, prompts: int = 8) -> Path:
    """A folder of results; the captures of the first failing cell are there."""
    folder = SweepFolder(path)
    rows = []
    for prompt in range(prompts):
        text = f"def function_{prompt}(n):"
        mine = FAILING if prompt % 3 == 1 else replace(PASSING, pair=FAILING.pair, b="mine")
        replayed = UNKNOWN if prompt == 5 else replace(UNKNOWN, verdict="PASS", problem="", headline=PASSING.headline)
        if prompt == 1:
            mine = replace(mine, capture_a="captures/a", capture_b="captures/b")
        rows += [replace(row, prompt=prompt, text=text) for row in (PASSING, mine, replayed)]
    stages = [
        RollupRow("tiny", "exact × mine", "mine", 1, "ffn_gate", prompts, 3, 3, 0, 3 / prompts, 2.8e6, 1),
        RollupRow("tiny", "exact × mine", "mine", 1, "ffn_silu", prompts, 0, 3, 0, 3 / prompts, 9.1e5, 1),
        RollupRow("tiny", "exact × fast", "fast", None, "lm_head", prompts, 0, 0, 0, 0.0, 0.8, 2),
    ]
    write_capture(folder.capture("a"))
    write_capture(folder.capture("b"), edits={FAULT: changed((0, 0), 99.0)})
    (path / "verdicts").mkdir()
    write_lines(path / f"{RESULTS}.jsonl", rows)
    write_lines(path / f"{ROLLUP}.jsonl", stages)
    return path


def write_lines(path: Path, rows: list[ResultRow] | list[RollupRow]) -> None:
    write_atomically(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
