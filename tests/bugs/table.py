"""All bugs."""

from __future__ import annotations

from tests.bugs.activations import ACTIVATIONS
from tests.bugs.attention import ATTENTION
from tests.bugs.logits import LOGITS
from tests.bugs.matrices import MATRICES
from tests.bugs.norms import NORMS
from tests.bugs.pairs import PAIRS
from tests.bugs.rope import ROPE
from tests.bugs.storage import STORAGE
from tests.bugs.wiring import WIRING

BUGS = (*ROPE, *NORMS, *MATRICES, *ATTENTION, *ACTIVATIONS, *WIRING, *LOGITS, *STORAGE, *PAIRS)
