"""All harnesses by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzz.captures import CAPTURES
from tests.fuzz.dumps import DUMPS
from tests.fuzz.harness import Harness
from tests.fuzz.model_files import MODEL_FILES
from tests.fuzz.texts import TEXTS

HARNESSES: Mapping[str, Harness] = {entry.name: entry for entry in (*MODEL_FILES, *CAPTURES, *DUMPS, *TEXTS)}
