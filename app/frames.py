"""What all figures share: the colour slots and the frame. Pure.

Colours are slots, not colours. Streamlit's front end replaces "#000001" to "#000010" in any figure
by the theme's chartCategoricalColors, "#000011" to "#000020" by the sequential list, "#000038" by
the page's background and "#000039" by a 5 % ink, so a figure knows no mode. This is not documented:
a browser test compares a fill in both modes.
"""

from typing import Any

import plotly.graph_objects as go

from advisor.memory import CATEGORIES

INK, ADVISOR, BLUE, AMBER = "#000001", "#000002", "#000004", "#000006"
BRICK, QUIET, PALE = "#000007", "#000009", "#000010"
PAPER, GRID = "#000038", "#000039"
SEQUENTIAL = [f"#0000{11 + i}" for i in range(10)]
FILL = dict(
    zip(
        CATEGORIES,
        (QUIET, "#000003", BLUE, "#000005", AMBER, BRICK, "#000008", PALE),
        strict=True,
    )
)
DARK_TEXT, LIGHT_TEXT = "#1C2024", "#FFFFFF"
ON_FILL = {
    name: DARK_TEXT
    if name in ("optimizer", "gradients", "activations", "fragmentation")
    else LIGHT_TEXT
    for name in CATEGORIES
}
TEXT_SIZE = 11


def fade(fig: go.Figure) -> go.Figure:
    """The same figure, pale: it shows the plan before a change that could not be answered."""
    fig.update_traces(opacity=0.35)
    fig.update_traces(fillcolor=PALE, selector={"stackgroup": "memory"})
    return fig


def frame(fig: go.Figure, height: int, **layout: Any) -> go.Figure:
    """The frame all figures share: no legend, hairline grid, grey text."""
    fig.update_layout(
        height=height,
        margin={"l": 44, "r": 12, "t": 8, "b": 32},
        showlegend=False,
        hovermode="x unified",
        hoverlabel={"namelength": -1},
        **layout,
    )
    font = {"color": QUIET, "size": TEXT_SIZE}
    x_axis = {
        "showgrid": False,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": PALE,
        "linecolor": PALE,
        "showline": True,
        "title_standoff": 4,
        "tickfont": font,
        "title_font": font,
    }
    y_axis = {
        "gridcolor": GRID,
        "gridwidth": 1,
        "zeroline": False,
        "nticks": 5,
        "tickfont": font,
        "title_font": font,
    }
    known: Any = fig.layout.to_plotly_json()
    for kind, values in (("xaxis", x_axis), ("yaxis", y_axis)):
        for name in {kind, *(key for key in known if key.startswith(kind))}:
            # Five times as fast as update_xaxes, and a live page frames five figures a tick.
            fig.layout[name] = {**known.get(name, {}), **values}
    return fig


def note(fig: go.Figure, x: Any, y: Any, text: str, color: str = QUIET, **kw: Any) -> None:
    """Write `text` at a place of the figure, without an arrow."""
    font = {"size": TEXT_SIZE, "color": color}
    fig.add_annotation(**{"x": x, "y": y, "text": text, "showarrow": False, "font": font, **kw})
