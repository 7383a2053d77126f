"""aprtui: find the first wrong number in a language model."""

__version__ = "0.1.0"
