"""How the benches say whether an aim is met: a line with the figure, the aim and the answer.

Nothing is asserted. A figure in absolute time belongs to the machine and its load; run it again on
a quiet one before believing a "not met".
"""

from __future__ import annotations

from collections.abc import Sequence


def at(taken: Sequence[int], quantile: float) -> float:
    """The quantile of sorted nanoseconds, in microseconds."""
    return taken[min(len(taken) - 1, int(len(taken) * quantile))] / 1000


def aim(text: str, figure: float, limit: float, unit: str = "", *, least: bool = False) -> str:
    """One line; `least`: the figure has to be so large at least."""
    met = figure >= limit if least else figure <= limit
    sign = "≥" if least else "≤"
    shown = f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:,.2f}"
    return f"  {text:<66} {shown}{unit}, aim {sign} {limit:g}{unit}: {'met' if met else 'not met'}"
