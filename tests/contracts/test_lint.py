"""Each lint rule catches a contract made wrong in its way, at its line, and nothing else does; the twin passes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.cli.contracts.lint import options_by_command
from aprtui.cli.main import cli
from aprtui.contracts.documents.document import nearest_status
from aprtui.contracts.documents.loading import load_documents
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.documents.validation import Severity
from aprtui.contracts.evidence.assessment import ledger_of
from aprtui.contracts.lint.rules import COMMAND, LINT_RULES, STAGE, LintContext, lint, reverse_coverage
from aprtui.contracts.source_tree import SourceTree, missing_tests
from aprtui.errors import UsageError
from aprtui.resources import contracts
from aprtui.trace.graph.names import known_names
from tests.contracts.samples import PATH, SOUND, document, line_of
from tests.contracts.test_lint_evidence import EVIDENCE_MUTANTS
from tests.hangs import no_hang

HERE = "# here"
LIVE = """    status: FUNCTIONAL
    functional_evidence: [a run]
    binds_to: scaled
    check: byte_format
    algorithm_evidence:
      file_paths: [src/scale.rs, "src/  (planned)"]
      function_names: [scale::run_scaled (the entry), Scale]
"""
CLEAN = SOUND.replace("    status: FUNCTIONAL\n", LIVE, 1).replace("test: run it", "test: aprtui stats X --json", 1)
CLEAN = CLEAN.replace("test: run it", "test: cargo test -p scale --lib scale::twice_the (1/1 PASS)", 1)


def edited(old: str, new: str) -> str:
    assert old in CLEAN, f"{old!r} is not in the sample"
    return CLEAN.replace(old, new, 1)


MUTANTS = {
    "LINT-001": edited("binds_to: scaled", "binds_to: scale # here"),
    "LINT-002": edited("obligation: OB-2", "obligation: OB-3 # here"),
    "LINT-003": edited("id: FALSIFY-2", "id: FALSIFY-4 # here"),
    "LINT-004": edited("status: FUNCTIONAL\n    functional_evidence: [a run]", "status: FUNCTIONAL # here"),
    "LINT-005": edited("check: byte_format", "check: bytes_format # here"),
    "LINT-006": edited("test: aprtui stats X --json", "test: aprtui stats X --jsno # here"),
    "LINT-007": edited("algorithm_evidence:", "algorithm_evidence: # here").replace("src/scale.rs", "src/gone.rs"),
    "LINT-008": edited("algorithm_evidence:", "algorithm_evidence: # here").replace("run_scaled", "run_never"),
    "LINT-015": edited("scale::twice_the (1/1 PASS)", "scale::thrice_the # here"),
    "LINT-017": edited("check: byte_format", "check: {name: cosine_floor, at_least: -1} # here"),
    "LINT-022": edited("check: byte_format", "check: {name: cosine_floor, at_least: 0.9} # here").replace(
        "prediction: no NaN", "prediction: a cosine of at least 0.99"
    ),
    "LINT-018": edited("    status: FUNCTIONAL\n", "    status: FUNCTONAL # here\n"),
    "LINT-019": edited(
        "functional_evidence: [a run]",
        "functional_evidence: [a run]\n    evidence_discharged_by: [src/gone.rs (x)] # here",
    ),
    "LINT-020": CLEAN + "falsification_conditions: [a, b] # here\n",
    "LINT-021": CLEAN + "enforcment: {} # here\n",
}


@pytest.fixture
def context(tmp_path: Path) -> LintContext:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "scale.rs").write_text("struct Scale;\nfn run_scaled() {}\nfn twice_the_input() {}\n")
    return LintContext(SourceTree(tmp_path), options_by_command(cli))


def test_the_untouched_contract_has_no_finding(context: LintContext) -> None:
    assert lint(document(CLEAN), context) == ()


def test_every_rule_has_its_mutant() -> None:
    assert [*MUTANTS, *EVIDENCE_MUTANTS] == [rule.code for rule in LINT_RULES]


@pytest.mark.parametrize("code", MUTANTS)
def test_a_rule_catches_its_mutant_at_its_line(code: str, context: LintContext) -> None:
    (finding,) = lint(document(MUTANTS[code]), context)
    assert (finding.code, finding.line, finding.path) == (code, line_of(MUTANTS[code], HERE), PATH)


NO_CODE = {
    "a.rs": """struct Scale; // fn run_never()\n/* run_never */
        fn a<'a>(x: &'a str) { let q = '"'; let b = "b"; b'\\''; known_rs(); }
        const S: &str = r#"run_never " run_never"#; const T: &str = "\\"run_never";""",
    "b.py": """def known_py():\n    \"\"\"run_never() "is" 'gone'.\"\"\"\n    return f'run_never {1}'  # run_never\n""",
    "c.cu": """__global__ void known_cu() {} // run_never\nconst char* s = R"(run_never")"; /* run_never""",
    "d.sh": "# run_never\nknown_sh() { echo ${#x}; }  # run_never\n",
    "e.toml": '[[test]]\nname = "known_toml" # run_never\n',
}


def test_a_name_in_a_comment_or_in_quotes_is_no_function(tmp_path: Path) -> None:
    for name, text in NO_CODE.items():
        (tmp_path / name).write_text(text)
    tree = SourceTree(tmp_path)
    assert [tree.has_name(f"known_{kind}") for kind in ("rs", "py", "cu", "sh", "toml")] == [True] * 5
    assert not tree.has_name("run_never")
    findings = lint(document(MUTANTS["LINT-008"]), LintContext(tree))
    assert ("LINT-008", "FALSIFY-1: no code names run_never") in [(found.code, found.message) for found in findings]
    (tmp_path / "f.rs").write_text("// never\nfn run_never() {}")
    found = lint(document(MUTANTS["LINT-008"]), LintContext(SourceTree(tmp_path)))
    assert "LINT-008" not in {finding.code for finding in found}


@pytest.mark.parametrize("text", ["/*", '"', "'''", '"""', 'r#"', 'R"(x', 'R"aaaa', "\\", "'", 'r"', " #"])
def test_a_source_that_never_ends_its_texts_is_read_in_one_pass(tmp_path: Path, text: str) -> None:
    for suffix in (".py", ".rs", ".sh"):
        (tmp_path / f"a{suffix}").write_text("fn first\n" + text * 200_000)
    with no_hang():
        assert SourceTree(tmp_path).has_name("first")


@pytest.mark.parametrize(
    ("test", "problems"),
    [
        ("cargo test -p a --lib b::known", []),
        ("cargo test -p a --lib b::know (3/3 PASS) + a live run", []),
        ("cargo test --lib gone", ["no code names a test with gone"]),
        ("see `cargo test --lib gone::gone_too` or cargo test known", ["no code names a test with gone_too"]),
        ("cargo test --test chain --features x -- --ignored gone", []),
        ("cargo test --test broken", ["there is no integration test broken"]),
        ("cargo test --test chain gone", ["no code names a test with gone"]),
        ("cargo nextest run -j 2 gone | tee gone.log", ["no code names a test with gone"]),
        ("cargo test (planned)\ncargo test\ncargo testify gone", []),
        ("cargo test chain", []),
        ("python -m pytest -q tests/a.py::test_known[1] tests/b.py", ["there is no test file tests/b.py"]),
        (
            "pytest 'tests/a.py::TestA::test_gone' -k x",
            ["no code names the test TestA", "no code names the test test_gone"],
        ),
        ("pytest tests && pytest ../a.py", ["there is no test file ../a.py"]),
    ],
)
def test_tests_that_a_command_names_are_looked_for(tmp_path: Path, test: str, problems: list[str]) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "chain.rs").write_text("// fn gone() {}\nfn known() {}\n")
    (tmp_path / "tests" / "a.py").write_text("def test_known(): pass\n# def test_gone(): pass\n")
    assert list(missing_tests(test, SourceTree(tmp_path))) == problems


# --- reverse coverage ---

COVERED = edited("check: byte_format", "check: {name: byte_format, stages: [ffn_*]}")
SECOND = "test: cargo test -p scale --lib scale::twice_the (1/1 PASS)"


def uncovered(text: str) -> list[tuple[str, str]]:
    """Codes and messages of reverse coverage, for two commands; of stages those of the feed-forward network."""
    findings = reverse_coverage([document(text)], ("stats", "contracts check"))
    assert all((found.severity, found.path, found.line) == (Severity.INFO, PATH, 1) for found in findings)
    return [(found.code, found.message) for found in findings if found.code == COMMAND or " ffn_" in found.message]


def test_commands_and_stages_that_a_falsifier_binds_are_not_listed() -> None:
    text = COVERED.replace(SECOND, "test: aprtui contracts check --json", 1)
    assert uncovered(text) == []
    assert uncovered(text.replace("stages: [ffn_*]", "layers: all")) == []


def test_a_command_that_no_test_runs_is_listed() -> None:
    assert uncovered(COVERED) == [(COMMAND, "no falsifier runs aprtui contracts check")]
    mentioned = COVERED.replace(SECOND, "test: see aprtui contracts check", 1)
    assert uncovered(mentioned) == [(COMMAND, "no falsifier runs aprtui contracts check")]


def test_a_stage_that_no_check_binds_is_listed() -> None:
    text = COVERED.replace(SECOND, "test: aprtui contracts check", 1)
    assert uncovered(text.replace("[ffn_*]", "['ffn_[!u]*']")) == [(STAGE, "no falsifier binds the stage ffn_up")]
    for check in ("contract_valid", "{name: byte_format, stages: 3}", "no_such_check"):
        bare = text.replace("{name: byte_format, stages: [ffn_*]}", check)
        assert len(uncovered(bare)) == len([stage for stage in known_names() if stage.startswith("ffn_")])


def test_coverage_is_told_where_it_is_asked_for_and_never_fails(aprtui: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(SOUND.replace("    status: FUNCTIONAL\n", ""))
    done = aprtui("contracts", "lint", path, "--coverage", "--strict")
    assert done.code == 0 and "[INFO] LINT-101: no falsifier runs aprtui open" in done.out  # type: ignore[attr-defined]
    assert "LINT-101" not in aprtui("contracts", "lint", path).out  # type: ignore[attr-defined]


def test_our_own_contracts_are_about_every_stage(aprtui: Callable[..., object]) -> None:
    out = aprtui("contracts", "lint", "--coverage").out  # type: ignore[attr-defined]
    assert "LINT-102" not in out and "no falsifier runs aprtui trace" not in out


def test_harnesses_of_a_contract_without_ids_of_obligations_are_named_once(context: LintContext) -> None:
    text = CLEAN.replace("  - id: OB-1\n    type", "  - type").replace("  - id: OB-2\n    type", "  - type")
    (finding,) = lint(document(text), context)
    said = "KANI-1 and 1 more harnesses name obligations, 'OB-1' and so on, but no obligation has an id"
    assert (finding.code, finding.message) == ("LINT-002", said)


def test_a_harness_may_name_a_property(context: LintContext) -> None:
    assert lint(document(edited("obligation: OB-1", "obligation: y is finite")), context) == ()


def test_an_unknown_command_of_ours_is_found_and_others_are_not_looked_at(context: LintContext) -> None:
    (finding,) = lint(document(edited("aprtui stats X --json", "aprtui statz X")), context)
    assert "no command 'statz'" in finding.message
    for test in ("apr trace --no-such", "aprtui contracts check X --id A", "aprtui trace -n -1 --tokens=1", "'open"):
        found = lint(document(edited("test: aprtui stats X --json", f"test: {json.dumps(test)}")), context)
        assert [finding.message for finding in found] == (
            ["FALSIFY-1: aprtui trace has no option -n"] if "-n" in test and "aprtui" in test else []
        )


def test_without_a_source_tree_its_rules_are_silent() -> None:
    assert lint(document(MUTANTS["LINT-007"]), LintContext()) == ()


def test_a_source_tree_tells_only_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def known(): pass\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "b.py").write_text("def secret(): pass\n")
    tree = SourceTree(tmp_path)
    assert tree.has_name("known") and not tree.has_name("know") and not tree.has_name("secret")
    assert tree.has_file("a.py") and not tree.has_file("../") and not tree.has_file("a\0b")
    with pytest.raises(UsageError, match="is not a directory"):
        SourceTree(tmp_path / "gone")


def test_our_own_contracts_claim_what_evidence_gave_and_have_no_finding_but_stale_evidence() -> None:
    documents = load_documents([contracts()]).readable
    ledgers = {read.path: ledger_of(read) for read in documents}
    context = LintContext(SourceTree(contracts().parent), options_by_command(cli), ledgers)
    findings = [finding for read in documents for finding in lint(read, context)]
    for stale in (finding for finding in findings if finding.code == "LINT-011"):
        warnings.warn(f"{stale}: `make evidence` records again", stacklevel=1)
    assert documents and [finding for finding in findings if finding.code != "LINT-011"] == []


@pytest.mark.group("conformance")
def test_known_inconsistencies_of_the_real_contracts_are_found(conformance: Path) -> None:
    folder = conformance / "contracts" / "aprender"

    def found(name: str, code: str) -> list[str]:
        findings = lint(read_document(folder / f"{name}.yaml"), LintContext())
        return [finding.message for finding in findings if finding.code == code]

    parity = "apr-cpu-vs-gpu-output-parity-v1"
    (orphan,) = found(parity, "LINT-001")
    assert orphan.startswith("FALSIFY-CPU-GPU-007: binds to 'gate_no_false_positive'")
    (gap,) = found(parity, "LINT-003")
    assert gap.startswith("FALSIFY-CPU-GPU-007 is followed by FALSIFY-CPU-GPU-009")
    assert found("apr-cli-trace-save-tensor-v1", "LINT-004") == []


@pytest.mark.group("conformance")
def test_every_real_contract_is_linted(conformance: Path) -> None:
    for read in load_documents([conformance / "contracts"]).readable:
        assert all(finding.line >= 1 and finding.severity is Severity.WARN for finding in lint(read, LintContext()))


def unclaimed(text: str) -> str:
    """The contract without the claim, which would need evidence files."""
    assert "status: FUNCTIONAL" in text
    return text.replace("status: FUNCTIONAL", "status: PROPOSED")


@pytest.fixture
def drifted(tmp_path: Path) -> Path:
    path = tmp_path / "drifted.yaml"
    path.write_text(unclaimed(MUTANTS["LINT-005"]))
    return path


def test_errors_are_exit_1_and_warnings_only_when_strict(aprtui: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for text, codes in ((CLEAN, (0, 0)), (MUTANTS["LINT-003"], (0, 1)), (MUTANTS["LINT-005"], (1, 1))):
        path.write_text(unclaimed(text))
        done = [aprtui("contracts", "lint", path, *more).code for more in ((), ("--strict",))]  # type: ignore[attr-defined]
        assert tuple(done) == codes
    path.write_text("a: [\n")
    assert aprtui("contracts", "lint", path).code == 3  # type: ignore[attr-defined]


def test_sarif_and_annotations_point_at_the_line(aprtui: Callable[..., object], drifted: Path) -> None:
    line = line_of(MUTANTS["LINT-005"], HERE)
    sarif = json.loads(aprtui("contracts", "lint", drifted, "--format", "sarif").out)  # type: ignore[attr-defined]
    (result,) = sarif["runs"][0]["results"]
    assert sarif["version"] == "2.1.0" and (result["ruleId"], result["level"]) == ("LINT-005", "error")
    place = result["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == (drifted.as_posix(), line)
    github = aprtui("contracts", "lint", drifted, "--format", "github").out  # type: ignore[attr-defined]
    assert github.startswith(f"::error file={drifted},line={line},title=LINT-005::FALSIFY-1: ")
    records = aprtui("contracts", "lint", drifted, "--json").out.splitlines()  # type: ignore[attr-defined]
    assert json.loads(records[-1]) == {"record": "summary", "errors": 1, "warnings": 0, "notes": 0, "suppressed": 0}


def test_names_and_harnesses_of_tests_are_looked_up_and_the_nearest_name_is_offered(context: LintContext) -> None:
    def messages(old: str, new: str) -> list[str]:
        return [finding.message for finding in lint(document(edited(old, new)), context)]

    (harness,) = messages("prediction: no NaN", "prediction: no NaN\n    test_harness: cargo test --lib never_there")
    assert "never_there" in harness
    assert messages("prediction: no NaN", "prediction: no NaN\n    test_harness: cargo test --lib twice_the") == []
    (name,) = messages("prediction: no NaN", "prediction: no NaN\n    name: test_never")
    assert name == "FALSIFY-1: no code names the test test_never"
    assert messages("prediction: no NaN", "prediction: no NaN\n    name: any words") == []
    (near,) = messages("run_scaled (the entry)", "run_scale_d")
    assert near.endswith("no code names run_scale_d: did you mean run_scaled?")


@pytest.mark.parametrize(
    ("status", "near"),
    [("FUNCTONAL", "FUNCTIONAL"), ("DISCHARGE", "DISCHARGED"), ("BLOCKED_ON_GPU", "BLOCKER_…"), ("PASS", ""), ("", "")],
)
def test_a_status_that_is_nearly_a_known_one_is_told_apart_from_one_of_its_own(status: str, near: str) -> None:
    assert nearest_status(status) == near if status else True


def test_a_blocker_that_is_resolved_blocks_no_more() -> None:
    text = "full_discharge_blocks_on: [a GPU, 'RESOLVED 2026-05-10: a fix', UNRESOLVED still]"
    blockers = document(edited("prediction: no NaN", f"prediction: no NaN\n    {text}")).falsifiers[0].blockers
    assert [blocker.text for blocker in blockers] == ["a GPU", "UNRESOLVED still"]
