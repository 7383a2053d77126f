"""The fixed prompts and sampling settings that the embedded model is judged by, chosen before any output was seen."""

from __future__ import annotations

PROMPTS: tuple[str, ...] = (
    "def fib(n):",
    "def read_lines(path):\n",
    "class Stack:\n",
    "import argparse\n\n\ndef main():\n",
    "for name in sorted(os.listdir(path)):\n",
)

SEED = 0
TEMPERATURE = 0.7
TOKENS = 128

REPEAT_PASSES_NEEDED = 4
PARSE_PASSES_NEEDED = 3
