"""What lies in a place of backups and is no whole set of ours: sets of unknown signers, and interrupted backups."""

from collections import defaultdict
from collections.abc import Collection, Iterator

from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import BackupError, UnsignedBackupError
from keyrotation_pipeline.model.backups import (
    in_order,
    is_dump,
    is_manifest,
    manifest_name,
    pipeline_in,
    stamp_in,
    stamped_at,
)
from keyrotation_pipeline.ports.backup_places import BackupPlace

# Whoever writes to a place can name as many manifests like ours as they want; each one costs two requests.
MOST_READ = 20


def unknown_sets(place: BackupPlace, names: Collection[str], trust: ManifestTrust) -> Iterator[str]:
    """A sentence for each pipeline whose sets are in a place and that is not ours.

    Args:
        names: of every file in the place.

    Raises:
        BackupError: the place does not answer.
    """
    found: dict[str, list[str]] = defaultdict(list)
    left = MOST_READ
    for name in sorted(filter(is_manifest, names), key=lambda each: in_order(stamp_in(each) or ""), reverse=True):
        if name in trust.names:
            continue
        if not trust.knows(name):
            found[f"of the pipeline {pipeline_in(stamp_in(name) or '')}, which is unknown"].append(name)
        elif left:
            left -= 1
            if not _is_signed(place, name, trust):
                found["named like ours, which no key of ours has signed"].append(name)
    for whose, sets in found.items():
        yield (
            f"{place.description} has {len(sets)} set(s) {whose} (newest: {sets[0]}); if another pipeline writes "
            "there, give it a directory or [backup.s3] prefix of its own; if none does, somebody forges backups: run "
            "`keyrotation incident open`"
        )


def _is_signed(place: BackupPlace, name: str, trust: ManifestTrust) -> bool:
    try:
        trust.read(place, name)
    except UnsignedBackupError:
        return False
    except BackupError:  # damaged, or of the future: whoever wants to use it is told
        return True
    return True


def begun_dumps(names: Collection[str], trust: ManifestTrust) -> tuple[str, ...]:
    """Those dumps of ours among these names that have no manifest there, and that the audit never had one of."""
    found = []
    for name in filter(is_dump, names):
        manifest = manifest_name(stamp_in(name) or "")
        if manifest not in names and manifest not in trust.names and trust.knows(manifest):
            found.append(name)
    return tuple(found)


def interrupted(place: BackupPlace, names: Collection[str], trust: ManifestTrust, since: str | None) -> Iterator[str]:
    """A sentence for each backup that was begun in a place, after a set, and never got a manifest.

    Args:
        since: that set's manifest; None: there is none.
    """
    after = in_order(stamp_in(since or "") or "")
    for dump in begun_dumps({*names, *place.unfinished()}, trust):
        stamp = stamp_in(dump) or ""
        if in_order(stamp) > after:
            yield (
                f"the backup of {stamped_at(stamp):%Y-%m-%d %H:%M} UTC was begun in {place.description} and not "
                "finished; unless it is still under way, run `keyrotation backup`, which makes a whole one"
            )
