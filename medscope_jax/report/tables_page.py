"""Tables of an evaluation on one web page."""

from collections.abc import Sequence

from medscope_jax.report.trace_page import environment

# A heading, the columns' headings, and rows of cells as text, the first of each a name.
Titled = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def render_tables(tables: Sequence[Titled], notes: Sequence[str], title: str, legend: str) -> str:
    """One HTML page without scripts or outside resources.

    Args:
      notes: sentences under the headline, such as who judged; legend: how numbers are to be read.
    """
    page = environment().get_template("tables.html.j2")
    return page.render(title=title, notes=list(notes), tables=list(tables), legend=legend)
