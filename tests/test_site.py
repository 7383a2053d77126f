"""The documentation builds as a site: every page is in the navigation, every link and heading exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import CHECKOUT


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    # Not --quiet: warnings that are not printed are not counted either.
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=CHECKOUT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "verdicts" / "index.html").read_text()
    assert "https://fonts." not in page, "pages ask nothing of other hosts"
    links = re.findall(r"\]\(([^)]+)\)", (tmp_path / "llms.txt").read_text())
    assert sorted(links) == sorted(path.name for path in (CHECKOUT / "docs").glob("*.md"))
    assert all((tmp_path / link).is_file() for link in links)
