"""What the live screen means, in words."""

EXPLANATION = """\
The text is what the model says, special tokens included. Each token is tinted by a signal (t): dark where the model \
was sure, bright where it was not; the line above the prompt says what the ends mean, and puts the token into words. \
Flip risk is the chance that an engine that rounds otherwise would find another token likeliest: an estimate from \
the margin between the two largest logits and the noise at the logits, which is measured once for each model (q8 \
against exact on the tokens of the run) when the signal is first chosen.

The grid shows one forward pass: the one that chose the token. A row is a layer, a column is a stage in the order in \
which stages are computed. The statistic is one of six (m). m after a number is thousandths, k thousands.

Colours of rms, absmax and mean compare layers: each column has a scale of its own. Those of change and time compare \
all cells. Change is that of the rms against the token before, in per cent. Stages that a kernel computes in one go \
have their time at the first of them, and ← at the others. NaN (X) and Inf (I) have colours of their own and win \
over every number; the lower border names the first stage that holds one. The line at the bottom says all that is \
known of the stage under the cursor.

Time travel: [ and ] (or shift with an arrow key) move the whole screen to another token of the run, as far back as \
records are kept (256); G returns to the present. The engine goes on meanwhile unless it is paused.

The logit lens (v) says for each layer what the model would say next if it ended there: the last norm and the head, \
applied to the layer's output. It costs time for every token.

A capture (w) evaluates the tokens of the run again with every tap and writes all stage tensors; W copies the \
headless command for the same.
"""
