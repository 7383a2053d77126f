from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aprtui.errors import UsageError
from aprtui.tui.frame.state import ScreenName, ScreenState, is_state, parse_state, screen_state


@given(
    st.sampled_from(ScreenName),
    st.dictionaries(
        st.text("abcdefgh_", min_size=1), st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5
    ),
)
def test_a_state_survives_its_string(name: ScreenName, fields: dict[str, str]) -> None:
    state = ScreenState(name, fields)
    assert is_state(str(state))
    assert parse_state(str(state)) == state


def test_a_state_reads_as_a_url() -> None:
    state = screen_state(ScreenName.DIFF, a="runs/good", b="b ad", layer=2, stage="ffn_gate", token=None)
    assert str(state) == "aprtui:diff?a=runs/good&b=b%20ad&layer=2&stage=ffn_gate"
    assert parse_state(str(state)).number("layer") == 2
    assert parse_state(str(state)).number("token") is None


@pytest.mark.parametrize("text", ["aprtui:", "aprtui:nowhere?a=b", "aprtui:diff?a", "aprtui:diff?&&", "aprtui:DIFF"])
def test_what_is_no_state_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_state(text)
    assert "\n" not in str(refused.value)


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="layer is 'two'"):
        parse_state("aprtui:diff?layer=two").number("layer")
