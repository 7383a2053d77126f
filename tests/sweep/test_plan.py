"""Plans: what they mean, and how anything else is refused, with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aprtui.errors import UsageError
from aprtui.resources import embedded_model
from aprtui.sweep.engines.command import CommandEngine
from aprtui.sweep.engines.oracles import LlamaCppEngine, TransformersEngine
from aprtui.sweep.engines.own import BackendEngine
from aprtui.sweep.plan import JudgedBy, read_plan

GOOD = """\
models: {tiny: embedded}
prompts:
  - "def f(n):"
engines:
  exact: {backend: numpy}
  q8: {backend: numpy, mode: q8, kv: f16, decode_from: 1, inject: ["layer=1,stage=ffn_up,kind=zero-channel"]}
  hf: {oracle: transformers, dtype: bfloat16, attention: sdpa}
  llama: {oracle: llamacpp, flash_attention: true, kv: q8_0}
  mine: {command: "./engine -m {model} -o {out}", version: "7", gpus: 1}
pairs:
  - {a: exact, b: q8}
  - {a: exact, b: hf, judge: replay}
  - {a: exact, b: llama, tolerance: [rel_l2=0.01], allow_missing: [ffn_silu]}
  - {replay: mine}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text(text)
    return path


def test_a_plan_names_models_prompts_engines_and_pairs(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, GOOD))
    assert plan.models == {"tiny": embedded_model()}
    assert [prompt.text for prompt in plan.prompts] == ["def f(n):"]
    kinds = {name: type(engine) for name, engine in plan.engines.items()}
    expected = (BackendEngine, BackendEngine, TransformersEngine, LlamaCppEngine, CommandEngine)
    assert kinds == dict(zip(("exact", "q8", "hf", "llama", "mine"), expected, strict=True))
    assert [plan.engines[name].gpus for name in kinds] == [0, 0, 0, 0, 1]
    assert [pair.judge for pair in plan.pairs] == [JudgedBy.FLOOR, JudgedBy.REPLAY, JudgedBy.BOUNDS, JudgedBy.REPLAY]
    assert [pair.name for pair in plan.pairs] == ["exact × q8", "exact × hf", "exact × llama", "mine replayed"]


def test_prompts_come_from_lines_and_from_objects(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("first\n\nsecond\n")
    (tmp_path / "data.jsonl").write_text(json.dumps({"q": "third"}) + "\n" + json.dumps({"q": [4, 5]}) + "\n")
    entries = "  - {file: lines.txt}\n  - {jsonl: data.jsonl, field: q}\n  - {tokens: [6]}\n"
    prompts = read_plan(written(tmp_path, GOOD.replace('  - "def f(n):"\n', entries))).prompts
    assert [(prompt.text, prompt.tokens) for prompt in prompts] == [
        ("first", None), ("second", None), ("third", None), (None, (4, 5)), (None, (6,)),
    ]  # fmt: skip
    assert prompts[1].where == f"{tmp_path / 'lines.txt'}:3"


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("models: {tiny: embedded}", "model: {tiny: embedded}", 1, "no field 'model': there are models, prompts"),
        ("models: {tiny: embedded}", "models: {tiny: no-such.gguf}", 1, "does not exist: expected a model file"),
        ("models: {tiny: embedded}", "models: {}", 1, "expected names of models"),
        ('- "def f(n):"', "- {chat: true}", 3, "expected one of text, tokens, file, jsonl"),
        ('- "def f(n):"', "- {text: x, system: y}", 3, "a system message is of a chat"),
        ('- "def f(n):"', "- {tokens: [1, x]}", 3, "expected a whole number"),
        ('- "def f(n):"', "- {file: none.txt}", 3, "cannot be read"),
        ("exact: {backend: numpy}", "exact: {backend: auto}", 5, "'auto': expected cuda, cpu, numpy"),
        ("exact: {backend: numpy}", "exact: {mode: q8}", 5, "expected one of backend, oracle, command"),
        ("exact: {backend: numpy}", "exact: {backend: numpy, dtype: float32}", 5, "no field 'dtype'"),
        ("exact: {backend: numpy}", "exact: {backend: numpy}\n  exact: {backend: cpu}", 6, "given twice"),
        ("attention: sdpa}", "kv: f16}", 7, "transformers has no such field: there are dtype, attention"),
        ("-o {out}", "-o here", 9, "expected {out} where the capture goes"),
        ("{a: exact, b: q8}", "{a: exact, b: q9}", 11, "no engine 'q9': there are exact, q8"),
        ("{a: exact, b: q8}", "{a: exact, b: exact}", 11, "exact is on both sides"),
        ("{a: exact, b: q8}", "{a: exact}", 11, "expected a and b"),
        ("tolerance: [rel_l2=0.01]", "tolerance: [speed=1]", 13, "speed"),
        ("tolerance: [rel_l2=0.01]", "tolerance: [rel_l2=0.01], judge: floor", 13, "the bounds are your own"),
        ("  - {replay: mine}\n", "  - {a: exact, b: llama}\n", 9, "no pair has this engine"),
        ("  - {replay: mine}\n", "  - {replay: mine, judge: floor}\n", 14, "a replay is judged by itself"),
    ],
)
def test_what_a_plan_cannot_mean_is_refused_with_its_line(
    tmp_path: Path, before: str, after: str, line: int, said: str
) -> None:
    assert before in GOOD
    path = written(tmp_path, GOOD.replace(before, after, 1))
    with pytest.raises(UsageError) as refused:
        read_plan(path)
    message = str(refused.value)
    assert said in message
    assert message.startswith(f"{path}:{line}: ")
    assert "\n" not in message


def test_a_pair_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exact × q8 is there twice"):
        read_plan(written(tmp_path, GOOD + "  - {a: exact, b: q8}\n"))
