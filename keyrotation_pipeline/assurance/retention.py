"""Which local files may go: those older than they need to be kept, when a newer one of the same is verified."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keyrotation_pipeline.assurance.copies import is_intact
from keyrotation_pipeline.assurance.site import BackupSite
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.backups import BackupSet, StoredFile, is_manifest
from keyrotation_pipeline.model.events import EventKind, Note

_STAMP = re.compile(r"-(\d{8}-\d{6})(?:-\d+)?\.")


@dataclass(frozen=True, slots=True)
class _Local:
    """One encrypted file with what it is a copy of: a key (version and fingerprint), or the database."""

    copy_of: tuple[str, ...]
    made_at: datetime
    file: StoredFile
    beside: tuple[str, ...] = ()


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
        for each in sorted(group, key=lambda one: (one.made_at, one.file.name), reverse=True):
            if newer_is_intact and each.made_at < limit:
                gone |= {each.file.name, *each.beside}
            # The newest intact one stays, however old it is; damaged ones before it vouch for nothing.
            newer_is_intact = newer_is_intact or is_intact(site.local, each.file)
    yield from sorted(gone)
    yield from sorted(_empty_manifests(site, limit, gone))


def _local_copies(site: BackupSite) -> Iterator[_Local]:
    names = site.local.names()
    for name in names:
        with suppress(BackupError, ValueError, KeyError, TypeError):
            if is_manifest(name):
                made = BackupSet.from_json(site.local.read(name))
                if made.dump is not None and made.dump.file.name in names:
                    yield _Local((made.database,), made.made_at, made.dump.file)
            elif name.endswith(".bin.gpg.json"):
                content = json.loads(site.local.read(name))
                file = StoredFile(name.removesuffix(".json"), str(content["sha256"]), 0, ())
                made_at = datetime.fromisoformat(content["made_at"])
                yield _Local((str(content["version"]), str(content["fingerprint"])), made_at, file, (name,))


def _empty_manifests(site: BackupSite, limit: datetime, gone: set[str]) -> Iterator[str]:
    """Old manifests of which no file is left; damaged ones stay, to be seen."""
    left = set(site.local.names()) - gone
    for name in filter(is_manifest, left):
        stamped = _STAMP.search(name)
        if stamped is None or datetime.strptime(stamped[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC) >= limit:
            continue
        with suppress(BackupError, ValueError, KeyError, TypeError):
            made = BackupSet.from_json(site.local.read(name))
            if left.isdisjoint(file.name for file in made.files):
                yield name
