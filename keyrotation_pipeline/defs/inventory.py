"""What is encrypted where, under which key version; and whether a rotation may begin."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from keyrotation_pipeline.defs.assets import Asset
from keyrotation_pipeline.defs.checks import progress_metadata
from keyrotation_pipeline.defs.partitions import DATABASE_ADMINISTRATORS, Naming
from keyrotation_pipeline.defs.resources import PipelineParameter, PipelineResource
from keyrotation_pipeline.defs.step_runner import actor_of, progress_to, step_failures
from keyrotation_pipeline.defs.summaries import markdown
from keyrotation_pipeline.defs.triggers import is_scheduled
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.page_reading import LEAST_BYTES_A_DAY, Reach
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.status import Light, Readiness, Status
from keyrotation_pipeline.model.tables import FoundColumn, TableCount
from keyrotation_pipeline.monitoring.readiness import readiness
from keyrotation_pipeline.monitoring.rolling import SEARCH, how_far, read_what_is_due, undeclared
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.inventory import renew_counts, take_inventory
from keyrotation_pipeline.scan.report import Finding, name_of

ENCRYPTED_COLUMNS = "encrypted_columns"
NO_UNDECLARED_CIPHERTEXT = "no_undeclared_ciphertext"


def encrypted_columns_asset(naming: Naming) -> dg.AssetsDefinition:
    """The asset `encrypted_columns` and its check `no_undeclared_ciphertext`; either can run alone."""
    key = naming.asset(ENCRYPTED_COLUMNS)
    spec = dg.AssetSpec(
        key,
        group_name=naming.name("inventory"),
        kinds={"postgres"},
        owners=[DATABASE_ADMINISTRATORS],
        description="The inventory: values per table and key version, undeclared columns with such values. Counted and "
        "searched in full after a rotation and on demand; when scheduled, a daily share.",
    )
    check = dg.AssetCheckSpec(
        NO_UNDECLARED_CIPHERTEXT,
        asset=key,
        description="No undeclared column holds values of the encrypted form: a rotation would leave them out.",
    )

    @dg.multi_asset(name=naming.name(ENCRYPTED_COLUMNS), specs=[spec], check_specs=[check], can_subset=True)
    def encrypted_columns(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        with step_failures(), keyrotation.open(actor_of(context)) as opened:
            taken = None if is_scheduled(context) else take_inventory(opened)
            if key in context.selected_asset_keys:
                counts = taken.counts if taken else renew_counts(opened, LEAST_BYTES_A_DAY)
                yield dg.MaterializeResult(metadata=_inventory_metadata(opened, counts))
            if check.key in context.selected_asset_check_keys:
                yield (
                    _no_undeclared(check.key, taken.findings, opened.inventory.other_formats())
                    if taken
                    else _none_found_so_far(check.key, opened, progress_to(context.log))
                )

    return encrypted_columns


def _readiness(context: dg.AssetExecutionContext, keyrotation: PipelineResource) -> Mapping[str, Any]:
    """For people to look at; `request` decides for itself."""
    with keyrotation.open_backups(actor_of(context)) as site:
        found = readiness(site, keyrotation.channels(site.pipeline).in_words)
    ordered = [check for light in (Light.RED, Light.AMBER, Light.GREEN) for check in found.of(light)]
    records = [
        dg.TableRecord({"light": str(each.light), "check": each.name, "value": each.value, "do": each.do})
        for each in ordered
    ]
    columns = [dg.TableColumn(name, "string") for name in ("light", "check", "value", "do")]
    return {
        "ready": found.ready,
        "summary": markdown(_readiness_summary(found)),
        "checks": dg.MetadataValue.table(records, schema=dg.TableSchema(columns)),
    }


def _readiness_summary(found: Readiness) -> str:
    verdict = "A rotation may be requested." if found.ready else "**Not ready: first do what the red lines say.**"
    open_points = [*found.of(Light.RED), *found.of(Light.AMBER)]
    return "\n".join([verdict, "", *(f"- {each.light}: {each.value}. {each.do}" for each in open_points)])


def _inventory_metadata(pipeline: Pipeline, counts: Sequence[TableCount]) -> Mapping[str, Any]:
    status = overview(pipeline)
    return {
        **_ages(status),
        "tables": dg.MetadataValue.table([_record(count) for count in counts], schema=_SCHEMA),
        "rows": sum(count.rows for count in counts),
        "values": sum(sum(count.values_by_version.values()) for count in counts),
        **_values_by_version(status),
        "unencrypted": sum(count.unencrypted for count in counts),
        "unreadable": sum(count.unreadable for count in counts),
        "audit_seq": pipeline.ledger.head().seq,
    }


def _ages(status: Status) -> Mapping[str, dg.MetadataValue]:
    """The age of the last backup and recovery test, as numbers that Dagster plots over time."""
    dated = {"backup_age_hours": status.last_backup, "recovery_test_age_hours": status.last_recovery_test}
    return {
        name: dg.MetadataValue.float(round((status.generated_at - at).total_seconds() / 3600, 1))
        for name, at in dated.items()
        if at is not None
    }


def _values_by_version(status: Status) -> Mapping[str, dg.MetadataValue]:
    """Values under each registered version, over all tables; Dagster plots the course of a rotation from them."""
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
        dg.TableColumn("wrong", "string"),
        dg.TableColumn("refuses", "string"),
    ]
)


def _record(count: TableCount) -> dg.TableRecord:
    wrong = ((count.unencrypted, "unencrypted"), (count.unreadable, "unreadable"), (count.empty, "empty"))
    by_version = (f"{version} {values:,}" for version, values in sorted(count.values_by_version.items()))
    return dg.TableRecord(
        {
            "table": str(count.table.name),
            "rows": count.rows,
            "values": ", ".join(by_version),
            "counted": utc_minute(count.counted_at),
            "wrong": ", ".join(f"{number:,} {what}" for number, what in wrong if number) or "nothing",
            "refuses": ", ".join(map(str, count.fenced_against)) or "no version",
        }
    )


def _no_undeclared(
    key: dg.AssetCheckKey, findings: Sequence[FoundColumn], others: Sequence[Finding]
) -> dg.AssetCheckResult:
    """The check after a search of everything; columns in other formats are named, and no reason to fail."""
    named = [f"{each.relation}.{each.column} ({each.values + each.near_misses} values)" for each in findings]
    searched = "every column with encrypted values is declared; everything was searched now"
    in_others = ", ".join(f"{name_of(each.place)} ({each.format})" for each in others)
    left = f"; in other formats, which a rotation leaves as they are: {in_others}" if others else ""
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=not findings,
        description=f"{_undeclared(named) if named else searched}{left}",
        metadata={"undeclared_columns": len(findings), "in_other_formats": len(others)},
    )


def _none_found_so_far(key: dg.AssetCheckKey, pipeline: Pipeline, report: Report) -> dg.AssetCheckResult:
    """Searches today's share; the check from what was searched within `every_days`."""
    pages, reach = read_what_is_due(pipeline, SEARCH, report), how_far(pipeline, SEARCH)
    named = [f"{column} ({number} values)" for column, number in sorted(undeclared(pipeline.inventory, reach).items())]
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=reach.complete and not named,
        severity=dg.AssetCheckSeverity.ERROR if named else dg.AssetCheckSeverity.WARN,
        description=_undeclared(named) if named else _searched_so_far(reach, pipeline.verification.every_days),
        metadata={
            "undeclared_columns": len(named),
            "percent": reach.percent,
            "pages": reach.pages,
            "pages_searched_now": pages,
            **progress_metadata(under_way=not named and not reach.late),
        },
    )


def _undeclared(named: Sequence[str]) -> str:
    return f"undeclared: {', '.join(named)}; add to [[tables]] in keyrotation.toml, or empty them"


def _searched_so_far(reach: Reach, days: int) -> str:
    """How much was searched, and since when."""
    if reach.oldest is None:
        return "every column with encrypted values is declared: there is nothing else"
    since = f"since {utc_minute(reach.oldest)}"
    if reach.complete:
        read = f"all that {reach.pages:,} pages elsewhere held was searched within {days} days; {since}"
        return f"no undeclared column with encrypted values was found: {read}"
    searched = f"{reach.percent:g} % of {reach.pages:,} pages elsewhere were searched within {days} days"
    read = f"{searched}, and held none; {since}"
    return f"{'behind' if reach.late else 'under way'}: {read}"


READINESS = Asset(
    "rotation_readiness",
    "inventory",
    {"postgres", "gpg"},
    DATABASE_ADMINISTRATORS,
    "Everything that a rotation needs, each with a light: keys, backups, officers, tables, room, time.",
    _readiness,
)
