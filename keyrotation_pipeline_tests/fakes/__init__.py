"""In-memory ports for tests of the procedure: small, honest about transactions, and able to die at any change.

`fake_pipeline()` wires them together: v1 is live and primary in a key store that has also v2, one table of two
encrypted columns, one application instance. Every change is noted in one shared `Journal`, which can be made to die
before its n-th entry, as a killed process would.
"""

from keyrotation_pipeline_tests.fakes.backups import (
    PIPELINE,
    FakeAnchors,
    FakeFiles,
    FakeSigner,
    FakeVault,
    Making,
    fake_manifest_trust,
)
from keyrotation_pipeline_tests.fakes.chain import LedgerState
from keyrotation_pipeline_tests.fakes.clock import FakeClock, FakeHeartbeats
from keyrotation_pipeline_tests.fakes.database import (
    FakeDatabase,
    FakeEnvironment,
    RefusedByFenceError,
    is_unencrypted,
    version_of,
)
from keyrotation_pipeline_tests.fakes.inventory import FERNET_TOKENS, FakeInventory
from keyrotation_pipeline_tests.fakes.journal import CLIENTS, START, V1, V2, V3, Journal, ProcessKilled
from keyrotation_pipeline_tests.fakes.keys import FakeKeyStore
from keyrotation_pipeline_tests.fakes.ledger import FakeLedger
from keyrotation_pipeline_tests.fakes.retirement import FakeEvidence, FakeFencing
from keyrotation_pipeline_tests.fakes.rewriting import FakeRewriting
from keyrotation_pipeline_tests.fakes.rollout import FakeRollout
from keyrotation_pipeline_tests.fakes.signatures import FakeSignatures
from keyrotation_pipeline_tests.fakes.timestamps import FakeTimestampAuthority
from keyrotation_pipeline_tests.fakes.world import ROSTER, FakeWorld, fake_pipeline, rotation_of

__all__ = [
    "CLIENTS",
    "FERNET_TOKENS",
    "PIPELINE",
    "ROSTER",
    "START",
    "V1",
    "V2",
    "V3",
    "FakeAnchors",
    "FakeClock",
    "FakeDatabase",
    "FakeEnvironment",
    "FakeEvidence",
    "FakeFencing",
    "FakeFiles",
    "FakeHeartbeats",
    "FakeInventory",
    "FakeKeyStore",
    "FakeLedger",
    "FakeRewriting",
    "FakeRollout",
    "FakeSignatures",
    "FakeSigner",
    "FakeTimestampAuthority",
    "FakeVault",
    "FakeWorld",
    "Journal",
    "LedgerState",
    "Making",
    "ProcessKilled",
    "RefusedByFenceError",
    "fake_manifest_trust",
    "fake_pipeline",
    "is_unencrypted",
    "rotation_of",
    "version_of",
]
