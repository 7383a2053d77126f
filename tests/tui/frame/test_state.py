from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aprtui.errors import UsageError
from aprtui.tui.frame.state import FIELDS, ScreenName, ScreenState, is_state, parse_state, screen_state


@given(st.sampled_from(ScreenName), st.data())
def test_a_state_survives_its_string(name: ScreenName, data: st.DataObject) -> None:
    texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    state = ScreenState(name, data.draw(st.dictionaries(st.sampled_from(FIELDS[name]), texts, max_size=5)))
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


def test_a_field_that_the_screen_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(UsageError) as refused:
        parse_state("aprtui:contracts?path=one.yaml&layer=2")
    expected = "contracts has no field 'layer': expected path, document, falsifier, reference, capture"
    assert str(refused.value) == f"aprtui:contracts?path=one.yaml&layer=2: {expected}"


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="layer is 'two'"):
        parse_state("aprtui:diff?layer=two").number("layer")
