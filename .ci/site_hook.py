"""Puts the pages of the site beside them as Markdown, where `llms.txt` links to them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def on_post_build(config: Any) -> None:
    for page in Path(config["docs_dir"]).glob("*.md"):
        shutil.copy(page, config["site_dir"])
