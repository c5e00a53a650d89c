"""Curves as a PNG file; the only importer of matplotlib, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shipper.errors import PictureFailed

if TYPE_CHECKING:
    from shipper.plot.terminal import Chart

_DPI = 100


def save(chart: Chart, path: Path, x_label: str) -> None:
    """Write the chart to `path`; its sizes are in pixels here.

    Raises:
        PictureFailed: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PictureFailed(
            f"--png needs matplotlib, which is not there ({error}): pip install 'lens-ship[plot]'"
        ) from error
    figure = Figure(figsize=(chart.width / _DPI, chart.height / _DPI), dpi=_DPI, layout="tight")
    axes = figure.subplots()
    for number, (name, lines) in enumerate(chart.curves.items()):
        for place, piece in enumerate(lines):
            # A name that begins with an underscore, or holds a $, means something to matplotlib.
            label = name.replace("$", r"\$") if place == 0 else None
            (line,) = axes.plot(*zip(*piece, strict=True), color=f"C{number % 10}", linewidth=1.2)
            line.set_label(f"\u200b{label}" if label else "_nolegend_")
            if len(piece) == 1:
                line.set_marker(".")
    axes.set_title(chart.title.replace("$", r"\$"))
    axes.set_xlabel(x_label)
    axes.grid(visible=True, alpha=0.3)
    if chart.log:
        axes.set_yscale("log")
    if chart.curves:
        axes.legend()
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise PictureFailed(f"{path}: {error.strerror or error}; nothing was written") from error
