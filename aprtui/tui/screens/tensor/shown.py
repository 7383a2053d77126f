"""All that the tensor screen shows at one moment, and what follows from it: the scale, and what the heatmap draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.profile import Profile
from aprtui.tui.draw.levels import Mark
from aprtui.tui.draw.tiles import Scale, ScaleKind, Tiling, finite_range, scale_for
from aprtui.tui.draw.viewport import Viewport, zoom_words
from aprtui.tui.screens.tensor.load import Glimpse
from aprtui.tui.screens.tensor.source import TensorSource
from aprtui.tui.screens.tensor.text import RowLabels


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One plane of a source through a view; `glimpse` and `profile` are None until threads have read them.

    The scale covers the share `clip` of the values.
    """

    source: TensorSource
    plane: int
    view: Viewport
    labels: RowLabels
    kind: ScaleKind
    clip: float
    glimpse: Glimpse | None = None
    profile: Profile | None = None

    def scale(self) -> Scale:
        """The scale: over all values where they are known, else over those in view."""
        stats = self.source.stats if self.profile is None else self.profile.stats
        if stats is not None and stats.min is not None and stats.max is not None:
            low, high = stats.min, stats.max
        else:
            low, high = (0.0, 0.0) if self.glimpse is None else finite_range(self.glimpse.values)
        if self.profile is not None and self.clip < 1:
            most = self.profile.magnitude_below(self.clip)
            low, high = max(low, -most), min(high, most)
        return scale_for(self.kind, low, high)

    def scale_words(self) -> str:
        """The scale in words."""
        return f"{self.kind} scale" + ("" if self.clip == 1 else f" of {100 * self.clip:g} % of the values")

    def title(self) -> str:
        """What is shown."""
        rows, columns = ("queries" if axis == "query" else f"{axis}s" for axis in self.source.axes)
        heads = f", head {self.plane} of {self.source.planes}" if self.source.planes > 1 else ""
        return f"{self.source.title}{heads}: {rows} × {columns}"

    def zoom_words(self) -> str:
        """How much of it is shown."""
        return zoom_words(self.view)

    def tile(self, glimpse: Glimpse, scale: Scale) -> NDArray[np.uint8]:
        """Levels and marks as the heatmap draws them."""
        levels = scale.levels(glimpse.values)
        return self.view.enlarged(with_meaningless(levels, glimpse.tiling, glimpse.known, self.source.causal))


def with_meaningless(tile: NDArray[np.uint8], tiling: Tiling, known: int, causal: bool) -> NDArray[np.uint8]:
    """`tile` with cells marked as missing that are not known yet, and those of an attention map with key > query."""
    tile = tile.copy()
    tile[known:] = Mark.MISSING
    if causal:
        last_row = tiling.row + (np.arange(tile.shape[0]) + 1) * tiling.rows_per_cell - 1
        first_column = tiling.column + np.arange(tile.shape[1]) * tiling.columns_per_cell
        tile[first_column[None, :] > last_row[:, None]] = Mark.MISSING
    return tile
