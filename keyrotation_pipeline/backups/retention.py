"""Removes local files that are older than their retention, once a newer one of the same is verified.

Where backups also go to other places, a file is removed only when it and the newer one are there: what was made while a
bucket did not answer stays until it is uploaded.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from keyrotation_pipeline.backups.catalog import BackupContext, is_intact, sets_of
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backups import BackupSet, StoredFile, signature_name


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """One encrypted file of the local place.

    Args:
        copy_of: a key (version and fingerprint), the database, or the configuration.
        order: sort key of copies of the same, the newest last.
    """

    copy_of: tuple[str, ...]
    order: Any
    made_at: datetime
    file: StoredFile


def expired(
    copies: Iterable[LocalCopy],
    limit: datetime,
    *,
    is_whole: Callable[[StoredFile], bool],
    is_elsewhere: Callable[[StoredFile], bool],
) -> tuple[str, ...]:
    """Apply the rule: names of the files that may be removed.

    Args:
        limit: what was made before it may be removed.
        is_whole: whether the local file matches its manifest.
        is_elsewhere: whether every other configured place has it.
    """
    groups: dict[tuple[str, ...], list[LocalCopy]] = defaultdict(list)
    for each in copies:
        groups[each.copy_of].append(each)
    gone: set[str] = set()
    for group in groups.values():
        is_superseded = False
        for each in sorted(group, key=lambda one: one.order, reverse=True):
            if is_superseded:
                if each.made_at < limit and is_elsewhere(each.file):
                    gone.add(each.file.name)
            else:
                # The newest intact one stays, however old it is; damaged newer ones do not count.
                is_superseded = is_whole(each.file) and is_elsewhere(each.file)
    return tuple(sorted(gone))


def remove_expired(site: BackupContext, now: datetime) -> tuple[str, ...]:
    """Remove what is expired from the local directory; other places have lifecycle rules of their own.

    Returns:
        Names of the removed files; none while another place does not answer.
    """
    try:
        names = tuple(_expired(site, now - timedelta(days=site.keep_local_days)))
    except BackupError:  # the copying has reported it
        return ()
    if names:
        facts = {"files": list(names), "place": site.local.description}
        site.pipeline.ledger.append(Note(EventKind.BACKUPS_REMOVAL_INTENDED, facts))
        for name in names:
            site.local.remove(name)
    return names


def _expired(site: BackupContext, limit: datetime) -> Iterator[str]:
    sets = tuple(sets_of(site.local, site.trust))
    gone = expired(
        _local_copies(site, sets),
        limit,
        is_whole=lambda file: is_intact(site.local, file),
        is_elsewhere=lambda file: all(place.probably_holds(file) for place in site.offsite),
    )
    yield from gone
    yield from sorted(_empty_manifests(site, sets, limit, frozenset(gone)))


def _local_copies(site: BackupContext, sets: Iterable[BackupSet]) -> Iterator[LocalCopy]:
    names = frozenset(site.local.names())
    for made in sets:
        order = site.trust.order(made)
        if made.dump is not None and made.dump.file.name in names:
            yield LocalCopy((made.database,), order, made.made_at, made.dump.file)
        if made.configuration is not None and made.configuration.name in names:
            yield LocalCopy(("configuration",), order, made.made_at, made.configuration)
        for copy in made.keys:
            if copy.file.name in names:
                yield LocalCopy((str(copy.version), copy.fingerprint), order, made.made_at, copy.file)


def _empty_manifests(
    site: BackupContext, sets: Iterable[BackupSet], limit: datetime, gone: frozenset[str]
) -> Iterator[str]:
    """Old manifests without any file left; damaged ones stay, so that they are noticed."""
    left = set(site.local.names()) - gone
    for made in sets:
        if made.made_at < limit and left.isdisjoint(file.name for file in made.files):
            yield from (made.name, signature_name(made.name))
