from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.config import Config, read_config
from aprtui.errors import UsageError
from aprtui.tui.app import SCREENS, AprtuiApp
from aprtui.tui.frame.keymap import Chord, displayed_keys
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName
from tests.tui.frame.key_clashes import bindings_at_once, clashes
from tests.tui.screens.live.recorded import RecordedSource


def test_without_a_file_the_configuration_is_the_default(tmp_path: Path) -> None:
    assert read_config(tmp_path / "config.toml") == Config(tmp_path / "config.toml")


def test_settings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('theme = "aprtui-light"\nascii = true\n[keys]\n"help" = "f1"\n')
    assert read_config(path) == Config(path, "aprtui-light", True, {"help": "f1"})


def test_models_and_aliases_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "config.toml"
    path.write_text('[models]\nfolders = ["~/gguf", "near", "/far"]\ndefault = "a"\n[aliases]\na = "b"\n')
    config = read_config(path)
    assert config.folders == (tmp_path / "home" / "gguf", tmp_path / "near", Path("/far"))
    assert (config.default, config.aliases) == (("a",), {"a": "b"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("theme = ", "fix or remove"),
        ("theme = 3", "theme: expected a str"),
        ("color = true", "color: no such setting"),
        ("[keys]\nhelp = 3", r"\[keys\] help"),
        ("[aliases]\na = 3", r"\[aliases\] a: expected the name or the path"),
        ("[models]\nfolders = 3", r"\[models\] folders: expected"),
        ("[models]\ndefault = ['a', 3]", r"\[models\] default: expected"),
        ("[models]\nfolder = 'a'", r"\[models\] folder: no such setting: expected folders and default"),
    ],
)
def test_a_broken_configuration_is_told_with_its_file(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=problem) as refused:
        read_config(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "keys"), [("nothing", "x"), ("help", "g h"), ("help", "")])
def test_keys_for_no_command_and_no_keys_are_refused(tmp_path: Path, name: str, keys: str) -> None:
    with pytest.raises(UsageError, match=r"\[keys\]"):
        AprtuiApp(Session(RecordedSource()), config=Config(tmp_path / "config.toml", keys={name: keys}))


async def test_a_remapped_key_does_what_the_old_one_did_and_the_old_one_nothing(tmp_path: Path) -> None:
    app = AprtuiApp(Session(RecordedSource()), config=Config(tmp_path / "config.toml", keys={"help": "f1"}))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("question_mark")
        assert type(pilot.app.screen).__name__ == "LiveScreen"
        await pilot.press("f1")
        await pilot.pause()
        assert type(pilot.app.screen).__name__ == "HelpScreen"


def test_no_key_is_both_a_command_and_a_prefix_on_any_screen() -> None:
    for name, screen in SCREENS.items():
        for bindings in bindings_at_once(screen):
            assert not clashes(bindings, screen.CHORDS), name


def test_a_clash_is_found() -> None:
    bindings = SCREENS[ScreenName.LIVE].all_bindings()
    assert clashes(bindings, [Chord("q d", "x", "x", "x")])
    assert clashes([], [Chord("g d", "x", "x", "x"), Chord("g d", "y", "y", "y")])


def test_keys_are_shown_as_a_person_calls_them() -> None:
    assert displayed_keys("down,j") == "↓ j"
    assert displayed_keys("] d") == "]d"
    assert displayed_keys("up down,k j") == "↑↓ kj"
    assert displayed_keys("m *") == "m a…z"
