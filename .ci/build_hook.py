"""The build hook: a wheel and an sdist carry the revision that they were built from (`aprtui/build.py`)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_IN_SDIST = "build.json"
"""Beside the package, not in it: a wheel of the sdist then gets the file as a wheel of the checkout does."""


class RevisionHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds `BUILD_FILE`, except to an editable install, whose revision changes under it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        sys.path.insert(0, str(root))
        from aprtui.build import BUILD_FILE, write_build

        if version == "editable":
            return
        path = root / _IN_SDIST
        if not path.exists():
            self._folder = tempfile.TemporaryDirectory(prefix="aprtui-build-")
            path = Path(self._folder.name) / _IN_SDIST
            write_build(root, path)
        build_data["force_include"][str(path)] = BUILD_FILE if self.target_name == "wheel" else _IN_SDIST
