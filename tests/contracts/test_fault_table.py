"""Claim × fault: what turns falsifiers of captures red, which are vacuous, which misfire."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.contracts.checks.vacuous import why_vacuous
from aprtui.contracts.documents.document import CheckCall
from aprtui.contracts.fault_table import FaultTable
from aprtui.engine.faults.kinds import KINDS
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from tests.cli.conftest import Outcome
from tests.contracts.samples import document

CONTRACT = """\
metadata: {version: 1.0, references: [a book]}
falsification_tests:
  - {id: SOUND-1, rule: r, check: {name: argmax_parity, cosine_at_least: 0.999}}
  - {id: VACUOUS-2, rule: r, check: {name: cosine_floor, stages: [attn_scores], at_least: -1}}
  - {id: BYTES-3, rule: r, check: byte_format}
  - {id: NAN-4, rule: r, check: nan_preservation}
  - {id: SUBSET-5, rule: r, check: layer_subset}
  - id: CHAIN-6
    rule: r
    check: &chain
      name: one_adjacent_pair
      stages: [attn_norm, qkv_bias, q_post_rope, k_post_rope, attn_scores, attn_softmax]
      layers: 0
      at_least: 0.999
  - {id: GRAPH-7, rule: r, check: {<<: *chain, name: one_origin}}
  - {id: OTHER-8, rule: r, check: diff_identity}
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    path = tmp_path_factory.mktemp("faults") / "c.yaml"
    path.write_text(CONTRACT.replace("<<: *chain, name: one_origin", CHAIN))
    from click.testing import CliRunner

    from aprtui.cli.main import cli

    done = CliRunner().invoke(cli, ["contracts", "faults", str(path), "--json"], standalone_mode=False)
    assert done.return_value == 1, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return {record.get("id", "summary"): record for record in records}


CHAIN = (
    "name: one_origin, layers: 0, at_least: 0.999, "
    "stages: [attn_norm, qkv_bias, q_post_rope, k_post_rope, attn_scores, attn_softmax]"
)


def test_each_row_names_the_faults_that_turn_it_red(rows: dict[str, dict[str, object]]) -> None:
    assert {"scale", "nan", "rope-interleaved", "k-tail"} <= set(rows["SOUND-1"]["red"])  # type: ignore[call-overload]
    assert set(rows["BYTES-3"]["red"]) == {  # type: ignore[call-overload]
        "file cut off", "bytes added to a file", "another layer in a header", "file of another layer",
    }  # fmt: skip
    assert rows["NAN-4"]["red"] == ["values zeroed in a file"]
    assert set(rows["SUBSET-5"]["red"]) == {"file missing", "file of another layer"}  # type: ignore[call-overload]
    assert "OTHER-8" not in rows, "nothing in a capture can fail what tests this program"
    assert {row["honest"] for name, row in rows.items() if name not in ("summary", "VACUOUS-2")} == {"PASS", "UNKNOWN"}


def test_a_bound_that_no_result_can_break_is_vacuous(
    rows: dict[str, dict[str, object]], aprtui: Callable[..., Outcome], tmp_path: Path
) -> None:
    assert rows["VACUOUS-2"]["vacuous"] == "no cosine is below -1"
    assert rows["summary"]["vacuous"] == 1
    for name, parameters in (
        ("throughput_floor", {"at_least": 0}), ("sigma_band", {"low": 0.0, "high": 1e12}),
        ("rel_l2_ceiling", {"at_most": float("inf")}), ("divergence_localised", {"below": 1.5}),
    ):  # fmt: skip
        assert why_vacuous(CheckCall(name, parameters)), name
        assert not why_vacuous(CheckCall(name, {})), name
    (tmp_path / "c.yaml").write_text(CONTRACT)
    done = aprtui("contracts", "lint", tmp_path / "c.yaml")
    assert "LINT-017: VACUOUS-2: its check cosine_floor is vacuous: no cosine is below -1" in done.out


def test_a_rule_that_misfires_is_named_and_the_graph_s_own_rule_stands_beside_it(
    rows: dict[str, dict[str, object]],
) -> None:
    chain, graph = rows["CHAIN-6"], rows["GRAPH-7"]
    turned = "rope-interleaved at q_post_rope"
    assert turned in chain["misfires"] and turned in graph["red"]  # type: ignore[operator]
    assert len(graph["red"]) > len(chain["red"]) > 3  # type: ignore[arg-type]
    beside: dict[str, list[str]] = chain["beside"]  # type: ignore[assignment]
    assert not beside["misfires"] and not beside["passes"], "with the relative L2 it places every fault of the chain"
    assert set(beside["red"]) == {fault for word in ("red", "misfires", "passes") for fault in chain[word]}  # type: ignore[attr-defined]
    assert rows["SOUND-1"]["beside"] is None


def test_the_text_says_what_a_rule_places_and_what_the_stage_graph_does(
    aprtui: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: KINDS[name] for name in ("nan", "rope-interleaved")}
    monkeypatch.setattr("aprtui.contracts.fault_table.KINDS", some)
    (tmp_path / "c.yaml").write_text(CONTRACT.replace("<<: *chain, name: one_origin", CHAIN))
    done = aprtui("contracts", "faults", tmp_path / "c.yaml", "--id", "CHAIN-6")
    assert done.code == 0
    assert "CHAIN-6  one_adjacent_pair\n  misfires (2): nan at qkv_bias, rope-interleaved at q_post_rope" in done.out
    assert "by the stage graph (one_origin, at_least 0.999, at_most 0.001):\n    places (2): nan at" in done.out


def test_a_kind_is_planted_where_the_model_has_it(tmp_path: Path) -> None:
    table = FaultTable(load_model(embedded_model()), tmp_path)
    planted = table.planted()
    assert "softcap-dropped" not in planted and planted["bias-dropped"].stage == "qkv_bias"
    assert document("falsification_tests: [{id: X}]\n").falsifiers
