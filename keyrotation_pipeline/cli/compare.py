"""`incident compare`: lists the values that differ from a backup from before an incident's discovery."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.alerts import application_audit
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, IncidentId, Json, actor
from keyrotation_pipeline.cli.recovery import KeyFile, opened_with_key
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.incidents.comparison import Output, compare_values
from keyrotation_pipeline.model.comparison import Difference, ValuesCompared
from keyrotation_pipeline.model.records import as_json as as_json_object

SHOWN = 40
LIMITS = (
    "what was planted before that backup is in both, and not listed: name an older one with --backup",
    "only the columns under [[tables]] are compared, and what is written since this began may be missing",
)


@dataclass(slots=True)
class _Listing:
    """The differences: the first few for the terminal, and every one in a file, a JSON object a line."""

    file: IO[str] | None
    first: list[Difference] = field(default_factory=list)

    def add(self, found: Difference) -> None:
        if len(self.first) < SHOWN:
            self.first.append(found)
        if self.file is not None:
            self.file.write(f"{json.dumps(as_json_object(found))}\n")


def compare_command(
    name: IncidentId,
    backup: Annotated[
        str | None,
        typer.Option(
            "--backup", metavar="NAME", help="Another one than the newest from before discovery.", show_default=False
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Every difference, a JSON object a line; never overwrites.",
            show_default=False,
        ),
    ] = None,
    *,
    key: KeyFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the values that differ from an earlier backup.

    Every encrypted value, by table, key and column, against a backup from before the incident. The backup is restored
    in a scratch server; no content is shown, stored or recorded. What an emergency re-encrypts is authentic under the
    new key, whoever wrote it. Not each difference is a forgery: honest changes are listed, too.
    """
    output.require_new(target)
    declared = settings.load(config)
    with ExitStack() as stack:
        site, opened = stack.enter_context(opened_with_key(declared, key))
        audit = stack.enter_context(application_audit(declared))
        listing = _Listing(_spool(stack, target, as_json=as_json))
        compared = compare_values(site, opened, name, actor(), audit, Output(listing.add, output.note), backup)
        database = site.pipeline.environment.identity().name
        if target is not None and listing.file is not None:
            _write(target, listing.file)
        if as_json and listing.file is not None:
            _document(database, compared, listing.file)
            return
        output.show(database, {}, _lines(compared, listing.first, target), as_json=False)


def _spool(stack: ExitStack, target: Path | None, *, as_json: bool) -> IO[str] | None:
    """Where every difference goes meanwhile: a file without a name, of which nothing is left if this process dies.

    Raises:
        IncidentError: nothing can be written where the list is to go.
    """
    if target is None and not as_json:
        return None
    try:
        return stack.enter_context(tempfile.TemporaryFile("w+", dir=None if target is None else target.parent))
    except OSError:
        raise IncidentError("no file can be written there; name another one with --output") from None


def _write(target: Path, listed: IO[str]) -> None:
    """The whole list at once, in a file that only its owner may read."""
    try:
        target.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise output.taken(target) from None
    listed.seek(0)
    with target.open("w") as file:
        shutil.copyfileobj(listed, file)


def _document(database: str, compared: ValuesCompared, listed: IO[str]) -> None:
    listed.seek(0)
    head = {"database": database, **as_json_object(compared), "limits": list(LIMITS)}
    output.show_list(head, "differences", listed)


def _lines(compared: ValuesCompared, first: list[Difference], target: Path | None) -> Iterator[output.Line]:
    yield output.field("Incident", compared.incident)
    yield output.field("Backup", f"{compared.backup} of {output.minutes(compared.made_at)} UTC, from {compared.place}")
    for table in compared.tables:
        yield output.field("Compared", f"{table.table}: {table.rows:,} rows, {table.values:,} values: {table}")
    for phrase in compared.not_compared:
        yield output.field("Excluded", phrase, output.BAD)
    for phrase in compared.passed_over:
        yield output.field("Not used", phrase)
    if first:
        yield ""
        yield output.Table(("Table", "Key", "Column", "Value", "Application's audit"), map(_row, first))
        if (more := compared.differences - len(first)) > 0:
            yield f"and {more:,} more; --output FILE or --json lists all"
    if target is not None:
        yield output.field("Written", f"every difference to {target}")
    yield ""
    yield from (output.field("Note", each) for each in LIMITS)


def _row(found: Difference) -> tuple[Any, ...]:
    kind = str(found.kind) if found.unreadable is None else f"{found.kind}, {found.unreadable}"
    return found.table, found.key, found.column, kind, found.recorded or "-"
