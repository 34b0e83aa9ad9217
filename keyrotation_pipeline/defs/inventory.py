"""What is encrypted where, under which key version."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from keyrotation_pipeline.defs.by_clock import is_by_clock
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import DATABASE_ADMINISTRATORS
from keyrotation_pipeline.defs.performing import actor_of, progress_to
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.defs.under_way import marked
from keyrotation_pipeline.incidents.obligations import unsettled_in_words
from keyrotation_pipeline.model.page_reading import LEAST_BYTES_A_DAY, Reach
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.status import Status
from keyrotation_pipeline.model.tables import FoundColumn, TableCount
from keyrotation_pipeline.monitoring.rolling import SEARCH, how_far, read_what_is_due, undeclared
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.inventory import renew_counts, take_inventory
from keyrotation_pipeline.rotation.fences import fences, values_of_gone_keys

NO_UNDECLARED_CIPHERTEXT = "no_undeclared_ciphertext"


def encrypted_columns_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `encrypted_columns` and its check `no_undeclared_ciphertext`, by one look; each can be asked for."""
    key = naming.asset("encrypted_columns")
    spec = dg.AssetSpec(
        key,
        group_name=naming.name("inventory"),
        kinds={"postgres"},
        owners=[DATABASE_ADMINISTRATORS],
        description="The inventory: values per table and key version, undeclared columns with such values. Counted and "
        "searched anew after a rotation and when somebody asks; by the clock, a part each day.",
    )
    check = dg.AssetCheckSpec(
        NO_UNDECLARED_CIPHERTEXT,
        asset=key,
        description="No undeclared column holds values of the encrypted form: a rotation would pass them over.",
    )

    @dg.multi_asset(name=naming.name("encrypted_columns"), specs=[spec], check_specs=[check], can_subset=True)
    def encrypted_columns(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        by_clock = is_by_clock(context)
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            taken = None if by_clock else take_inventory(opened)
            if key in context.selected_asset_keys:
                counts = taken.counts if taken else renew_counts(opened, LEAST_BYTES_A_DAY)
                yield dg.MaterializeResult(metadata=_inventory_metadata(opened, counts))
            if check.key in context.selected_asset_check_keys:
                yield (
                    _no_undeclared(check.key, taken.findings)
                    if taken
                    else _none_is_known(check.key, opened, progress_to(context.log))
                )

    return encrypted_columns


def retired_versions_are_refused_check(naming: Naming) -> dg.AssetChecksDefinition:
    """The check `retired_versions_are_refused`."""

    @dg.asset_check(asset=naming.asset("encrypted_columns"))
    def retired_versions_are_refused(
        context: dg.AssetCheckExecutionContext, keyrotation: PipelineParameter
    ) -> dg.AssetCheckResult:
        """Every table still refuses what was retired in it, and the last count found no value under an archived key."""
        with refusals(), keyrotation.open(actor_of(context)) as opened:
            seen, records, counts = fences(opened), opened.ledger.keys(), opened.ledger.counts(opened.tables)
        sentences = [*seen.attention(), *(each for count in counts for each in values_of_gone_keys(count, records))]
        told = [f"{name} refuses {', '.join(map(str, versions))}" for name, versions in seen.retired.items()]
        return dg.AssetCheckResult(
            passed=not sentences,
            description="; ".join(sentences or [*told, *seen.warnings()]) or "nothing was retired yet",
            metadata={"amiss": len(sentences), "tables_not_counted": len(opened.tables) - len(counts)},
        )

    return retired_versions_are_refused


def _inventory_metadata(pipeline: Pipeline, counts: Sequence[TableCount]) -> Mapping[str, Any]:
    status = overview(pipeline, duties=unsettled_in_words(pipeline))
    return {
        **_status_metadata(status),
        "tables": dg.MetadataValue.table([_record(count) for count in counts], schema=_SCHEMA),
        "rows": sum(count.rows for count in counts),
        "values": sum(sum(count.values_by_version.values()) for count in counts),
        **_values_by_version(status),
        "unencrypted": sum(count.unencrypted for count in counts),
        "unreadable": sum(count.unreadable for count in counts),
        "audit_seq": pipeline.ledger.head().seq,
    }


def _status_metadata(status: Status) -> Mapping[str, dg.MetadataValue]:
    """What `keyrotation status` says at this moment."""
    rotation = status.rotation
    attention = "\n".join(f"- {sentence}" for sentence in status.attention)
    return {
        "attention": dg.MetadataValue.md(attention or "nothing is overdue, blocked or stale"),
        "warnings": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in status.warnings) or "none"),
        "rotation": dg.MetadataValue.text(rotation.phase if rotation else "none is open"),
        "waiting_for": dg.MetadataValue.text((rotation and rotation.waiting_for) or "nothing"),
        **_ages(status),
    }


def _ages(status: Status) -> Mapping[str, dg.MetadataValue]:
    """How old backups and their proof are, in numbers that Dagster plots over time."""
    dated = {"backup_age_hours": status.last_backup, "recovery_test_age_hours": status.last_recovery_test}
    return {
        name: dg.MetadataValue.float(round((status.generated_at - at).total_seconds() / 3600, 1))
        for name, at in dated.items()
        if at is not None
    }


def _values_by_version(status: Status) -> Mapping[str, dg.MetadataValue]:
    """Values under each registered version, over all tables: the walk of a rotation as curves."""
    totals = {key.version: 0 for key in status.key_versions}
    for table in status.tables:
        for version, number in table.values_by_version.items():
            totals[version] = totals.get(version, 0) + number
    return {f"values_under_{version}": dg.MetadataValue.int(number) for version, number in sorted(totals.items())}


_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("table", "string"),
        dg.TableColumn("rows", "int"),
        dg.TableColumn("values", "string"),
        dg.TableColumn("counted", "string"),
        dg.TableColumn("amiss", "string"),
        dg.TableColumn("refuses", "string"),
    ]
)


def _record(count: TableCount) -> dg.TableRecord:
    amiss = ((count.unencrypted, "unencrypted"), (count.unreadable, "unreadable"), (count.empty, "empty"))
    by_version = (f"{version} {values:,}" for version, values in sorted(count.values_by_version.items()))
    return dg.TableRecord(
        {
            "table": str(count.table.name),
            "rows": count.rows,
            "values": ", ".join(by_version),
            "counted": f"{count.counted_at:%Y-%m-%d %H:%M} UTC",
            "amiss": ", ".join(f"{number:,} {what}" for number, what in amiss if number) or "nothing",
            "refuses": ", ".join(map(str, count.fenced_against)) or "no version",
        }
    )


def _no_undeclared(key: dg.AssetCheckKey, findings: Sequence[FoundColumn]) -> dg.AssetCheckResult:
    """By a search of everything, just now."""
    named = [f"{each.relation}.{each.column} ({each.values + each.near_misses} values)" for each in findings]
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=not findings,
        description=_undeclared(named)
        if named
        else "every column with encrypted values is declared; all was searched now",
        metadata={"undeclared_columns": len(findings)},
    )


def _none_is_known(key: dg.AssetCheckKey, pipeline: Pipeline, report: Report) -> dg.AssetCheckResult:
    """Search today's part; by what was searched within some days."""
    pages, far = read_what_is_due(pipeline, SEARCH, report), how_far(pipeline, SEARCH)
    named = [f"{column} ({number} values)" for column, number in sorted(undeclared(pipeline, far).items())]
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=far.complete and not named,
        severity=dg.AssetCheckSeverity.ERROR if named else dg.AssetCheckSeverity.WARN,
        description=_undeclared(named) if named else _how_far(far, pipeline.verification.every_days),
        metadata={
            "undeclared_columns": len(named),
            "percent": far.percent,
            "pages": far.pages,
            "pages_searched_now": pages,
            **marked(under_way=not named and not far.late),
        },
    )


def _undeclared(named: Sequence[str]) -> str:
    return f"undeclared: {', '.join(named)}; add to [[tables]] in keyrotation.toml, or empty them"


def _how_far(far: Reach, days: int) -> str:
    """What was searched, and no more than that."""
    if far.oldest is None:
        return "every column with encrypted values is declared: there is nothing else"
    since = f"since {far.oldest:%Y-%m-%d %H:%M} UTC"
    if far.complete:
        read = f"what stood in {far.pages:,} pages elsewhere was searched within {days} days; {since}"
        return f"no undeclared column with encrypted values was found: {read}"
    read = (
        f"{far.percent:g} % of {far.pages:,} pages elsewhere were searched within {days} days, and held none; {since}"
    )
    return f"{'behind' if far.late else 'under way'}: {read}"
