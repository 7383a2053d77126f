from __future__ import annotations

from textual.color import Color

from aprtui.tui.draw.colours import DARK, LEVELS, LIGHT, RAMP, ColourMap, Mark, Rgb, glyph, level_colours


def test_glyphs_grow_with_the_level_and_marks_have_their_own() -> None:
    glyphs = [glyph(level) for level in range(LEVELS)]
    assert "".join(dict.fromkeys(glyphs)) == RAMP
    assert [glyph(mark) for mark in Mark] == ["·", "0", "I", "X", "+", "-"]


def luminance(colour: Rgb | None) -> float:
    assert colour is not None
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), colour, strict=True))


def test_zero_of_a_diverging_map_is_as_the_background_and_large_values_stand_out() -> None:
    for theme in (DARK, LIGHT):
        levels = level_colours(ColourMap.DIVERGING, dark=theme.dark)[:LEVELS]
        ground = luminance(Color.parse(theme.background or "").rgb)
        away = [abs(luminance(colour) - ground) for colour in levels]
        assert max(away[LEVELS // 2 - 1 : LEVELS // 2 + 1]) < 10
        assert min(away[0], away[-1]) > 120
        assert away[: LEVELS // 2] == sorted(away[: LEVELS // 2], reverse=True)
        assert away[LEVELS // 2 :] == sorted(away[LEVELS // 2 :])
