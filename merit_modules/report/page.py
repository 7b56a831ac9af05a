"""The report as one HTML file that needs nothing else."""

import base64
import re

from jinja2 import (
    Environment,
    PackageLoader,
    StrictUndefined,
    select_autoescape,
)
from markupsafe import Markup, escape

from merit_modules.report.writers import legend


def render_page(title, content, grids, extras, pictures, examples):
    """Write the page.

    Pictures and sounds are in the page itself; a policy in its head forbids
    any request.

    Arguments
    ---------
    title : str
        Title.
    content : dict
        The content of ``report.json``.
    grids : list of Grid
        The tables.
    extras : list of Extra
        Further tables.
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
    )
    environment.filters |= {
        "png": lambda data: _data_uri("image/png", data),
        "wav": lambda data: _data_uri("audio/wav", data),
        "scaled": _scaled,
        "lines": lambda cell: re.split(r" (?=[\[(])", cell),
        "breakable": _breakable,
    }
    return environment.get_template("page.html.j2").render(
        title=title,
        about=content["about"],
        legend=legend(content["settings"]["baseline"]),
        grids=grids,
        extras=extras,
        pictures=pictures,
        examples=examples,
        cost={k: _Known(v) for k, v in content["cost"].items()},
        failures=content["failures"],
    )


class _Known(dict):
    """A dict whose missing entries are None, for the template."""

    def __getattr__(self, name):
        return self.get(name)


def _data_uri(kind, data):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _breakable(name):
    """Let a narrow screen break a name at its underscores, not elsewhere."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))


def _scaled(value, unit):
    return "-" if value is None else f"{value / unit:.3g}"
