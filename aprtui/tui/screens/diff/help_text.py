"""What the diff screen says about itself: its help, and what to do where there is nothing to compare."""

from __future__ import annotations

EXPLANATION = """\
The verdict is that of `aprtui diff A B --json`, run beside the screen; y copies the command that gives it. A is the \
reference.

In the grid a row is a layer and a column a stage, in the order in which they are computed. The upper half of a cell \
is the error that the stage adds itself, the lower half the difference of the sides as it is observed there, with what \
it inherited; both over their bound. Without a replay the upper half stays empty where a stage only hands error on: \
nobody knows what it adds: R replays both sides from their own inputs and tells. Behind the colours stands a sign, so \
that none of it needs colour; the legend below says what the signs mean.

+ and - put a bound of your own on the difference, by the metric that is shown, and judge every stage again at once; \
backspace drops it. M shows the next metric: in greys where no bound is on it.
"""

NOTHING_TO_COMPARE = """\
Nothing to compare yet.

Mark two captures in Browse (2) with space, then press d;
or start with two captures:   aprtui open A B

A capture is written by   aprtui trace -p "def fib(n):" --save-tensor-dir A
and one with a fault by   aprtui trace -p "def fib(n):" --save-tensor-dir B --inject layer=1,stage=ffn_up,kind=scale
"""
