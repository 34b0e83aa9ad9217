"""Which local files may go: those older than they need to be kept, when a newer one of the same is verified."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyrotation_pipeline.assurance.sets import is_intact, sets_of
from keyrotation_pipeline.assurance.site import BackupSite
from keyrotation_pipeline.model.backups import StoredFile, in_order, signature_name, stamp_in
from keyrotation_pipeline.model.events import EventKind, Note


@dataclass(frozen=True, slots=True)
class _Local:
    """One encrypted file with what it is a copy of: a key (version and fingerprint), or the database."""

    copy_of: tuple[str, ...]
    made_at: datetime
    file: StoredFile


def remove_expired(site: BackupSite, now: datetime) -> tuple[str, ...]:
    """Remove what is expired from the local directory; what other places keep is for their own rules to end.

    Returns:
        Names of the files that went.
    """
    expired = tuple(_expired(site, now - timedelta(days=site.keep_local_days)))
    if expired:
        facts = {"files": list(expired), "place": site.local.description}
        site.pipeline.ledger.append(Note(EventKind.BACKUPS_REMOVAL_INTENDED, facts))
        for name in expired:
            site.local.remove(name)
    return expired


def _expired(site: BackupSite, limit: datetime) -> Iterator[str]:
    copies: dict[tuple[str, ...], list[_Local]] = defaultdict(list)
    for each in _local_copies(site):
        copies[each.copy_of].append(each)
    gone: set[str] = set()
    for group in copies.values():
        newer_is_intact = False
        for each in sorted(group, key=lambda one: in_order(stamp_in(one.file.name) or ""), reverse=True):
            if newer_is_intact and each.made_at < limit:
                gone.add(each.file.name)
            # The newest intact one stays, however old it is; damaged ones before it vouch for nothing.
            newer_is_intact = newer_is_intact or is_intact(site.local, each.file)
    yield from sorted(gone)
    yield from sorted(_empty_manifests(site, limit, gone))


def _local_copies(site: BackupSite) -> Iterator[_Local]:
    names = set(site.local.names())
    for made in sets_of(site.local, site.seals):
        if made.dump is not None and made.dump.file.name in names:
            yield _Local((made.database,), made.made_at, made.dump.file)
        for copy in made.keys:
            if copy.file.name in names:
                yield _Local((str(copy.version), copy.fingerprint), made.made_at, copy.file)


def _empty_manifests(site: BackupSite, limit: datetime, gone: set[str]) -> Iterator[str]:
    """Old manifests of which no file is left; damaged ones stay, to be seen."""
    left = set(site.local.names()) - gone
    for made in sets_of(site.local, site.seals):
        if made.made_at < limit and left.isdisjoint(file.name for file in made.files):
            yield from (made.name, signature_name(made.name))
