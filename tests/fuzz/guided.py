"""One harness by coverage: atheris changes inputs until they reach new lines, until it is interrupted or fails.

pip install atheris                                     # Apache 2.0; Linux, Python 3.11 to 3.13
python -m tests.fuzz.guided torch -max_total_time=600   # a harness, then options of libFuzzer
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

from tests.fuzz.harness import execute, memory_folder, strict

with atheris.instrument_imports(include=["aprtui"]):
    from tests.fuzz.table import HARNESSES


def main() -> None:
    name, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="aprtui-fuzz-", dir=memory_folder()) as folder, strict():
        (scratch := Path(folder, "scratch")).mkdir()
        (corpus := Path(folder, "corpus")).mkdir()
        target = HARNESSES[name].prepare(scratch)
        for number, sample in enumerate(target.samples):
            (corpus / str(number)).write_bytes(sample)

        def run(data: bytes) -> None:
            execute(target, data)

        atheris.Setup([sys.argv[0], *options, str(corpus)], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
