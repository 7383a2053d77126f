"""Tables: which columns find room, what is drawn, where the cursor goes."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.widget import Widget

from aprtui.tui.widgets.table import Column, Row, Table, Tone, column_widths

COLUMNS = (Column("name", grows=True), Column("size", right=True), Column("note", rank=1))


def rows(count: int) -> list[Row]:
    return [Row(index, (f"row {index}", str(index * 100), "x")) for index in range(count)]


class TableApp(App[None]):
    CSS = "Table { height: 1fr; border: none; padding: 0; }"

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def compose(self) -> ComposeResult:
        yield Table(COLUMNS, "Nothing yet.\nPress x.")

    def on_table_pointed(self, message: Table.Pointed) -> None:
        self.heard.append(f"pointed {message.table.key}")

    def on_table_chosen(self, message: Table.Chosen) -> None:
        self.heard.append(f"chosen {message.table.key}")


def lines(table: Widget) -> list[str]:
    return [table.render_line(y).text.rstrip() for y in range(table.size.height)]


def test_columns_of_the_highest_rank_are_left_out_first_and_the_one_that_grows_is_cut() -> None:
    columns = (Column("a", grows=True), Column("b"), Column("c", rank=1), Column("d", rank=2))
    needed = [30, 5, 5, 5]
    assert column_widths(columns, needed, 60) == [30, 5, 5, 5]
    assert column_widths(columns, needed, 40) == [19, 5, 5, 5]
    assert column_widths(columns, needed, 35) == [21, 5, 5, 0]
    assert column_widths(columns, needed, 30) == [23, 5, 0, 0]
    assert column_widths(columns, needed, 10) == [3, 5, 0, 0]


async def test_rows_stand_below_their_titles_aligned_and_only_those_in_view_are_drawn() -> None:
    async with TableApp().run_test(size=(24, 4)) as pilot:
        table = pilot.app.query_one(Table)
        table.show(rows(50))
        assert lines(table) == ["name    size  note", "row 0      0  x", "row 1    100  x", "row 2    200  x"]
        await pilot.press("end")
        assert lines(table) == ["name    size  note", "row 47  4700  x", "row 48  4800  x", "row 49  4900  x"]
        assert table.border_subtitle == "50 of 50"


class PointedApp(TableApp):
    def on_mount(self) -> None:
        table = self.query_one(Table)
        table.show(rows(50))
        table.point(2)


async def test_rows_before_the_one_that_is_pointed_at_first_are_in_view() -> None:
    async with PointedApp().run_test(size=(24, 4)) as pilot:
        table = pilot.app.query_one(Table)
        assert [line.split()[1] for line in lines(table)[1:]] == ["0", "1", "2"] and table.key == 2


async def test_without_rows_it_says_what_to_do() -> None:
    async with TableApp().run_test(size=(24, 4)) as pilot:
        assert lines(pilot.app.query_one(Table)) == ["Nothing yet.", "Press x.", "", ""]


async def test_texts_are_cut_at_the_end_that_matters_less() -> None:
    async with TableApp().run_test(size=(12, 3)) as pilot:
        table = pilot.app.query_one(Table)
        table.show([Row(0, ("the beginning",))], [Column("name", grows=True)])
        assert lines(table)[1] == "the beginni…"
        table.show(
            [Row(0, ("the very end",)), Row(1, ("from the very end",))], [Column("a", grows=True, end_matters=True)]
        )
        assert lines(table)[1:] == ["the very end", "…he very end"]


async def test_every_key_moves_the_cursor_and_enter_chooses() -> None:
    async with TableApp().run_test(size=(24, 5)) as pilot:
        table, app = pilot.app.query_one(Table), pilot.app
        assert isinstance(app, TableApp)
        table.show(rows(20))
        for key, expected in [
            ("down", 1), ("j", 2), ("k", 1), ("up", 0), ("up", 0), ("pagedown", 10), ("pagedown", 19), ("pageup", 9),
            ("end", 19), ("j", 19), ("home", 0),
        ]:  # fmt: skip
            await pilot.press(key)
            assert table.key == expected, key
        await pilot.press("enter")
        assert app.heard[-1] == "chosen 0"


async def test_mouse_points_and_chooses() -> None:
    async with TableApp().run_test(size=(24, 5)) as pilot:
        table, app = pilot.app.query_one(Table), pilot.app
        assert isinstance(app, TableApp)
        table.show(rows(20))
        await pilot.click(Table, offset=(3, 3))
        assert (table.key, app.heard[-1]) == (2, "pointed 2")
        await pilot.click(Table, offset=(3, 3))
        assert app.heard[-1] == "chosen 2"
        await pilot.click(Table, offset=(3, 0))
        assert table.key == 2, "a click on the titles is no choice"


async def test_the_cursor_stays_on_its_row_when_rows_come_and_go() -> None:
    async with TableApp().run_test(size=(24, 5)) as pilot:
        table = pilot.app.query_one(Table)
        table.show(rows(20))
        assert table.point(7) and not table.point("nowhere")
        table.show(rows(20)[5:])
        keys = [table.key]
        for remaining in (rows(3), []):
            table.show(remaining)
            keys.append(table.key)
        assert keys == [7, 2, None]
        await pilot.press("down", "enter")


async def test_a_tone_and_wide_characters_keep_the_columns() -> None:
    async with TableApp().run_test(size=(24, 4)) as pilot:
        table = pilot.app.query_one(Table)
        table.show([Row(1, ("日本", "1", "x"), Tone.BAD), Row(2, ("a" * 30, "22", "y"))])
        assert lines(table)[2].startswith("aaaaaaaaaaaaaaaaa…  ")
        assert [table.render_line(y).cell_length for y in range(4)] == [24] * 4
        colour = [table.render_line(y)._segments[0].style for y in (1, 2)]
        assert colour[0] != colour[1]
