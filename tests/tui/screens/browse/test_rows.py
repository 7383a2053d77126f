"""How captures, models, contracts and pairs are told apart in the list and in the preview."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aprtui.resources import embedded_model
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.manifest import read_manifest, write_manifest
from aprtui.tui.screens.browse.artifacts import Artifact, ArtifactKind, Finder
from aprtui.tui.screens.browse.facts import fault_words, stages_words
from aprtui.tui.screens.browse.rows import ARTIFACT_COLUMNS, artifact_row, preview_lines
from aprtui.tui.widgets.lines import Ink
from aprtui.tui.widgets.table import column_widths
from tests.compare.synthetic import CONFIG, write_capture
from tests.tui.screens.contracts.example import CONTRACT

FAULTS = ("layer=1,stage=ffn_gate,kind=scale,magnitude=2", "stage=lm_head,kind=zero")


def listed(folder: Path) -> dict[str, Artifact]:
    return {artifact.path.name: artifact for artifact in Finder().search([folder]).artifacts}


def cells(artifact: Artifact, marks: dict[str, Path] | None = None) -> dict[str, str]:
    row = artifact_row(artifact, marks or {}, artifact.modified, Path("/"))
    return {column.title: text for column, text in zip(ARTIFACT_COLUMNS, row.cells, strict=True)}


def preview(artifact: Artifact, width: int = 60) -> list[str]:
    lines = preview_lines(artifact, {"b": artifact.path}, (), ("enter opens",), width)
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def capture(path: Path, **changes: object) -> Path:
    write_capture(path)
    manifest = read_manifest(path)
    assert manifest is not None
    engine = replace(manifest.engine, faults=FAULTS) if changes.pop("faulty", False) else manifest.engine
    write_manifest(path, replace(manifest, engine=engine, **changes))  # type: ignore[arg-type]
    return path


def test_a_capture_is_told_by_its_prompt_its_faults_and_its_marks(tmp_path: Path) -> None:
    capture(tmp_path / "bad", faulty=True, text="def f():\n    return", completion=" 1\n")
    (bad,) = listed(tmp_path).values()
    found = cells(bad, {"a": bad.path})
    assert found["prompt or title"] == "def f(): ⏎ return 1 ⏎" and found[" "] == "A"
    assert found["note"] == "fault L1 ffn_gate scale 2, and 1 more"
    assert (found["tokens"], found["layers"], found["mode"]) == ("5", "3", "exact")
    lines = preview(bad)
    assert lines[:3] == ["prompt   def f():", "             return 1", "tokens   5"]
    assert "faults   layer=1, stage=ffn_gate, kind=scale, magnitude=2" in lines
    assert "         stage=lm_head, kind=zero" in lines
    assert "stages   all 54" in lines and "marked   B, held against A" in lines and lines[-1] == "enter opens"


def test_stages_that_an_engine_has_no_tensor_of_are_listed_with_the_reason(tmp_path: Path) -> None:
    capture(tmp_path / "other", unavailable={"ffn_silu": "fused into ffn_swigl"})
    lines = preview(listed(tmp_path)["other"])
    assert lines[lines.index("stages   all 54") + 1] == "         ffn_silu: fused into ffn_swigl"


def test_without_a_text_pieces_stand_in_and_without_pieces_ids(tmp_path: Path) -> None:
    capture(tmp_path / "pieces", pieces=("def", " f", "(", "n", ")"))
    capture(tmp_path / "ids")
    found = listed(tmp_path)
    assert cells(found["pieces"])["prompt or title"] == "def f(n)"
    assert cells(found["ids"])["prompt or title"] == "ids 5 3 9 1 7"


def test_a_foreign_capture_says_what_its_provenance_says(tmp_path: Path) -> None:
    write_capture(tmp_path / "foreign", manifest=False)
    text = "# stages\nmodel: maker/Tiny\nprompt: What is 2+2?\ntokens: [5, 3, 9, 1, 7]\ndtype: float16\n"
    (tmp_path / "foreign" / "_PROVENANCE.txt").write_text(text)
    (foreign,) = listed(tmp_path).values()
    found = cells(foreign)
    assert (found["prompt or title"], found["model"], found["tokens"]) == ("What is 2+2?", "maker/Tiny", "5")
    assert found["note"] == "no manifest" and found["layers"] == "3"
    assert "layers   0–2" in preview(foreign) and "engine   float16" in preview(foreign)


def test_models_contracts_and_pairs_are_listed_behind_captures(tmp_path: Path) -> None:
    capture(tmp_path / "b")
    (tmp_path / "model.gguf").symlink_to(embedded_model())
    (tmp_path / "alpha-v1.yaml").write_text(CONTRACT)
    (tmp_path / "other.yaml").write_text("jobs: []\n")
    (tmp_path / "broken.yml").write_text("falsification_tests: [\n")
    pair = (tmp_path / "a", tmp_path / "b")
    found = Finder().search([tmp_path], [pair]).artifacts
    assert [(artifact.kind, artifact.path.name) for artifact in found] == [
        (ArtifactKind.CAPTURE, "b"), (ArtifactKind.MODEL, "model.gguf"), (ArtifactKind.PAIR, "a"),
        (ArtifactKind.CONTRACT, "alpha-v1.yaml"), (ArtifactKind.CONTRACT, "broken.yml"),
    ]  # fmt: skip
    assert cells(found[2])["name"].endswith("a ↔ " + str(pair[1]).removeprefix("/"))
    assert found[2].key == pair and found[2].modified == found[0].modified
    assert cells(found[4])["note"] == "damaged" and found[4].problem
    model = preview(found[1])
    assert any(line.startswith("context") for line in model) and any("Q4_K ×" in line for line in model)
    assert any("falsifiers" in line for line in preview(found[3]))


def test_a_model_elsewhere_has_its_name_and_one_that_cannot_be_run_says_so() -> None:
    path = Path("/cache/blobs/sha256-0")
    facts = (("file", str(path)), ("found in", "Ollama"))
    artifact = Artifact(path, ArtifactKind.MODEL, 0, name="demo:latest", facts=facts, refusal="no kernel for it")
    assert (cells(artifact)["name"], cells(artifact)["note"]) == ("demo:latest", "cannot be run")
    assert preview(artifact)[:3] == [
        "not run  no kernel for it", "file     /cache/blobs/sha256-0", "found in Ollama",
    ]  # fmt: skip


def test_a_long_prompt_takes_a_few_lines_of_the_preview() -> None:
    artifact = Artifact(Path("a"), ArtifactKind.CAPTURE, 0, facts=(("prompt", "word " * 500 + "\x1b[2J"),))
    lines = preview(artifact, 40)
    assert len([line for line in lines if line]) == 8 and "…" in lines[5]
    assert max(map(len, lines)) <= 40 and not any("\x1b" in line for line in lines)
    damaged = Artifact(Path("a"), ArtifactKind.CAPTURE, 0, problem="not JSON")
    assert preview_lines(damaged, {}, (), (), 40)[0][1] == ("not JSON", Ink.BAD)


def test_faults_and_missing_stages_in_few_words() -> None:
    assert [fault_words(fault) for fault in FAULTS] == ["L1 ffn_gate scale 2", "lm_head zero"]
    assert fault_words("odd") == "odd"
    graph = graph_for(CONFIG)
    assert stages_words(graph.nodes, graph) == "all 54"
    some = [node for node in graph.nodes if node.layer != 1 and node.stage != "attn_softmax"]
    assert stages_words(some, graph) == "35 of 54; without 1 layer (1) and attn_softmax"
    assert stages_words([Node(None, "lm_head")], graph).startswith("1 of 54; without 3 layers (0–2) and ")


def test_columns_that_need_little_are_whole_before_long_ones_get_more() -> None:
    assert column_widths(ARTIFACT_COLUMNS[1:2] + ARTIFACT_COLUMNS[3:5], [12, 200, 24], 80) == [12, 40, 24]
