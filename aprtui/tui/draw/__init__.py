"""Pure functions and values of drawing: levels, colours, tiles, viewports, texts of numbers. No widget, no screen."""
