"""Groups of keys that move a cursor or a view: a list of keys has one line for each."""

from textual.binding import Binding

MOVES = Binding.Group("Move")
PAGES = Binding.Group("Ten rows")
COLUMNS = Binding.Group("Ten columns")
ENDS = Binding.Group("First, last")
ZOOMS = Binding.Group("Zoom")
HEADS = Binding.Group("Other head")
STAGES = Binding.Group("Next stage, the one before")
BOUNDS = Binding.Group("Bound wider, narrower")
TOKENS = Binding.Group("Token before, after")
TEN_TOKENS = Binding.Group("Ten tokens before, after")
END_TOKENS = Binding.Group("Oldest, newest token")
