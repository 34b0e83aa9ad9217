"""`scan`: where a database holds encrypted values, in which formats, under which keys. Needs the extra `scan` alone."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

from keyrotation_pipeline.assembly.host import system_time
from keyrotation_pipeline.assembly.scan import DEFAULT_VALUES, scan_database
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json
from keyrotation_pipeline.errors import ConfigurationError, HomeError
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.regular_files import read_text
from keyrotation_pipeline.scan.comparison import Comparison, Earlier, NotAScanError, compared, earlier_scan, names_of
from keyrotation_pipeline.scan.page import page_of
from keyrotation_pipeline.scan.report import Finding, NotLookedAt, ScanReport, name_of, share_of


class FailOn(StrEnum):
    """When `scan` ends with another code than 0."""

    NEW = "new"


NEW_EXIT_CODE = 3
URL_VARIABLE = "KEYROTATION_DATABASE_URL"
# Places that one line names, and keys.
_NAMED, _KEYS = 5, 3
_RECOGNISED_BY = {"marker": "the value", "mac": "its MAC", "decrypt": "decrypting"}
_ANSWERS = {True: "yes", False: "no", None: "not known"}


def scan(
    context: typer.Context,
    *,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            envvar=URL_VARIABLE,
            help="Database to scan; else that of the configuration. A password belongs in the variable, or in "
            "~/.pgpass: other users of this machine can see what is typed.",
            show_default=False,
        ),
    ] = None,
    schema: Annotated[
        list[str] | None,
        typer.Option("--schema", metavar="S", help="Only this schema; may be given again.", show_default=False),
    ] = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=1, help="Values to read of each column, about.")
    ] = DEFAULT_VALUES,
    target: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write one HTML page there, too; never overwrites."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="FILE", help="Say what is new since this output of `scan --json`."),
    ] = None,
    fail_on: Annotated[
        FailOn | None,
        typer.Option("--fail-on", help="End with 3 if something new is certain or likely; needs --compare."),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what is encrypted in a database, and by what.

    Reads a sample of every column that can hold text or bytes (JSON, arrays and other containers, too) in read-only
    transactions, and tells formats by their values: no key, home or right to write is needed. No value is printed.

    certain: the value has the format's own structure. likely: its bytes and lengths fit encryption alone. possible:
    they fit other data as well.
    """
    if fail_on and compare is None:
        raise typer.BadParameter("name the earlier scan with --compare", param_hint="--fail-on")
    output.require_new(target)
    earlier = None if compare is None else _earlier(compare)
    from_option = context.get_parameter_source("url") is ParameterSource.COMMANDLINE
    with named_database(url, config, from_option=from_option) as (there, setting), _progress(quiet=as_json) as report:
        found = scan_database(there, setting, report, schema or (), sample)
    changes = None if earlier is None else compared(found, earlier)
    document = {**found.as_json(), **(changes.as_json() if changes else {})}
    output.show(found.database, document, [*_lines(found), *(_changes(changes) if changes else ())], as_json=as_json)
    if target is not None:
        output.write_new(target, page_of(found, system_time(), changes).encode())
        output.note(f"{target}: the same as a page")
    if fail_on and changes is not None and changes.fails:
        raise typer.Exit(NEW_EXIT_CODE)


def _earlier(file: Path) -> Earlier:
    try:
        return earlier_scan(read_text(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{file} cannot be read: {reason}; correct --compare") from None
    except NotAScanError as error:
        raise ConfigurationError(
            f"{file} is no output of `keyrotation scan --json`: {error}; correct --compare"
        ) from None


def _changes(found: Comparison) -> Iterator[output.Line]:
    yield ""
    yield output.Text(
        f"compared with the scan of {found.database}: {len(found.new)} new, {len(found.gone)} gone", "bold"
    )
    yield from (output.Text(f"new: {each}", indent=2) for each in names_of(found.new))
    yield from (output.Text(f"gone: {each}", indent=2) for each in found.gone)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Report]:
    if quiet:
        yield lambda _: None
        return
    from keyrotation_pipeline.cli.progress import reporting  # noqa: PLC0415  JSON does not need rich

    with reporting(quiet=False) as report:
        yield report


@contextmanager
def named_database(url: str | None, config: Path | None, *, from_option: bool) -> Iterator[tuple[str, str]]:
    """Yields the URL of a database, and its source: the option, the variable unless a file is named, or the file."""
    if url and (from_option or config is None):
        yield url, "--url" if from_option else URL_VARIABLE
        return
    try:
        from keyrotation_pipeline import settings  # noqa: PLC0415  the extra `scan` has no pydantic
        from keyrotation_pipeline.assembly.home import database_url  # noqa: PLC0415  as above
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"no database is named; give --url, or set {URL_VARIABLE} (reading keyrotation.toml needs the extra: "
            "pip install 'keyrotation-pipeline[pipeline]')"
        ) from None
    try:
        declared = settings.load(config)
    except HomeError as error:
        raise ConfigurationError(f"no database is named; give --url, or set {URL_VARIABLE} ({error})") from None
    with database_url(declared) as there:
        yield there, "[database] url"


def _lines(found: ScanReport) -> Iterator[output.Line]:
    if found.findings:
        columns = ("Place", "Format", "Values", "Keys", "Key known by", "Two keys")
        yield output.Table(columns, [_row(finding) for finding in found.findings])
        yield ""
        yield from _what_next(found.findings)
    else:
        yield "no encrypted values were found"
    yield ""
    yield _examined(found)
    yield from _not_looked_at(found.not_looked_at)


def _row(finding: Finding) -> tuple[str, ...]:
    tier = "" if finding.tier == "certain" else f" ({finding.tier})"
    keys = ", ".join(finding.key_ids[:_KEYS])
    more = len(finding.key_ids) - _KEYS
    return (
        name_of(finding.place),
        f"{finding.format}{tier}",
        share_of(finding),
        f"{keys} and {more} more" if more > 0 else keys or "-",
        _RECOGNISED_BY[finding.identified_by],
        _ANSWERS[finding.reads_two_keys],
    )


def _what_next(findings: Sequence[Finding]) -> Iterator[output.Line]:
    """One sentence per format, and what is noted on its places."""
    formats: defaultdict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        formats[finding.format, finding.next].append(finding)
    several = Counter(name for name, _ in formats)
    for (name, message), there in formats.items():
        places = f" ({len(there)} places)" if len(there) > 1 else ""
        if several[name] > 1:  # then it has to be said which of them is meant
            places = f" in {_some([name_of(finding.place) for finding in there])}"
        yield output.Text(f"{name}{places}: {message}", indent=2)
        noted: defaultdict[str, list[str]] = defaultdict(list)
        for finding in there:
            for note in finding.notes:
                noted[note].append(name_of(finding.place))
        yield from (output.Text(f"  {_some(named)}: {note}", indent=4) for note, named in noted.items())


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - _NAMED:,} more (--json has all)" if len(places) > _NAMED else ""
    return f"{', '.join(places[:_NAMED])}{more}"


def _examined(found: ScanReport) -> output.Text:
    some = f"a sample of {found.sampled:,} of the tables, all of the others"
    whole = {0: "all of each table", found.tables: "a sample of each table"}.get(found.sampled, some)
    return output.Text(
        f"examined: {counted(found.values, 'value')} in {counted(found.columns, 'column')} of "
        f"{counted(found.tables, 'table')} that can hold text or bytes; {whole}",
        "bold",
    )


def _not_looked_at(left_out: Sequence[NotLookedAt]) -> Iterator[output.Line]:
    """What was not examined, one line per reason."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for each in left_out:
        by_reason[each.reason].append(each.place)
    for reason, places in by_reason.items():
        yield output.Text(f"not looked at ({reason}): {_some(places)}", indent=2)
