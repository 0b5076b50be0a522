"""The card as one HTML page: tables, and plots as SVG inside it."""

import base64
import dataclasses
import io
import math
from collections.abc import Sequence

import jinja2
import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medscope_jax.report.trace_page import environment
from medscope_jax.visible import visible
from tfds_builders.card.blind_baselines import Prior
from tfds_builders.card.leaks import Leak
from tfds_builders.card.near_duplicates import MOST_BITS
from tfds_builders.card.stats import Summaries, histogram

# Stage of the build, source, reason, and how many rows or videos.
LeftOut = tuple[str, str, str, int]

_MOST_LEAKS = 200
_MOST_SOURCES = 8
_LIGHT = {"text": "#59636e", "bar": "#1f55b5", "grid": "#d8dde3"}
_DARK = {"text": "#a3adb8", "bar": "#8ab8ff", "grid": "#363d46"}


@dataclasses.dataclass(frozen=True)
class Card:
    """Everything that a card's page shows.

    Attributes:
      counts: records by (part, split, task, source).
      videos: how many videos each (split, source) has.
      spreads: title -> summaries by source, of what the title says.
      shares: source -> share of its questions that come with evidence.
      priors: what blind guesses score.
      leaks: what splits share.
      left_out: what a build could not use or cut.
    """

    counts: dict[tuple[str, str, str, str], int]
    videos: dict[tuple[str, str], int]
    spreads: dict[str, Summaries]
    shares: dict[str, float]
    priors: Sequence[Prior]
    leaks: Sequence[Leak]
    left_out: Sequence[LeftOut] = ()


def render_card(card: Card, title: str) -> str:
    """The page of a card, without scripts or outside resources; same card, same bytes."""
    env = environment()
    env.loader = jinja2.ChoiceLoader([jinja2.PackageLoader("tfds_builders"), env.loader])
    return env.get_template("card.html.j2").render(
        title=title,
        card=card,
        total=sum(card.counts.values()),
        num_videos=sum(card.videos.values()),
        spreads=[spread_view(name, spread) for name, spread in card.spreads.items()],
        leaks=[str(leak) for leak in card.leaks[:_MOST_LEAKS]],
        more_leaks=max(0, len(card.leaks) - _MOST_LEAKS),
        most_bits=MOST_BITS,
        number=number,
        percent=lambda value: "\u2013" if value is None else f"{100 * value:.1f}",
    )


def number(value: float) -> str:
    """A number for a table: whole ones whole, others to three digits; a dash for NaN."""
    if math.isnan(value):
        return "\u2013"
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def spread_view(title: str, spread: Summaries) -> dict:
    """What the template shows of one spread: {title, rows, light, dark, text}.

    rows: (source, count, mean, median, most); light and dark: SVG data URIs of its histograms.
    """
    rows = [(s, v.count, v.mean, v.median, v.most) for s, v in spread.items()]
    shown = dict(list(spread.items())[:_MOST_SOURCES])
    text = "; ".join(f"{s}: median {number(v.median)} of {v.count}" for s, v in shown.items())
    light = _draw(shown, _LIGHT)
    dark = light
    for name, color in _LIGHT.items():  # drawing takes far longer than replacing
        dark = dark.replace(color, _DARK[name])
    drawn = {"light": _data_uri(light), "dark": _data_uri(dark)}
    return {"title": title, "rows": rows, "text": text} | drawn


def _draw(spread: Summaries, colors: dict[str, str]) -> str:
    """One histogram a source, side by side, each with its own axes, as SVG."""
    columns = min(4, len(spread))
    lines = math.ceil(len(spread) / columns)
    figure = Figure(figsize=(2.6 * columns, 1.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in panels[len(spread) :]:
        panel.remove()
    for panel, (source, summary) in zip(panels, spread.items(), strict=False):
        edges, counts = histogram(summary.values)
        panel.bar(edges[:-1], counts, edges[1] - edges[0], align="edge", color=colors["bar"])
        panel.axvline(summary.median, color=colors["text"], linewidth=1, linestyle=":")
        panel.set_title(
            visible(source), color=colors["text"], fontsize=9, loc="left", parse_math=False
        )
        panel.tick_params(colors=colors["text"], labelsize=7.5, length=0)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        panel.grid(color=colors["grid"], linewidth=0.6, axis="y")
        panel.set_axisbelow(True)
        panel.spines[:].set_visible(False)
    buffer = io.StringIO()
    # A fixed salt and no date: the same suite gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "medscope"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
