"""Renders HTML pages, and plain text, from the Jinja templates in this folder."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from keyrotation_pipeline.model.requests import with_short_ids
from keyrotation_pipeline.model.visible_text import visible


def _shown(value: object) -> object:
    """Make the hidden characters of a text visible: none of them can reorder what a page says."""
    if isinstance(value, str):
        text = visible(value, keep="\n\t")
        return Markup(text) if isinstance(value, Markup) else text  # noqa: S704  an escape holds nothing to escape
    return value


def _commands(text: str) -> Markup:
    """A sentence whose commands, between backticks, look like what one types."""
    parts = visible(text).split("`")
    if len(parts) % 2 == 0:  # a backtick of somebody's own
        return escape("`".join(parts))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


_DATE = re.compile(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d(?: UTC)?)?")


def whole_dates(text: str) -> Markup:
    """A sentence whose dates are not broken at their hyphens."""
    return Markup(_DATE.sub(r'<span class="date">\g<0></span>', str(escape(text))))  # noqa: S704  it is escaped


_ENVIRONMENT = Environment(
    loader=PackageLoader("keyrotation_pipeline", "templates"),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["commands"] = _commands
_ENVIRONMENT.filters["dates"] = whole_dates
_ENVIRONMENT.filters["short_ids"] = with_short_ids


def render(template: str, **values: object) -> str:
    """Fill in a template; every value is escaped, and a name that the template lacks is an error."""
    return _ENVIRONMENT.get_template(template).render(values)


def render_text(template: str, **values: object) -> str:
    """Fill in a template of plain text, in which nothing is escaped; a name that the template lacks is an error."""
    return _ENVIRONMENT.overlay(autoescape=False).get_template(template).render(values)
