"""The two captures of a comparison as they lie on the disk, and whose model they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aprtui.errors import AprtuiError
from aprtui.model.digest import file_digest
from aprtui.resources import embedded_model
from aprtui.trace.capture import Capture


@dataclass(frozen=True, slots=True)
class Sides:
    """Both captures; None for two stage files, and where one cannot be opened."""

    a: Capture | None
    b: Capture | None
    files: tuple[Path, Path] | None = None
    """Two stage files, where these are compared."""

    @property
    def model_name(self) -> str:
        """The model as the manifests name it; empty where none does."""
        names = [
            side.manifest.model.name for side in (self.a, self.b) if side is not None and side.manifest is not None
        ]
        return names[0] if names else ""

    @property
    def embedded(self) -> Path | None:
        """The embedded model, where both sides are captures of it."""
        manifests = [side.manifest for side in (self.a, self.b) if side is not None]
        named = {manifest.model.sha256 for manifest in manifests if manifest is not None}
        if len(manifests) < 2 or None in manifests or len(named) != 1:
            return None
        path = embedded_model()
        try:
            return path if named == {file_digest(path)} else None
        except AprtuiError:
            return None


def open_sides(a: Path, b: Path) -> Sides:
    """Both captures, or both stage files. The comparison itself reports a side that cannot be opened."""
    if a.is_file() and b.is_file():
        return Sides(None, None, (a, b))
    return Sides(_opened(a), _opened(b))


def _opened(path: Path) -> Capture | None:
    try:
        return Capture.open(path)
    except (AprtuiError, OSError):
        return None
