"""The backups of a state, as files that the real code reads."""

from functools import cache

from keyrotation_pipeline.backups.catalog import BackupContext, Objectives
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import GENESIS, AuditHead
from keyrotation_pipeline.model.backups import (
    BackupSet,
    DatabaseContent,
    DatabaseCopy,
    StoredFile,
    TableContent,
    dump_name,
    signature_name,
    stamp_of,
)
from keyrotation_pipeline.model.manifest import render
from keyrotation_pipeline_tests.fakes import PIPELINE, START, FakeSigner
from keyrotation_pipeline_tests.fakes.backups import DEFINITION
from keyrotation_pipeline_tests.protocol.machine import TABLE, Machine
from keyrotation_pipeline_tests.unit.backups.test_destruction import FakePlace


@cache
def files_of(versions: tuple[int, ...]) -> dict[str, bytes]:
    """A signed set with a dump whose values are under these versions."""
    content = TableContent(TABLE, 1, {"name": {KeyVersion(version): 1 for version in versions}})
    stamp = stamp_of(START, PIPELINE)
    dump = DatabaseCopy(
        StoredFile(dump_name(stamp), "0" * 64, 1, ("F" * 40,)), (content,), 18, DatabaseContent((), 0), DEFINITION
    )
    made = BackupSet(stamp, "clinic", (), dump, AuditHead(0, GENESIS))
    text = render(made, FakeSigner().public)
    return {dump.file.name: b"", made.name: text, signature_name(made.name): FakeSigner().sign(text)}


def site_of(machine: Machine) -> BackupContext:
    """Where the backups of the loaded state are."""
    assert machine.loaded is not None
    store = machine.stores.values[machine.loaded.store]
    machine.reads.names.add("store")
    files = {name: content for versions in store.dumps for name, content in files_of(versions).items()}
    place = FakePlace("directory backups", machine.journal, files)
    trust = ManifestTrust(FakeSigner(), machine.ledger, machine.signatures, machine.clock)
    return BackupContext(
        machine.pipeline, place, None, trust, (), None, None, None, 2, 7, Objectives(1, 1),  # type: ignore[arg-type]
    )  # fmt: skip
