"""Renders HTML pages from the Jinja templates in this folder."""

from jinja2 import Environment, PackageLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=PackageLoader("keyrotation_pipeline", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: object) -> str:
    """Fill in a template; every value is escaped, and a name that the template lacks is an error."""
    return _ENVIRONMENT.get_template(template).render(values)
