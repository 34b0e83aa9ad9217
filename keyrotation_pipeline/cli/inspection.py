"""`inventory` and `verify`: what the columns hold, and whether all of it decrypts."""

from collections.abc import Sequence
from typing import Any

from keyrotation_pipeline import assembly, settings
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, actor
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.tables import BlindSpots, FoundColumn, QuarantinedValue, TableCount
from keyrotation_pipeline.requests.inventory import Inventory, take_inventory


def inventory(*, config: Config = None, as_json: Json = False) -> None:
    """Count values by key version, and search undeclared columns.

    Shows every declared column with its values per key version, undeclared columns that hold encrypted values, values
    that do not decrypt or are not encrypted, by table, key and column, and what was not searched.
    """
    declared = settings.load(config)
    with assembly.open_pipeline(declared, actor=actor()) as pipeline:
        database = pipeline.database.identity().name
        taken = take_inventory(pipeline)
        records = pipeline.ledger.keys()
    if as_json:
        output.document(_inventory_document(database, taken))
        return
    output.heading(database)
    _show_columns(taken.counts, [record.version for record in records])
    _show_findings(taken.findings)
    _show_quarantine(taken.quarantine)
    _show_blind_spots(taken.blind_spots)


def verify(*, config: Config = None, as_json: Json = False) -> None:
    """Decrypt every value with the current keys, and count."""
    declared = settings.load(config)
    with assembly.open_pipeline(declared, actor=actor()) as pipeline, reporting(quiet=as_json) as report:
        database = pipeline.database.identity().name
        ring = pipeline.keys.read().ring()
        done = [pipeline.database.decrypt_all(table, ring, report) for table in pipeline.tables]
    if as_json:
        output.document(_verify_document(database, done))
    else:
        output.heading(database)
        rows = [(each.table, each.rows, each.values, each.failures) for each in done]
        output.table(("Table", "Rows", "Values", "Do not decrypt"), rows)
    if failures := sum(each.failures for each in done):
        raise _NotDecryptedError(failures, [each.table for each in done if each.failures])


class _NotDecryptedError(KeyRotationError):
    def __init__(self, failures: int, tables: Sequence[str]) -> None:
        super().__init__(
            f"{failures} value(s) of {', '.join(tables)} do not decrypt; `keyrotation inventory` names each of them"
        )


def _verify_document(database: str, done: Sequence[DecryptedCount]) -> dict[str, Any]:
    tables = [
        {"table": each.table, "rows": each.rows, "values": each.values, "failures": each.failures} for each in done
    ]
    return {"database": database, "tables": tables, "failures": sum(each.failures for each in done)}


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
                "versions": output.names(finding.versions),
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
        "counted_at": output.instant(count.counted_at),
    }


def _show_columns(counts: Sequence[TableCount], registered: Sequence[KeyVersion]) -> None:
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
    output.table(("Table", "Column", *output.names(versions), "Unencrypted"), rows)
    for count in counts:
        remark = (
            f"{count.table.name}: {count.rows:,} rows, {count.empty:,} empty strings, {count.unreadable:,} unreadable"
        )
        output.line(f"{remark}, {count.near_misses:,} near-misses")


def _show_findings(findings: Sequence[FoundColumn]) -> None:
    if not findings:
        output.line("no undeclared column that was searched holds encrypted values")
        return
    output.line()
    rows = [(each.relation, each.column, each.values, each.near_misses, each.reason) for each in findings]
    output.table(("Undeclared", "Column", "Values", "Near-misses", "What it is"), rows)
    output.line("declare what can be re-encrypted under [[tables]]; remove or refresh the rest")


def _show_blind_spots(blind_spots: BlindSpots) -> None:
    output.line()
    for each in blind_spots.unsearched:
        output.line(f"not searched: {each}")
    for replica in blind_spots.unseen:
        output.line(f"not seen: {replica}")


def _show_quarantine(quarantined: Sequence[QuarantinedValue]) -> None:
    if quarantined:
        output.line()
        rows = [(str(each.table), each.key, each.column, each.reason) for each in quarantined]
        output.table(("Quarantined in", "Primary key", "Column", "Why"), rows)
