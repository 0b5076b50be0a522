"""Tables of an evaluation on one web page."""

from collections.abc import Sequence
from typing import Protocol

from medscope_jax.report.trace_page import environment


class Table(Protocol):
    """A heading, the columns' headings, and rows of cells as text, the first of each a name."""

    @property
    def title(self) -> str: ...

    @property
    def header(self) -> Sequence[str]: ...

    @property
    def rows(self) -> Sequence[Sequence[str]]: ...


def render_tables(tables: Sequence[Table], notes: Sequence[str], title: str, legend: str) -> str:
    """One HTML page without scripts or outside resources.

    Args:
      notes: sentences under the headline, such as who judged; legend: how numbers are to be read.
    """
    page = environment().get_template("tables.html.j2")
    return page.render(title=title, notes=list(notes), tables=list(tables), legend=legend)
