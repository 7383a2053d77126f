"""Pure functions and values of drawing: levels, colours, tiles, the viewport of a tensor, texts of numbers. No widget, no screen."""
