"""Corrects what was reported to Dagster from outside: results and materializations by no run and not by the sync.

Anybody who reaches a web server of Dagster without access control can report that a check passed or an asset was
materialized. What the sync itself reports is therefore sealed: signed by the pipeline's own key, together with the
moment, so that a copy of an earlier report does not count either. Of a check or an asset that was reported without a
run and without a seal, the last report that counts is made again; where there is none, the asset's history is wiped
and what counts of it is reported again.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from textwrap import wrap

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.instance import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._serdes import serialize_value

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.defs.partitions import Ownership
from keyrotation_pipeline.ports.backups import ManifestSigner

SEAL, CORRECTED = "sealed", "corrected"
_LINE_CHARS = 30
EVENT_LABEL, CURSOR_LABEL = b"keyrotation-dagster-event-v1\n", b"keyrotation-dagster-cursor-v1\n"
RUN_LABEL = b"keyrotation-dagster-run-v1\n"
# Between the evaluation of a sensor and the moment at which the daemon stores its events.
STORED_WITHIN = timedelta(minutes=1)
READ_AT_ONCE, MOST_READ = 500, 10_000
KINDS_OF = {
    dg.AssetMaterialization: DagsterEventType.ASSET_MATERIALIZATION,
    dg.AssetCheckEvaluation: DagsterEventType.ASSET_CHECK_EVALUATION,
}
KINDS = {*KINDS_OF.values(), DagsterEventType.ASSET_WIPED}
Report = dg.AssetMaterialization | dg.AssetCheckEvaluation


@dataclass(frozen=True, slots=True)
class Seal:
    """Marks what the sync reports, the cursors of sensors, and the runs that the conductor launches."""

    signer: ManifestSigner

    def on(self, report: Report, at: datetime | None = None) -> Report:
        """The same report, sealed.

        Args:
            at: when Dagster will say that it was made; None: now.
        """
        reported_at = (at or SystemClock().now()).isoformat()
        signature = base64.b64encode(self.signer.sign(_to_sign(report, reported_at))).decode()
        # In short lines: a long one would widen the table of every report beyond the page.
        lines = [reported_at, *wrap(signature, _LINE_CHARS)]
        return report.with_metadata({**_bare(report), SEAL: dg.MetadataValue.json(lines)})

    def is_on(self, entry: dg.EventLogEntry) -> bool:
        """Whether the sync made this report, at about the moment that Dagster has for it."""
        report = entry.asset_materialization or entry.asset_check_evaluation
        if report is None or (mark := _mark(report.metadata.get(SEAL))) is None:
            return False
        reported_at, signature = mark
        try:
            apart = abs(datetime.fromtimestamp(entry.timestamp, UTC) - datetime.fromisoformat(reported_at))
        except (ValueError, TypeError):
            return False
        return apart <= STORED_WITHIN and self._is_by_us(_to_sign(report, reported_at), signature)

    def on_cursor(self, text: str, sensor: str = "") -> str:
        """The cursor with a seal, since anybody who reaches the UI can set another.

        Args:
            sensor: whose it is, so that no other's stands for it; empty: that of the sync.
        """
        return f"{text} {base64.b64encode(self.signer.sign(_cursor_to_sign(text, sensor))).decode()}"

    def cursor_in(self, sealed: str | None, sensor: str = "") -> str | None:
        """The cursor; None where it has no seal of ours."""
        text, _, signature = (sealed or "").rpartition(" ")
        return text if self._is_by_us(_cursor_to_sign(text, sensor), signature) else None

    def on_run(self, described: str) -> str:
        """The seal of a run, over the words that describe it."""
        return base64.b64encode(self.signer.sign(RUN_LABEL + described.encode())).decode()

    def is_on_run(self, described: str, seal: str) -> bool:
        """Whether we have sealed a run that is described so."""
        return self._is_by_us(RUN_LABEL + described.encode(), seal)

    def _is_by_us(self, signed: bytes, signature: str) -> bool:
        try:
            raw = base64.b64decode(signature, validate=True)
        except (ValueError, binascii.Error):
            return False
        return self.signer.verifies(self.signer.public, signed, raw)


def _mark(value: object) -> tuple[str, str] | None:
    """The time and the signature of a seal; before 0.2.0 it was a line of text."""
    match value:
        case dg.TextMetadataValue(text=str(text)):
            reported_at, _, signature = text.partition(" ")
            return reported_at, signature
        case dg.JsonMetadataValue(data=[str(reported_at), *lines]):
            return reported_at, "".join(map(str, lines))
    return None


@dataclass(slots=True)
class Corrections:
    """Corrects one instance.

    Args:
        messages: what was corrected, so far.
        has_lost: whether the history of an asset was wiped, so that every step must be reported again.
    """

    instance: dg.DagsterInstance
    ownership: Ownership
    seal: Seal
    messages: list[str] = field(default_factory=list)
    has_lost: bool = False

    def correct(self, cursor: str | None) -> str | None:
        """Corrects every report from outside since a cursor of Dagster's events; gives the next cursor."""
        checks, assets = dict[dg.AssetCheckKey, str](), dict[dg.AssetKey, str]()
        read = 0
        while read < MOST_READ:
            page = self.instance.get_records_for_run(RUNLESS_RUN_ID, cursor, KINDS, READ_AT_ONCE)
            cursor, read = page.cursor, read + len(page.records)
            for record in page.records:
                self._sort(record, checks, assets)
            if not page.has_more:
                break
        for key, name in assets.items():
            self._correct_asset(key, name)
        for check, name in checks.items():
            self._correct_check(check, name)
        return cursor

    def _sort(
        self, record: dg.EventLogRecord, checks: dict[dg.AssetCheckKey, str], assets: dict[dg.AssetKey, str]
    ) -> None:
        """Notes the check or asset of an event that does not count."""
        entry = record.event_log_entry
        at = datetime.fromtimestamp(entry.timestamp, UTC)
        name = f"event {record.storage_id} of {at:%Y-%m-%d %H:%M:%S} UTC, from outside every run, does not count"
        if (evaluation := entry.asset_check_evaluation) is not None:
            if evaluation.asset_check_key in self.ownership.checks and not self.seal.is_on(entry):
                checks[evaluation.asset_check_key] = name
        elif (materialization := entry.asset_materialization) is not None:
            if materialization.asset_key in self.ownership.assets and not self.seal.is_on(entry):
                assets[materialization.asset_key] = name
        else:
            self.has_lost |= entry.get_dagster_event().asset_key in self.ownership.assets

    def _correct_check(self, key: dg.AssetCheckKey, name: str) -> None:
        newest = next(self._evaluations(key), None)
        if newest is not None and not self._counts(newest):
            self.messages.append(f"{key.to_user_string()}: {name}")
            unknown = dg.AssetCheckEvaluation(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description="not evaluated yet; launch the job `evidence`",
            )
            self._report(self._last_result(key) or unknown, name)

    def _correct_asset(self, key: dg.AssetKey, name: str) -> None:
        counts, outside = dict[str | None, dg.EventLogEntry](), set[str | None]()
        for entry in self._materializations(key):
            partition = entry.get_dagster_event().partition
            if partition not in counts and self._counts(entry):
                counts[partition] = entry
            elif partition not in counts:
                outside.add(partition)
        if not outside:
            return
        self.messages.append(f"{key.to_user_string()}: {name}")
        results = [self._last_result(check) for check in self.ownership.checks if check.asset_key == key]
        again = {partition: counts[partition] for partition in outside & counts.keys()}
        if is_lost := len(again) < len(outside):
            # Dagster removes no single event of an asset, and no single partition.
            self.instance.wipe_assets([key])
            self.has_lost, again = True, dict(reversed(counts.items()))  # what was reported last is the newest
        for entry in again.values():
            self._report(entry.asset_materialization, name, None if is_lost else entry.timestamp)
        for result in results:
            self._report(result, name)

    def _last_result(self, key: dg.AssetCheckKey) -> dg.AssetCheckEvaluation | None:
        """The newest result that counts, as one of whatever its asset holds now."""
        for entry in filter(self._counts, self._evaluations(key)):
            if (last := entry.asset_check_evaluation) is not None:
                return dg.AssetCheckEvaluation(
                    asset_key=last.asset_key,
                    check_name=last.check_name,
                    passed=last.passed,
                    metadata=last.metadata,
                    severity=last.severity,
                    description=last.description,
                    partition=last.partition,
                )
        return None

    def _report(self, report: Report | None, name: str, at: float | None = None) -> None:
        """Reports again, and names what this corrects; `at`: when it was made, in seconds since 1970."""
        if report is not None:
            reported_at = SystemClock().now() if at is None else datetime.fromtimestamp(at, UTC)
            report_at(self.instance, self.seal, report.with_metadata({**report.metadata, CORRECTED: name}), reported_at)

    def _counts(self, entry: dg.EventLogEntry) -> bool:
        return entry.run_id != RUNLESS_RUN_ID or self.seal.is_on(entry)

    def _evaluations(self, key: dg.AssetCheckKey) -> Iterator[dg.EventLogEntry]:
        """Every evaluation, the newest first."""
        cursor: int | None = None
        storage = self.instance.event_log_storage
        while page := storage.get_asset_check_execution_history(key, READ_AT_ONCE, cursor):
            cursor = page[-1].id
            yield from (each.event for each in page if each.event is not None and each.event.asset_check_evaluation)

    def _materializations(self, key: dg.AssetKey) -> Iterator[dg.EventLogEntry]:
        """Every materialization, the newest first."""
        cursor, has_more = None, True
        while has_more:
            page = self.instance.fetch_materializations(key, READ_AT_ONCE, cursor)
            cursor, has_more = page.cursor, page.has_more
            yield from (each.event_log_entry for each in page.records)


def report_at(
    instance: dg.DagsterInstance,
    seal: Seal,
    report: Report,
    at: datetime,
) -> None:
    """Reports without a run, sealed, what happened at a time that may be past."""
    sealed = seal.on(report, at)
    data = StepMaterializationData(sealed) if isinstance(sealed, dg.AssetMaterialization) else sealed
    kind = KINDS_OF[type(sealed)]
    event = DagsterEvent(event_type_value=kind.value, event_specific_data=data, job_name=RUNLESS_JOB_NAME)
    instance.report_dagster_event(event, run_id=RUNLESS_RUN_ID, timestamp=at.timestamp())


def _bare(report: Report) -> Mapping[str, dg.MetadataValue]:
    return {name: each for name, each in report.metadata.items() if name != SEAL}


def _cursor_to_sign(text: str, sensor: str) -> bytes:
    return CURSOR_LABEL + (f"{sensor}\n{text}" if sensor else text).encode()


def _to_sign(report: Report, reported_at: str) -> bytes:
    return EVENT_LABEL + f"{reported_at}\n{serialize_value(report.with_metadata(_bare(report)))}".encode()
