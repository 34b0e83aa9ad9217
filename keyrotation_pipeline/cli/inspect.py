"""`inventory`, `verify`, `preflight`, `rollout` and `confirm`."""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import typer

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.alerts import alert_channels
from keyrotation_pipeline.assembly.backups import open_backups, recovery_key
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Config, Json, RequestId, SignatureFile, TextToSign, actor, given_signature
from keyrotation_pipeline.cli.progress import reporting
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import instant
from keyrotation_pipeline.model.fleet import LINES_OF_CODE, RolloutMode, confirming
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.model.status import Light, Readiness
from keyrotation_pipeline.model.tables import BlindSpots, FoundColumn, QuarantinedValue, TableCount
from keyrotation_pipeline.monitoring.fleet import fleet
from keyrotation_pipeline.monitoring.readiness import readiness
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.confirming import add_confirmation, confirmation_text
from keyrotation_pipeline.requests.inventory import Inventory, take_inventory


def inventory(*, config: Config = None, as_json: Json = False) -> None:
    """Count values by key version, and search undeclared columns.

    Shows every declared column with its values per key version, undeclared columns that hold encrypted values, values
    that do not decrypt or are not encrypted, by table, key and column, and what was not searched.
    """
    declared = settings.load(config)
    with open_pipeline(declared, actor=actor()) as pipeline:
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
    with open_pipeline(declared, actor=actor()) as pipeline, reporting(quiet=as_json) as report:
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


_STYLES = {Light.RED: "bold red", Light.AMBER: "yellow"}


def preflight(*, config: Config = None, as_json: Json = False) -> None:
    """Check all that a rotation needs: keys, backups, officers, tables, room, time.

    Red is what `request` would refuse, what would keep its rotation from beginning, and a recovery key here that can
    sign; amber is to be known before, or could not be seen. Exit code 1 if any is red.
    """
    declared = settings.load(config)
    recovery = None if declared.recovery.secret_key is None else partial(recovery_key, declared)
    with open_backups(declared, actor=actor()) as site:
        database, now = site.pipeline.database.identity().name, site.pipeline.clock.now()
        found = readiness(site, alert_channels(declared).in_words, recovery)
    if as_json:
        output.document({"database": database, "generated_at": instant(now), **found.as_json()})
    else:
        output.heading(database)
        _show(found)
    if not found.ready:
        raise typer.Exit(1)


def _show(found: Readiness) -> None:
    for light in (Light.RED, Light.AMBER, Light.GREEN):
        for check in found.of(light):
            output.line(f"{light:<6} {check.name.replace('_', ' ')}: {check.value}", style=_STYLES.get(light))
            if check.do:
                output.line(f"       do: {check.do}")
    lights = ", ".join(f"{len(found.of(light))} {light}" for light in Light)
    output.line(f"{'ready' if found.ready else 'not ready'}: {lights}", style="bold")


def rollout(*, config: Config = None, as_json: Json = False) -> None:
    """Show which application instance reads and writes which key version.

    And how many values of an older version each has decrypted, and how many it could not decrypt, since it started.
    """
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        content = fleet(pipeline)
    if as_json:
        output.document(content)
        return
    output.heading(content["database"])
    output.line(f"primary {content['primary'] or 'none'}; [rollout] mode {content['mode']}")
    for workload, waits in content["workloads"].items():
        output.line(f"{workload}: {waits or 'rolled out'}")
    if content["instances"]:
        columns = ("Instance", "Reads", "Writes", "Last heard of", "Still decrypted", "Could not decrypt")
        output.table(columns, map(_row, content["instances"]))
    else:
        output.line("no application instance reports itself; each does by:")
        for code in LINES_OF_CODE:
            output.line(f"  {code}")
    if content["waiting_for"]:
        output.line(f"waits: {content['waiting_for']}")
    for sentence in content["attention"]:
        output.line(f"Attention {sentence}", style="bold red")


def confirm(
    request_id: RequestId,
    *,
    text: TextToSign = False,
    signature: SignatureFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Print the text that says which rollout is done, or add an officer's signature over it.

    keyrotation confirm ID --text | gpg -ab | keyrotation confirm ID --signature -
    """
    content = given_signature(text=text, signature=signature)
    with open_pipeline(settings.load(config), actor=actor()) as pipeline:
        walk = pipeline.ledger.walk(request_id)
        if text:
            sys.stdout.buffer.write(confirmation_text(pipeline, walk))
            return
        officer, goal = add_confirmation(pipeline, walk, content)
        database = pipeline.database.identity().name
    if as_json:
        output.document({"id": walk.id, "officer": officer, "rollout": str(goal.aim)})
        return
    output.heading(database)
    output.line(f"confirmed by {officer}: every application instance {goal.statement()}")
    output.line(f"next: keyrotation rotate {walk.id}")


def duties(pipeline: Pipeline, walk: Walk) -> Iterator[str]:
    """What the applications have to do for a rotation, or who says that they did, a line each."""
    mode = pipeline.rollout.mode
    yield mode.rule(walk.source, walk.target, pipeline.rollout.workloads)
    match mode:
        case RolloutMode.ATTEST:
            yield "each application instance reports itself by:"
            yield from (f"  {code}" for code in LINES_OF_CODE)
        case RolloutMode.CONFIRM:
            yield f"after each of the three rollouts: {confirming(walk.id)}"
        case RolloutMode.KUBERNETES | RolloutMode.NONE:
            pass


def _row(instance: dict[str, Any]) -> tuple[str, ...]:
    silent = ", silent" if instance["silent"] else ""
    return (
        instance["instance"],
        ", ".join(instance["reads"]) or "not known",
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
