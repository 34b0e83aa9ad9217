"""`inventory`, `verify`, `preflight` and `rollout`."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Annotated, Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.alerts import alert_channels
from keyrotation_pipeline.assembly.backups import open_backups, recovery_key
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, Verbose, actor
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.cli.recovery import note_newcomer
from keyrotation_pipeline.errors import KeyRotationError, MemberUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.audit import counted, instant, names
from keyrotation_pipeline.model.data_events import ValuesDecrypted
from keyrotation_pipeline.model.environment import BlindSpots
from keyrotation_pipeline.model.fleet import LINES_OF_CODE, RolloutMode
from keyrotation_pipeline.model.members import not_examined
from keyrotation_pipeline.model.plaintext_outside_rows import lines_of
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import DecryptedCount, MissedValue
from keyrotation_pipeline.model.status import Light, Readiness
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount
from keyrotation_pipeline.monitoring.fleet import fleet
from keyrotation_pipeline.monitoring.readiness import readiness
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.inventory import Inventory, take_inventory
from keyrotation_pipeline.scan.report import Finding, as_json_of, name_of, share_of


def inventory(*, verbose: Verbose = False, config: Config = None, as_json: Json = False) -> None:
    """Count values by key version, and search other columns.

    Shows every declared column with its values per key version, undeclared columns that hold encrypted values, values
    that do not decrypt or are not encrypted, by table, key and column, columns in other formats, and how many places
    were not searched: --verbose names these.
    """
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
        database = pipeline.environment.identity().name
        taken = take_inventory(pipeline)
        keys = pipeline.ledger.keys()
        others = pipeline.inventory.other_formats()
        unindexed = _unindexed_rows(pipeline)
        note_newcomer(pipeline.ledger.replayed())
    elsewhere = chain(_without_index(unindexed), _other_formats(others, declared.format.name))
    versions, spots = [each.version for each in keys], _blind_spots(taken.blind_spots, verbose=verbose)
    lines = chain(_taken(taken, versions), elsewhere, _plaintext(taken), spots)
    document = {
        **_inventory_document(database, taken),
        "unindexed_rows": unindexed,
        "other_formats": [as_json_of(each) for each in others],
    }
    output.show(database, document, lines, as_json=as_json)


def verify(*, config: Config = None, as_json: Json = False) -> None:
    """Decrypt every value with the current keys, and count."""
    with open_pipeline(settings.load(config), actor=actor()) as pipeline, reporting(quiet=as_json) as report:
        database = pipeline.environment.identity().name
        ring = pipeline.keys.read().ring()
        found, silent = _decrypted(pipeline, ring, report)
        done = tuple(found.values())
        if done:
            pipeline.ledger.append(ValuesDecrypted.of(done))
        note_newcomer(pipeline.ledger.replayed())
    tables = [
        {
            "table": each.table,
            "rows": each.rows,
            "values": each.values,
            "failures": each.failures,
            **({"plaintext": each.plaintext} if table.begun else {}),
        }
        for table, each in found.items()
    ]
    failures = sum(each.failures for each in done)
    missed = [(each.table, value) for each in done for value in each.missed]
    document = {
        "database": database,
        "tables": tables,
        "failures": failures,
        "missed_by_searches": [
            {
                "table": table,
                "key": value.key,
                "column": value.column,
                "search_index": "missing" if value.is_unindexed else "of another text",
            }
            for table, value in missed
        ],
        "not_examined": silent,
    }
    columns = ("table", "rows", "values", "failures")
    shown = output.Table(
        ("Table", "Rows", "Values", "Do not decrypt"), [tuple(each[name] for name in columns) for each in tables]
    )
    yet = [
        f"{each['plaintext']:,} further values of {each['table']} are in {table.old_form}; a rotation encrypts them"
        for table, each in zip(found, tables, strict=True)
        if each.get("plaintext")
    ]
    output.show(database, document, [shown, *yet, *_missed(missed), *_silent(silent)], as_json=as_json)
    if failures:
        named = ", ".join(each.table for each in done if each.failures)
        raise KeyRotationError(
            f"{counted(failures, 'value')} of {named} cannot be decrypted, or only to another encrypted value; "
            "`keyrotation inventory` names each of them"
        )
    wrong = [each.wrong_indexes for each in done if each.wrongly_indexed]
    if wrong := [*wrong, *(each.missing_indexes for each in done if each.unindexed)]:
        raise KeyRotationError("; ".join(wrong))
    if silent:
        raise KeyRotationError(not_examined(silent))


def _decrypted(
    pipeline: Pipeline, ring: KeyRing, report: Report
) -> tuple[dict[EncryptedTable, DecryptedCount], dict[str, str]]:
    """What the values of each table decrypt to, and why those of a database of a fleet were not read, by its name."""
    found, silent = dict[EncryptedTable, DecryptedCount](), dict[str, str]()
    for table in pipeline.tables:
        database = table.name.database
        try:
            if database not in silent:
                found[table] = pipeline.rewriting.decrypt_all(table, ring, report)
        except MemberUnavailableError as error:
            silent[database] = str(error)
    return found, silent


def _silent(why: Mapping[str, str]) -> Iterator[output.Line]:
    if why:
        yield from ("", f"Not examined: {', '.join(why)}")


def _missed(missed: Sequence[tuple[str, MissedValue]]) -> Iterator[output.Line]:
    if missed:
        yield ""
        rows = [
            (table, value.key, value.column, "missing" if value.is_unindexed else "of another text")
            for table, value in missed
        ]
        yield output.Table(("Missed by searches, in", "Primary key", "Column", "Search index"), rows)


def _unindexed_rows(pipeline: Pipeline) -> dict[str, int]:
    """How many rows hold a value without a search index under its key, by table that has search indexes."""
    indexed = [table for table in pipeline.tables if table.indexes]
    return {str(table.name): pipeline.fencing.old_rows(table, (), None).unindexed for table in indexed}


def _without_index(unindexed: Mapping[str, int]) -> Iterator[output.Line]:
    for table, rows in unindexed.items():
        if rows:
            yield (
                f"{table}: {rows:,} rows hold a value without a search index under its key; searches miss them "
                "until they are saved again or rotated"
            )


def _inventory_document(database: str, taken: Inventory) -> dict[str, Any]:
    return {
        "database": database,
        "tables": [_table_document(count) for count in taken.counts],
        "undeclared": [
            {
                "relation": finding.relation,
                "column": finding.column,
                "values": finding.values,
                "near_misses": finding.near_misses,
                "versions": names(finding.versions),
                "reason": finding.reason,
            }
            for finding in taken.findings
        ],
        "quarantine": [
            {"table": str(each.table), "key": each.key, "column": each.column, "reason": each.reason}
            for each in taken.quarantine
        ],
        "not_searched": [{"what": each.what, "names": list(each.names)} for each in taken.blind_spots.unsearched],
        "not_seen": list(taken.blind_spots.unseen),
        "plaintext_outside_rows": [
            {"where": where, "known": known, "until": until} for where, known, until in _plaintext_places(taken)
        ],
        "replicas_declared_gone": list(taken.blind_spots.gone),
    }


def _table_document(count: TableCount) -> dict[str, Any]:
    return {
        "table": str(count.table.name),
        "rows": count.rows,
        "values_by_version": {str(version): number for version, number in count.values_by_version.items()},
        "empty": count.empty,
        "unencrypted": count.unencrypted,
        "near_misses": count.near_misses,
        "unreadable": count.unreadable,
        "columns": [
            {
                "column": column,
                "values_by_version": {
                    str(version): number for version, number in count.by_column.get(column, {}).items()
                },
                "unencrypted": count.unencrypted_by_column.get(column, 0),
            }
            for column in count.table.columns
        ],
        "counted_at": instant(count.counted_at),
    }


def _taken(taken: Inventory, registered: Sequence[KeyVersion]) -> Iterator[output.Line]:
    yield _columns(taken.counts, registered)
    yield from _rows(taken.counts)
    if taken.findings:
        yield ""
        rows = [(each.relation, each.column, each.values, each.near_misses, each.reason) for each in taken.findings]
        yield output.Table(("Undeclared", "Column", "Values", "Near-misses", "What it is"), rows)
        yield "declare what can be re-encrypted under [[tables]]; remove or refresh the rest"
    else:
        yield "no undeclared column that was searched holds encrypted values"
    if taken.quarantine:
        yield ""
        rejected = [(str(each.table), each.key, each.column, each.reason) for each in taken.quarantine]
        yield output.Table(("Quarantined in", "Primary key", "Column", "Why"), rejected)


_ODD = {"empty": "empty string", "unreadable": "unreadable value", "near_misses": "near-miss"}


def _rows(counts: Sequence[TableCount]) -> Iterator[str]:
    """The rows of each table, and what is odd in it; what is nowhere, once."""
    for count in counts:
        odd = [counted(number, what) for name, what in _ODD.items() if (number := getattr(count, name))]
        yield f"{count.table.name}: {', '.join([counted(count.rows, 'row'), *odd])}"
    if nowhere := [what for name, what in _ODD.items() if not any(getattr(count, name) for count in counts)]:
        yield f"no table has any {' or '.join(nowhere)}"


def _plaintext_places(taken: Inventory) -> Sequence[tuple[str, str, str]]:
    return tuple(lines_of(taken.plaintext))


def _plaintext(taken: Inventory) -> Iterator[output.Line]:
    if places := _plaintext_places(taken):
        yield ""
        yield output.Table(("Plaintext outside the live rows", "What is known", "Until"), places)


def _other_formats(others: Sequence[Finding], rotated: str) -> Iterator[output.Line]:
    if others:
        yield ""
        rows = [(name_of(each.place), each.format, share_of(each)) for each in others]
        yield output.Table(("Encrypted, not rotated", "Format", "Values of a sample"), rows)
        yield "a rotation leaves these as they are; `keyrotation scan` says more"
        if any(each.format == rotated for each in others):
            yield f"{rotated} values among them may be under its keys: a key under which any are is not retired"


def _blind_spots(spots: BlindSpots, *, verbose: bool) -> Iterator[output.Line]:
    yield ""
    if not verbose:
        places, copies = len(spots.unsearched), len(spots.unseen)
        yield (
            f"{places} places were not searched, {copies} kinds of copies not seen: `keyrotation inventory --verbose` "
            "names them"
        )
        return
    for label, named in (("not searched", map(str, spots.unsearched)), ("not seen", spots.unseen)):
        yield from (f"{'' if number else label:<14}{each}" for number, each in enumerate(named))


def _columns(counts: Sequence[TableCount], registered: Sequence[KeyVersion]) -> output.Table:
    seen = {version for count in counts for version in count.values_by_version}
    versions = sorted(seen.union(registered))
    rows = [
        (
            str(count.table.name),
            column,
            *(count.by_column.get(column, {}).get(version, 0) for version in versions),
            count.unencrypted_by_column.get(column, 0),
        )
        for count in counts
        for column in count.table.columns
    ]
    return output.Table(("Table", "Column", *names(versions), "Unencrypted"), rows)


_STYLES = {Light.RED: output.BAD, Light.AMBER: "yellow"}


def preflight(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Show what is green, too, each with what was seen.", show_default=False)
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Check everything that a rotation needs.

    Keys, backups, officers, tables, room and time, what is red first.

    Red: `request` would refuse it, its rotation could not start, no officer may be lost, or a recovery key on this
    machine can sign. Amber: you should know it before you start, or it could not be checked. Exit code 1 if any is red.
    """
    declared = settings.load(config)
    recovery = None if declared.recovery.secret_key is None else partial(recovery_key, declared)
    with open_backups(declared, actor=actor()) as site:
        database, now = site.pipeline.environment.identity().name, site.pipeline.clock.now()
        found = readiness(site, alert_channels(declared, site.pipeline).in_words, recovery)
    value = {"database": database, "generated_at": instant(now), **found.as_json()}
    output.show(database, value, _lines(found, everything=everything), as_json=as_json)
    if not found.ready:
        raise typer.Exit(1)


def _lines(found: Readiness, *, everything: bool) -> Iterator[output.Line]:
    """What to act on, then what to know; what is good is a number, unless everything is asked for."""
    for light in (Light.RED, Light.AMBER, *([Light.GREEN] if everything else [])):
        for check in found.of(light):
            yield output.Text(f"{light:<6} {check.name.replace('_', ' ')}: {check.value}", _STYLES.get(light), 7)
            if check.do:
                yield output.Text(f"       do: {check.do}", indent=11)
    lights = ", ".join(f"{len(found.of(light))} {light}" for light in (Light.RED, Light.AMBER, Light.GREEN))
    yield output.Text(f"{'ready' if found.ready else 'not ready'}: {lights}", "bold")
    if not everything:
        yield "`keyrotation preflight --all` shows each one"


def rollout(*, config: Config = None, as_json: Json = False) -> None:
    """Show which application instance reads and writes what.

    Also shows how many values of an older version each has decrypted, and how many it could not decrypt, since it
    started.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        pipeline.rollout.forget()
        content = fleet(pipeline)
    output.show(content["database"], content, _rollout_lines(content), as_json=as_json)


def _rollout_lines(content: dict[str, Any]) -> Iterator[output.Line]:
    yield f"primary {content['primary'] or 'none'}; [rollout] mode {content['mode']}"
    for workload, waits in content["workloads"].items():
        yield f"{workload}: {waits or 'rolled out'}"
    if content["instances"]:
        columns = ("Instance", "Reads", "Writes", "Last report", "Still decrypted", "Could not decrypt")
        yield output.Table(columns, map(_row, content["instances"]))
    elif content["mode"] == RolloutMode.SERVER:
        yield "no application instance has a key, so none reports itself"
    else:
        yield "no application instance reports itself; each does by:"
        yield from (f"  {code}" for code in LINES_OF_CODE)
    if content["waiting_for"]:
        yield f"waits: {content['waiting_for']}"
    for message in content["attention"]:
        yield output.field("Attention", message, output.BAD)


def _row(instance: dict[str, Any]) -> tuple[str, ...]:
    silent = ", silent" if instance["silent"] else ""
    return (
        instance["instance"],
        ", ".join([*instance["reads"], *(f"{each} (no proof)" for each in instance["unproven"])]) or "not known",
        instance["writes"] or "not known",
        f"{instance['reported_at'][:16].replace('T', ' ')}{silent}",
        _counts(instance["decrypted"]),
        _counts(instance["failed"]),
    )


def _counts(by_version: dict[str, Any]) -> str:
    counts = (
        f"{version}: {count['values']:,}, last {count['last_at'][:16].replace('T', ' ')}"
        for version, count in by_version.items()
    )
    return "; ".join(counts) or "-"
