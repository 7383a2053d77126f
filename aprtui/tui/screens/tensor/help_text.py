"""What the tensor screen says about itself."""

EXPLANATION = """\
A row is a token, a column a channel; of an attention map a row is a query, a column a key, and one head is shown at a \
time. Where there is no room for all values, a cell shows the one of largest magnitude among its own: a single wrong \
number is seen. NaN (X) wins over Inf (I), and Inf over any number; + lies beyond the scale. Zoomed in, values are \
written out.

The bars beside the rows show the rms of each token over three powers of ten. The scale is linear, logarithmic (the \
magnitude; exact zeros stay empty) or symmetric (blue below zero, orange above); clipping leaves the largest values \
out of it, so that the others can be told apart.

At the right (on small screens with v): the value under the cursor with its bits, a histogram of all values with \
logarithmic bars, and the channels with the largest rms, with how many times the median that is. Below: the bytes of \
the file around the value.
"""

NOTHING_OPEN = """\
No tensor is open.
Press 2 for Browse, choose a capture, and in it a stage, each with enter.
`aprtui open FILE` opens a stage file."""
