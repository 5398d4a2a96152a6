"""How the book's plots look."""

INK = "#757b83"  # of text and lines: a grey that can be read on white and on black
COLOURS = ("#3f7fd6", "#3c9a5f", "#d07a2d", "#9a67c8", "#8a9099")  # motion, adapter, two more, the base


def plot_style() -> None:
    """Plots for light and dark pages: no ground of their own, grey ink, the book's colours. Sets matplotlib's defaults."""
    from cycler import cycler
    from matplotlib import rcParams

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
    rcParams.update(dict.fromkeys(inked, INK))
    rcParams.update(dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"))
    rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "grid.color": INK,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "font.size": 10,
            "image.cmap": "viridis",
        }
    )
