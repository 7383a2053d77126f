"""A model of transformers on simulated ranks: honest runs agree, whatever order sums are made in, and a faulty rank is
named with its stage and layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.importing.ranks.description import read_description
from aprtui.importing.ranks.result import RankReport, join_ranks
from aprtui.importing.reading import ImportRequest
from aprtui.model.model import Model, load_model
from aprtui.oracle.transformers_model import DataType
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.importing.dumps import TOKENS
from tests.importing.rank_folders import TENSOR_PARALLEL, description, write_rank
from tests.importing.sharded_model import ShardedRun, Tensor
from tests.model.gguf_files import write_model

pytestmark = [pytest.mark.group("transformers"), pytest.mark.slow]

Command = Callable[..., Outcome]
REDUCED = {"ffn_out": "t h # tp:replicated", **TENSOR_PARALLEL} | {"ffn_out": "t h # tp:replicated"}
BY_TOKENS = {
    **dict.fromkeys(("ffn_out", "embedding", "attn_norm", "attn_out", "post_*", "ffn_norm", "final_norm"), "t[tp] h"),
    **{name: dims for name, dims in TENSOR_PARALLEL.items() if "replicated" not in dims and name != "ffn_out"},
}
KINDS = [DataType.FLOAT32, DataType.BFLOAT16, DataType.FLOAT16]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_model(tmp_path_factory.mktemp("model") / "m.gguf", architecture="qwen2", layers=4))


def put_together(folder: Path, run: ShardedRun, dims: dict[str, str]) -> RankReport:
    """Write what the ranks of a run hold, and put it together as `folder`/whole."""
    for rank, held in run.run().items():
        write_rank(folder / f"rank-{rank}", held, run.tokens)
    (folder / "aprtui-ranks.yaml").write_text(description(dims, tp=run.tp, pp=run.pp))
    request = ImportRequest(graph=run.model.graph, model_name=run.model.name)
    described = read_description(folder / "aprtui-ranks.yaml")
    return join_ranks(folder, folder / "whole", request, described, no_progress)


@pytest.mark.parametrize("own_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_honest_ranks_agree_in_whatever_order_sums_are_made(
    model: Model, tmp_path: Path, kind: DataType, own_first: bool
) -> None:
    report = put_together(tmp_path, ShardedRun(model, TOKENS, 4, 2, kind, own_first), REDUCED)
    assert report.verdict is Verdict.PASS, report.headline
    assert ("rounding of sums" in report.headline) == own_first, report.headline


def test_sixteen_honest_runs_of_other_tokens_raise_no_alarm(model: Model, tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    for number in range(16):
        tokens = tuple(map(int, generator.integers(0, 270, 1 + number)))
        kind, pp = KINDS[number % 3], (1, 2, 4)[number % 3]
        report = put_together(tmp_path / str(number), ShardedRun(model, tokens, 4, pp, kind), REDUCED)
        assert report.verdict is Verdict.PASS, (tokens, kind, report.headline)


@pytest.mark.parametrize("kind", KINDS)
def test_honest_ranks_put_together_fail_no_replay(
    model: Model, tmp_path: Path, aprtui: Command, kind: DataType
) -> None:
    """In 16 bits the weights of transformers are rounded as well, which a replay asks to be stated: no PASS."""
    put_together(tmp_path, ShardedRun(model, TOKENS, 4, 2, kind), REDUCED)
    judged = aprtui("replay", tmp_path / "whole", "--model", model.path, "--allow-missing", "attn_s*")
    assert judged.code == (0 if kind is DataType.FLOAT32 else 125), judged


@pytest.mark.parametrize("kind", KINDS)
def test_sequence_parallel_ranks_are_the_same_run(model: Model, tmp_path: Path, kind: DataType) -> None:
    tokens = TOKENS[:10]  # do not divide by 4
    plain, by_rows = (ShardedRun(model, tokens, 4, 2, kind, False, rows) for rows in (False, True))
    assert put_together(tmp_path / "plain", plain, REDUCED).verdict is Verdict.PASS
    report = put_together(tmp_path / "rows", by_rows, BY_TOKENS)
    assert report.verdict is Verdict.PASS and any(stage.padding == 2 for stage in report.stages), report.headline
    expected, found = (Capture.open(tmp_path / name / "whole") for name in ("plain", "rows"))
    for node in expected.files:
        a, b = (capture.values(node).reshape(-1) for capture in (expected, found))
        assert np.allclose(a, b, rtol=2**-6 if kind is not DataType.FLOAT32 else 1e-4, atol=0.05), node


FAULTS = [
    (Node(0, "embedding"), 2), (Node(1, "attn_out"), 3), (Node(2, "ffn_norm"), 6), (Node(3, "attn_norm"), 5),
    (Node(3, "post_ffn_residual"), 7), (Node(None, "final_norm"), 4),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("node", "rank"), FAULTS)
def test_a_rank_that_goes_on_with_something_else_is_named(
    model: Model, tmp_path: Path, kind: DataType, node: Node, rank: int
) -> None:
    """It scales what the others have by 1.25: a weight of another checkpoint."""

    def fault(at: int, where: Node, value: Tensor) -> Tensor:
        return value * 1.25 if (at, where) == (rank, node) else value

    report = put_together(tmp_path, ShardedRun(model, TOKENS, 4, 2, kind, fault=fault), REDUCED)
    assert report.verdict is Verdict.FAIL
    assert report.headline.startswith(f"rank {rank} parts at {node}:"), report.headline


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("stage", "rank"), [("ffn_gate", 5), ("q_post_rope", 4), ("ffn_up", 7)])
def test_a_rank_whose_part_is_wrong_is_named_by_a_replay(
    model: Model, tmp_path: Path, aprtui: Command, kind: DataType, stage: str, rank: int
) -> None:
    def fault(at: int, where: Node, value: Tensor) -> Tensor:
        return value * 1.25 if (at, where) == (rank, Node(2, stage)) else value

    report = put_together(tmp_path, ShardedRun(model, TOKENS, 4, 2, kind, fault=fault), REDUCED)
    assert report.verdict is Verdict.PASS, "all ranks add the same wrong term"
    judged = aprtui("replay", tmp_path / "whole", "--model", model.path, "--allow-missing", "attn_s*", "--json")
    assert judged.code == 1, judged
    assert f"the part of rank {rank} alone" in judged.out and f'"stage": "{stage}"' in judged.out
