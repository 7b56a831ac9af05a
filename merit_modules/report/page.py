"""The report as one HTML file that needs nothing else."""

import base64
import re

from jinja2 import (
    Environment,
    PackageLoader,
    StrictUndefined,
    select_autoescape,
)
from markupsafe import Markup

from merit_modules.data.escaping import html
from merit_modules.report.writers import legend


def render_page(title, sections, grids, extras, baseline, pictures, examples):
    """Write the page.

    Pictures and sounds are in the page itself; a policy in its head forbids
    any request.

    Arguments
    ---------
    title : str
        Title.
    sections : dict
        Heading to sentences: what is found, what was compared.
    grids : list of Grid
        The tables.
    extras : list of Extra
        Further tables.
    baseline : str or None
        Named in the legend.
    pictures : list of Picture
        The figures.
    examples : list of Example
        Utterances to see and hear.

    Returns
    -------
    str
        HTML.
    """
    environment = Environment(
        loader=PackageLoader("merit_modules.report", "."),
        # Ids and names come from corpora that anybody may have made.
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        finalize=lambda value: (
            value if hasattr(value, "__html__") else Markup(html(value))
        ),
    )
    environment.filters |= {
        "png": lambda data: _data_uri("image/png", data),
        "wav": lambda data: _data_uri("audio/wav", data),
        "lines": lambda cell: re.split(r" (?=[\[(])", cell),
        "breakable": _breakable,
    }
    return environment.get_template("page.html.j2").render(
        title=title,
        sections=sections,
        legend=legend(baseline),
        grids=grids,
        extras=extras,
        pictures=pictures,
        examples=examples,
    )


def _data_uri(kind, data):
    return Markup(f"data:{kind};base64,{base64.b64encode(data).decode()}")


def _breakable(name):
    """Let a narrow screen break a name at its underscores, not elsewhere."""
    return Markup("_<wbr>").join(map(Markup, html(name).split("_")))
