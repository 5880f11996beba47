"""How every picture looks: legible where it is printed 100 mm wide, on white and on dark pages, by all eyes."""

import math
from pathlib import Path

from mdistiller.engine.tables import shorten
from mdistiller.engine.writing import atomic_write
from mdistiller.errors import UserError, printable

SUFFIXES = ".png", ".svg"
WIDTH = 100 / 25.4  # inches
INK = "#777777"  # 4.5 times as dark as white, 4.2 times as light as the darkest pages
# Of Okabe and Ito's colours, which the colour-blind tell apart, those that stand out from white and from dark pages.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", INK
LINES = "-", "--", ":", "-."
MARKERS = "o", "s", "^", "D", "v", "P", "X", "<", ">", "*"
DIVERGING = "#0072B2", "#F7F7F7", "#D55E00"
LINE, HANDLE = 76, 7  # characters of a legend that are as wide as the picture, and that its lines take of them
LOOKS = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.2,
    "text.parse_math": False,  # names are text, dollars and all
    "svg.hashsalt": "mdistiller",  # the same picture is the same file
}


def matplotlib():
    """The package, whose `figure`, `rc_context` and `colors` are there. Raises UserError where it is missing."""
    try:
        import matplotlib.colors
        import matplotlib.figure
    except ImportError as error:
        raise UserError(f"pictures need matplotlib ({error}); type: pip install matplotlib") from error
    return matplotlib


def check_output(path):
    """Raise UserError where no picture can have the name `path`; so that this is known before anything is computed."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output is {path}; expected a name that ends in {' or '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"--output is {path}, a folder; name a file in it, such as {path / 'picture.svg'}")


def sheet(rows, columns, height):
    """A figure of `rows` x `columns` axes, one picture wide; height: in mm. Returns it and its axes in a list."""
    figure = matplotlib().figure.Figure(figsize=(WIDTH, height / 25.4), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def grid_shape(count, most_columns=3):
    """Rows and columns for `count` panels."""
    rows = math.ceil(count / most_columns)
    return rows, math.ceil(count / rows)


def diverging():
    """Colours from blue over white to orange, for values on both sides of zero."""
    return matplotlib().colors.LinearSegmentedColormap.from_list("diverging", DIVERGING)


def words(text, most=LINE - HANDLE):
    """A name of anyone's as a picture shows it: in one line, of at most so many characters, and never hidden."""
    return shorten(printable(text).lstrip("_") or "?", most)


def legend_below(figure, axes):
    """Name what `axes` show below all of the figure, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(4, LINE // (HANDLE + max(map(len, labels)))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.2, columnspacing=1.2)


def save(figure, path):
    """Write `figure` to `path`, PNG or SVG, in the place of what was there."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=300, metadata=metadata)
