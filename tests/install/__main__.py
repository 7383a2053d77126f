"""Build, install and use aprtui as a stranger would, and print what a first start costs."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.install.environment import INSTALLERS, MOST_MEGABYTES, Place, build, install
from tests.install.jobs import JOBS, figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.install", description=__doc__)
    parser.add_argument("--only", action="append", choices=(*JOBS, "figures"), help="may be given several times")
    parser.add_argument("--from", dest="kinds", action="append", choices=("wheel", "sdist"))
    parser.add_argument("--by", choices=INSTALLERS, default="pip", help="what installs it (default: pip)")
    options = parser.parse_args()
    for kind in options.kinds or ("wheel", "sdist"):
        with tempfile.TemporaryDirectory(prefix="aprtui-install-") as name:
            folder, began = Path(name), time.monotonic()
            package = build(kind, folder)
            size = package.stat().st_size / 1e6
            print(f"{package.name}: {size:.2f} MB (at most {MOST_MEGABYTES:g})", flush=True)
            place = install(package, folder, INSTALLERS[options.by])
            print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
            use(place, folder, options.only or (*JOBS, "figures"))
    return 0


def use(place: Place, folder: Path, names: Sequence[str]) -> None:
    if "figures" in names:
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; seconds to the first token, processor time")
        for name, done in figures(place, folder):
            print(f"{name:14}{done.to_first_output:8.2f}{done.processor:8.2f}", flush=True)
    for name, job in JOBS.items():
        if name in names:
            (own := folder / name.replace(" ", "-")).mkdir()
            began = time.monotonic()
            job(place, own)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
