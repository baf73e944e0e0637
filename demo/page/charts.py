"""Small charts as SVG that takes its colours from the page, so that it is readable in light and dark."""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 250, 58, 40, 14


def error_curve(errors: Sequence[float], chosen: int, sure: float | None) -> str:
    """The denoising error of the best set of K = 1, 2, ... objects, the chosen K marked."""
    low, high = min(errors), max(errors)
    pad = 0.08 * (high - low) or 0.01
    low, high = low - pad, high + pad
    wide, tall = WIDTH - LEFT - 14, HEIGHT - BOTTOM - TOP

    def place(k: int, error: float) -> tuple[float, float]:
        return LEFT + wide * (k - 0.5) / len(errors), TOP + tall * (high - error) / (high - low)

    points = [place(k, error) for k, error in enumerate(errors, start=1)]
    parts = [f'<line class="axis" x1="{LEFT}" y1="{TOP + tall}" x2="{WIDTH}" y2="{TOP + tall}"/>']
    for value in ticks(low, high):
        y = place(1, value)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    parts.append('<polyline points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>')
    for k, ((x, y), error) in enumerate(zip(points, errors, strict=True), start=1):
        own = ' class="on"' if k == chosen else ""
        parts.append(f'<circle{own} cx="{x:.1f}" cy="{y:.1f}" r="{6 if own else 3.5}">')
        parts.append(f"<title>{k} objects: {error:.4f}</title></circle>")
        parts.append(f'<text{own} x="{x:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{k}</text>')
    if sure is not None and 1 <= chosen <= len(points):
        x, y = points[chosen - 1]
        told = f"{100 * sure:.0f} % sure"
        parts.append(f'<text class="on" x="{x:.1f}" y="{max(y - 14, TOP + 8):.1f}" text-anchor="middle">{told}</text>')
    parts.append(f'<text x="{LEFT + wide / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">number of objects</text>')
    return f'<svg class="igm-chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values between two numbers."""
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= min((1, 2, 5, 10), key=lambda factor: abs((high - low) / (factor * step) - about))
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, math.floor(high / step + 1e-9) + 1)]


def bars(alternatives: Sequence[tuple[str, float]]) -> str:
    """A bar for each alternative: by how much its error is above that of the first, which is the answer."""
    best = alternatives[0][1]
    most = max((error - best for _, error in alternatives), default=0) or 1
    rows = []
    for number, (name, error) in enumerate(alternatives):
        share = 100 * (error - best) / most
        told = f"{error:.4f}" if number == 0 else f"+{100 * (error - best) / best:.2f} %"
        own = "igm-bar-row on" if number == 0 else "igm-bar-row"
        rows.append(
            f'<div class="{own}" title="error {error:.5f}"><span>{escape(name)}</span>'
            f'<i><b style="width:{share:.1f}%"></b></i><em>{told}</em></div>'
        )
    return f'<div class="igm-bars">{"".join(rows)}</div>'
