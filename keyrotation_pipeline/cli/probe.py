"""`probe`: in which format keys open the values of a column, before anything is configured."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from click.core import ParameterSource

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.probe import ProbeReport, probe_place
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json
from keyrotation_pipeline.cli.scan import URL_VARIABLE, named_database
from keyrotation_pipeline.errors import ConfigurationError, WrongKeyError
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
from keyrotation_pipeline.fieldcrypto.probe import Fit
from keyrotation_pipeline.model.tables import Place, TableName


def probe(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Table, or schema.table.")],
    column: Annotated[str, typer.Argument(metavar="COLUMN", help="Its column with encrypted values.")],
    *,
    keys: Annotated[
        str,
        typer.Option(
            "--keys",
            metavar="VARIABLE",
            help="Environment variable with the application's keys, as it has them; never the keys themselves.",
        ),
    ],
    path: Annotated[
        list[str] | None,
        typer.Option("--path", metavar="KEY", help="In jsonb: a key on the way to the value; may be given again."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            envvar=URL_VARIABLE,
            help="Database; else that of the configuration. A password belongs in the variable, or in ~/.pgpass.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Find the format in which keys open a column's values.

    Decrypts up to 200 values in every known layout of AES-GCM and in the formats of libraries, and shows how many each
    opens. Writes nothing, and prints no value and no key.
    """
    listed = settings.process_environment().get(keys, "")
    if not listed.strip():
        raise ConfigurationError(  # not what was typed: that may be the keys
            "the variable that --keys names is not set; set it to the application's keys, as the application has them, "
            "and give its name"
        )
    from_option = context.get_parameter_source("url") is ParameterSource.COMMANDLINE
    place, name = Place(column, tuple(path or ())), TableName.parse(table)
    with named_database(url, config, from_option=from_option) as (there, _):
        found = probe_place(there, name, place, listed, keys)
    if not found.fits:
        raise WrongKeyError(_nothing(f"{name}.{place.name}", keys, found.values))
    document = {
        "database": found.database,
        "place": f"{name}.{place.name}",
        "values": found.values,
        "fits": [{key: value for key, value in asdict(each).items() if key != "name"} for each in found.fits],
    }
    output.show(found.database, document, _lines(found), as_json=as_json)


def _nothing(place: str, keys: str, values: int) -> str:
    if not values:
        return f"{place} has no values to try; probe a column that has some"
    return (
        f"none of {values:,} values of {place} opens with the keys in {keys} in a known format; check whether the "
        "keys are derived from these, or values bound to associated data"
    )


def _lines(found: ProbeReport) -> Iterator[output.Line]:
    rows = [(each.format, each.layout or "-", f"{each.opened:,} of {found.values:,}") for each in found.fits]
    yield output.Table(("Format", "Layout", "Opened"), rows)
    yield ""
    yield output.Text(f"[format] {_settings(found.fits[0])}", "bold")


def _settings(fit: Fit) -> str:
    spec = SPECS[fit.name]
    parts = [f'name = "{fit.name}"']
    if fit.derivation and spec.derivation is None:
        parts.append(f'derivation = "{fit.derivation}"')
    if fit.key_encoding:
        parts.append(f'key_encoding = "{fit.key_encoding}"')
    if fit.layout != spec.layout:
        parts += filter(None, (each.said_by(fit.layout) for each in spec.options))
    return ", ".join(parts)
