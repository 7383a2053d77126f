from __future__ import annotations

from aprtui.tui.draw.colours import LEVELS, RAMP, Mark, glyph


def test_glyphs_grow_with_the_level_and_marks_have_their_own() -> None:
    glyphs = [glyph(level) for level in range(LEVELS)]
    assert "".join(dict.fromkeys(glyphs)) == RAMP
    assert [glyph(mark) for mark in Mark] == ["·", "0", "I", "X", "+", "-"]
