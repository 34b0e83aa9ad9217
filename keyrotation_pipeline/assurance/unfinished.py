"""What a killed `backup --rekey` left: files without a manifest, of which nothing says what they are."""

from keyrotation_pipeline.assurance.site import BackupSite
from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.model.backup_events import BackupRekeyIntended
from keyrotation_pipeline.model.backups import stamp_in


def remove_unfinished(site: BackupSite) -> tuple[str, ...]:
    """Remove local files of sets that were begun and never got a manifest; only under the lock of backups.

    Returns:
        Their names.
    """
    names = site.local.names()
    begun = {each.manifest for each in recorded(site.pipeline.ledger, BackupRekeyIntended)}
    # A set whose manifest was lost afterwards is still one, by the audit.
    stamps = {stamp_in(manifest) for manifest in begun - {*names, *site.seals.names}}
    gone = tuple(name for name in names if (stamp_in(name.removesuffix(".sig")) or "") in stamps)
    for name in gone:
        site.local.remove(name)
    return gone
