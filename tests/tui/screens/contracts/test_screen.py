"""The contracts screen as a person drives it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from textual.widgets import Static

from aprtui.compare.verdict import Verdict
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.evidence.claim import claim_digest
from aprtui.contracts.evidence.files import CheckRun, write_evidence
from aprtui.contracts.evidence.project import project_of
from aprtui.trace.graph.stage import Node
from aprtui.tui.frame.state import ScreenName, ScreenState, parse_state, screen_state
from aprtui.tui.screens.contracts import screen as contracts_module
from aprtui.tui.screens.contracts.screen import ContractsScreen
from aprtui.tui.widgets.cells_grid import CellsGrid
from aprtui.tui.widgets.table import Table, Tone
from tests.compare.synthetic import changed, write_capture
from tests.contracts.evidence_samples import evidence
from tests.tui.driver import Driver, screen_text, showing, until
from tests.tui.screens.contracts.example import CONTRACT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(contracts_module, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpha-v1.yaml").write_text(CONTRACT)
    (tmp_path / "broken-v1.yaml").write_text("metadata: [")
    write_capture(tmp_path / "good")
    write_capture(tmp_path / "bad", edits={Node(1, "ffn_gate"): changed((0, 0), 99.0)})
    return tmp_path


def on(folder: Path, **fields: object) -> ScreenState:
    return screen_state(ScreenName.CONTRACTS, path=folder, document="alpha-v1", **fields)


def results(pilot: Driver) -> dict[object, str]:
    """The result of each falsifier, without the sign before it."""
    rows = pilot.app.screen.query_one("#falsifiers", Table).rows
    return {row.key: row.cells[0].partition(" ")[2] or row.cells[0] for row in rows}


async def judged(pilot: Driver) -> None:
    await until(pilot, lambda: bool(results(pilot)) and "…" not in results(pilot).values())


async def test_falsifiers_are_judged_on_two_captures_and_states_stay_apart(folder: Path) -> None:
    async with showing(on(folder, capture="bad", reference="good")) as pilot:
        await judged(pilot)
        assert results(pilot) == {
            "ALPHA-1": "PASS", "ALPHA-2": "FAIL", "ALPHA-3": "not testable", "ALPHA-4": "no check",
        }  # fmt: skip
        text = screen_text(pilot)
        for words in ("1 FAIL, 1 PASS, 1 not testable, 1 no check, judged on bad against good", "PROPOSED"):
            assert words in text
        for status in ("FUNCTIONAL", "BLOCKER_FIXTURE_ABSENT"):
            assert status in text, "statuses stand as they are written"


async def test_choosing_a_falsifier_lights_its_cells_and_puts_it_into_words(folder: Path) -> None:
    async with showing(on(folder, capture="bad", reference="good")) as pilot:
        await judged(pilot)
        await pilot.press("j")
        grid = pilot.app.screen.query_one(CellsGrid)
        await until(pilot, lambda: grid.lit == {Node(1, "ffn_gate")})
        assert "ALPHA-2  FAIL" in screen_text(pilot)


async def test_a_rule_comes_first_in_words_then_its_result_with_sign_and_tone(folder: Path) -> None:
    async with showing(on(folder, capture="bad", reference="good"), size=(80, 24)) as pilot:
        await judged(pilot)
        text = screen_text(pilot)
        for words in ("✓ PASS", "✗ FAIL", "? not testable", "– no check", "every header is right"):
            assert words in text
        tones = {row.key: row.first for row in pilot.app.screen.query_one("#falsifiers", Table).rows}
        assert tones == {
            "ALPHA-1": Tone.GOOD, "ALPHA-2": Tone.BAD, "ALPHA-3": Tone.UNSURE, "ALPHA-4": Tone.MUTED,
        }  # fmt: skip
        summary = pilot.app.screen.query_one("#summary", Static)
        await pilot.press("j")
        await pilot.pause()
        first, second, *_ = str(summary.content).splitlines()
        assert first == "gates are alike"
        assert second.startswith("✗ FAIL  layer 1 ffn_gate")


async def test_unknown_says_why_and_what_settles_it(folder: Path) -> None:
    async with showing(on(folder), size=(80, 24)) as pilot:
        await judged(pilot)
        assert "It needs a capture, to be made by this and opened in Browse (2):" in " ".join(
            screen_text(pilot).split()
        )
        assert "read them" in screen_text(pilot), "its test"
    async with showing(on(folder, capture="good", falsifier="ALPHA-2"), size=(80, 24)) as pilot:
        await judged(pilot)
        assert "It needs a second capture to compare with" in screen_text(pilot)


async def test_without_captures_nothing_is_claimed(folder: Path) -> None:
    async with showing(on(folder)) as pilot:
        await judged(pilot)
        assert results(pilot)["ALPHA-1"] == "UNKNOWN"
        assert "judged without a capture" in screen_text(pilot)
        assert "no capture at hand" in screen_text(pilot)


async def test_captures_come_from_the_screen_before(folder: Path) -> None:
    async with showing(
        screen_state(ScreenName.BROWSE, path=folder, a="good", b="bad"), paths=(folder / "alpha-v1.yaml",)
    ) as pilot:
        await until(pilot, lambda: len(pilot.app.screen.query_one("#artifacts", Table).rows) == 3)
        await pilot.press("5")
        await judged(pilot)
        assert results(pilot)["ALPHA-2"] == "FAIL"


async def test_a_contract_that_is_edited_is_read_again(folder: Path) -> None:
    async with showing(on(folder, capture="bad", reference="good")) as pilot:
        await judged(pilot)
        (folder / "alpha-v1.yaml").write_text(CONTRACT.replace("0.999999", "0.01"))
        await until(pilot, lambda: results(pilot).get("ALPHA-2") == "PASS")
        (folder / "alpha-v1.yaml").unlink()
        await until(pilot, lambda: "alpha-v1" not in screen_text(pilot))


async def test_files_and_captures_that_cannot_be_read_are_told(folder: Path) -> None:
    async with showing(on(folder, capture="bad", reference="good")) as pilot:
        await judged(pilot)
        assert "cannot be read" in screen_text(pilot)
        pilot.app.screen.query_one("#documents", Table).focus()
        await pilot.press("end")
        await until(pilot, lambda: "broken-v1.yaml:2" in screen_text(pilot))
        await pilot.press("home")
        shutil.rmtree(folder / "bad")
        await pilot.press("r")
        await judged(pilot)
        assert results(pilot)["ALPHA-2"] == "UNKNOWN"


async def test_state_and_command_give_the_same_again(folder: Path) -> None:
    async with showing(on(folder, capture="bad", reference="good", falsifier="ALPHA-3")) as pilot:
        await judged(pilot)
        screen = pilot.app.screen
        assert isinstance(screen, ContractsScreen)
        assert parse_state(str(screen.state())).fields == {
            "path": str(folder), "document": "alpha-v1", "falsifier": "ALPHA-3", "reference": "good", "capture": "bad",
        }  # fmt: skip
        words = "aprtui contracts check alpha-v1.yaml --capture bad --reference good"
        assert " ".join(screen.command()) == words


async def test_recorded_evidence_is_shown_with_whether_it_still_holds(folder: Path) -> None:
    def record(**changed: object) -> None:
        check = CheckRun("header_arithmetic", {})
        document = read_document(folder / "alpha-v1.yaml")
        claim = claim_digest(document.equations, document.falsifiers[0])
        named = {"contract": "alpha-v1.yaml", "falsifier": "ALPHA-1", "claim": claim, "check": check}
        write_evidence(folder / "evidence" / "alpha-v1", evidence(**named, **changed))

    def told(pilot: Driver) -> str:
        row = next(row for row in pilot.app.screen.query_one("#falsifiers", Table).rows if row.key == "ALPHA-1")
        return row.cells[4]

    source = folder / "engine.py"
    source.write_text("engine")
    (folder / "alpha-v1.yaml").write_text(
        CONTRACT.replace("  kind: schema", "  kind: schema\n  vouches_for: engine.py")
    )
    record(sources={"engine.py": project_of(folder / "alpha-v1.yaml").digest("engine.py")})
    async with showing(on(folder, capture="good"), size=(200, 60)) as pilot:
        await judged(pilot)
        assert told(pilot) == "fresh"
        assert "PASS of 2026-11-20 on here, fresh" in screen_text(pilot) and "carries FUNCTIONAL" in screen_text(pilot)
        source.write_text("another")
        await pilot.press("r")
        await until(pilot, lambda: told(pilot) == "stale")
        assert "stale: engine.py changed" in screen_text(pilot)
        assert "carries PARTIAL_ALGORITHM_LEVEL, gave FUNCTIONAL" in screen_text(pilot)
        record(verdict=Verdict.FAIL, date="2026-11-21T10:00:00Z")  # read again by itself
        await until(pilot, lambda: told(pilot) == "refuted")
        assert results(pilot)["ALPHA-1"] == "PASS", "what holds now is apart from what was recorded"


async def test_words_and_cells_share_their_place_on_a_small_screen(folder: Path) -> None:
    async with showing(on(folder, capture="bad", reference="good"), size=(80, 24)) as pilot:
        await judged(pilot)
        details, cells = pilot.app.screen.query_one("#details"), pilot.app.screen.query_one("#cells")
        assert details.display and not cells.display
        await pilot.press("v")
        assert cells.display and not details.display
        await pilot.press("v", "enter")
        assert details.has_focus and "life cycle PROPOSED" in screen_text(pilot)
        assert not pilot.app.screen.query_one("#lists").display
        await pilot.press("escape")
        assert pilot.app.screen.query_one("#falsifiers").has_focus and pilot.app.screen.query_one("#lists").display


async def test_a_folder_without_contracts_says_what_to_do(tmp_path: Path) -> None:
    async with showing(screen_state(ScreenName.CONTRACTS, path=tmp_path)) as pilot:
        await until(pilot, lambda: "holds no .yaml file" in screen_text(pilot))


async def test_the_form_of_a_contract_is_counted_in_the_list_and_listed_with_all_about_a_rule(folder: Path) -> None:
    text = CONTRACT.replace("metadata:\n", "metadata:\n  description: d\n", 1)
    (folder / "alpha-v1.yaml").write_text(text.replace("ALPHA-4", "ALPHA-5"))
    async with showing(on(folder)) as pilot:
        await until(pilot, lambda: bool(results(pilot)) and "…" not in results(pilot).values())
        (row,) = (row for row in pilot.app.screen.query_one("#documents", Table).rows if row.cells[0] == "alpha-v1")
        assert row.cells[3] == "4 warnings", "of a status without recorded evidence only lint can speak"
        await pilot.press("enter", "end")
        await until(pilot, lambda: "(LINT-003)" in screen_text(pilot))
        assert "LINT-004" not in screen_text(pilot)
