"""Chooses the backup that present values are compared with: the newest intact one from before the discovery."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.backups.catalog import BackupContext, fetch, kept_sets
from keyrotation_pipeline.backups.recovery_test import recovered_keys
from keyrotation_pipeline.errors import BackupError, DamagedBackupError, IncidentError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.backup_events import BackupSealed
from keyrotation_pipeline.model.backups import BackupSet, DatabaseCopy, stamp_in, stamped_at
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.ports.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Baseline:
    """A backup from before the discovery, whose dump was fetched.

    Args:
        keys: every key in it.
        passed_over: newer ones that could not be used, one phrase each.
    """

    place: BackupPlace
    made: BackupSet
    dump: DatabaseCopy
    keys: Mapping[KeyVersion, KeyMaterial]
    passed_over: tuple[str, ...]


def fetched_baseline(
    site: BackupContext, incident: Incident, key: RecoveryKey, target: Path, wanted: str | None
) -> Baseline:
    """The newest backup from before an incident's discovery that is intact somewhere; its dump is then in `target`.

    Args:
        wanted: manifest or dump of the one to take; None: the newest.

    Raises:
        IncidentError: there is none, or the wanted one is not from before.
        RecoveryError, BackupError: it is damaged everywhere, or its keys cannot be read.
    """
    found = _Found(site, incident)
    for place, made, dump in found.candidates(wanted):
        try:
            fetch(place, dump.file, target)
            keys = recovered_keys(place, made, key, site.pipeline.ledger.keys())
        except (BackupError, DamagedBackupError) as error:
            found.refused[f"{made.name} in {place.description}"] = error
            continue
        newer = found.passed_over(made) if wanted is None else ()
        return Baseline(place, made, dump, keys, tuple(newer))
    raise found.refusal(wanted)


class _Found:
    """The backups of every place, as far as they can be used for one incident.

    Args:
        refused: by name, why it cannot be used.
    """

    def __init__(self, site: BackupContext, incident: Incident) -> None:
        self.refused: dict[str, KeyRotationError] = {}
        self._site = site
        self._incident = incident
        self._sealed_at = _sealed_at(site.pipeline.ledger)
        self._sets: list[tuple[BackupPlace, BackupSet, DatabaseCopy]] = []
        for place in site.places:
            try:
                kept = kept_sets(place, site.trust)
            except BackupError as error:
                self.refused[place.description] = error
                continue
            self.refused |= {f"{name} in {place.description}": why for name, why in kept.refused.items()}
            self._sets += [(place, made, made.dump) for made in kept.sets if made.dump is not None]

    def candidates(self, wanted: str | None) -> list[tuple[BackupPlace, BackupSet, DatabaseCopy]]:
        """Those from before the discovery, the newest first, in each place."""
        named = [each for each in self._sets if wanted in {None, each[1].name, each[2].file.name}]
        usable = [each for each in named if self._is_before(each[1].name)]
        if named and not usable and wanted is not None:
            raise IncidentError(
                f"{wanted} was not complete before {self._discovered}, when {self._incident.id} was discovered, so it "
                "may hold what was planted; name an older one with --backup, or none"
            )
        return sorted(usable, key=lambda each: self._site.trust.order(each[1]), reverse=True)

    def passed_over(self, chosen: BackupSet) -> Iterator[str]:
        """Why newer ones from before the discovery were not used: refused, damaged, or in no place."""
        trust, told = self._site.trust, set[str]()
        for name, why in self.refused.items():
            manifest = name.partition(" in ")[0]
            if stamp_in(manifest) is None or (self._is_before(manifest) and trust.is_after(manifest, chosen)):
                told.add(manifest)
                yield f"{name}: {why}"
        here = {made.name for _, made, _ in self._sets}
        for manifest in trust.sealed_with_dump:
            if manifest not in here | told and self._is_before(manifest) and trust.is_after(manifest, chosen):
                yield f"{manifest} is in no place, although the audit has it"

    def refusal(self, wanted: str | None) -> KeyRotationError:
        """Why no backup can be used."""
        for name, why in self.refused.items():
            if wanted is None or stamp_in(name.partition(" in ")[0]) == stamp_in(wanted):
                return why
        places = " or ".join(place.description for place in self._site.places)
        what = "no backup of the database" if wanted is None else f"no backup {wanted}"
        return IncidentError(
            f"{what} from before {self._discovered}, when {self._incident.id} was discovered, is in {places}, so "
            "nothing shows what the values were; put an older one back there, and run this again"
        )

    def _is_before(self, manifest: str) -> bool:
        """Whether a set was complete by then: its snapshot is of a moment after its stamp, and before its event."""
        try:
            begun = stamped_at(stamp_in(manifest) or "")
        except ValueError:  # somebody else's name, of no day that there is
            return False
        return max(begun, self._sealed_at.get(manifest, begun)) <= self._incident.discovered_at

    @property
    def _discovered(self) -> str:
        return f"{self._incident.discovered_at:%Y-%m-%d %H:%M:%S} UTC"


def _sealed_at(ledger: Ledger) -> Mapping[str, datetime]:
    """When each manifest was signed, by the audit; one that was made from another set: when that one was."""
    sealed: dict[str, datetime] = {}
    for entry in entries(ledger, EventKind.BACKUP_SEALED):
        if isinstance(fact := entry.fact(), BackupSealed):
            sealed[fact.manifest] = sealed.get(fact.made_from or "", entry.at)
    return sealed
