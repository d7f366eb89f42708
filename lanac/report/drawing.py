"""What lanac's pictures share: colours, the font, text; plain SVG."""

from __future__ import annotations

from html import escape

INK, SOFT, GRID = "#1e293b", "#64748b", "#e2e8f0"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def opening(width: float, height: float) -> str:
    """The first tag of a picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="{FONT}">'
    )


def paper(width: float, height: float) -> str:
    """A white ground."""
    return f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>'


def text_at(
    x: float, y: float, text: str, size: float, colour: str, *, weight: int = 400,
    anchor: str = "start",
) -> str:  # fmt: skip
    """A line of text."""
    return (
        f'<text x="{x:.4g}" y="{y:.6g}" font-size="{size:g}" fill="{colour}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def rule(x: float, y: float, to_x: float, to_y: float, colour: str = GRID) -> str:
    """A thin straight line."""
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}" '
        'stroke-width="1"/>'
    )
