"""The jobs: the walk in three legs, each a run, and one that looks at what is true now."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition as AssetJob,
)  # type only

from keyrotation_pipeline.defs.inventory import NO_UNDECLARED_CIPHERTEXT
from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.reencrypt import due_shards_op
from keyrotation_pipeline.defs.resources import RESOURCE
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import EncryptedTable

INTRODUCE_KEY = "introduce_key"
REENCRYPT_ROWS = "reencrypt_rows"
RETIRE_KEY = "retire_key"
EVIDENCE = "evidence"
DECRYPT = "decrypt_what_is_due"

# `Step.ROWS` without a shard closes the rows; the proof's asset does that first, so it has none of its own.
LEGS = {
    INTRODUCE_KEY: (Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT),
    RETIRE_KEY: (
        Step.ZERO_OLD_ROWS_PROOF,
        Step.RETIRED_KEY,
        Step.ARCHIVED_KEY,
        Step.KEY_ROTATION_AUDIT,
        Step.COMPLIANCE_REPORT,
    ),
}


@dataclass(frozen=True, slots=True)
class Jobs:
    """Every job; `rows` is None while no table is declared."""

    introduce: AssetJob
    rows: dg.JobDefinition | None
    retire: AssetJob
    evidence: AssetJob
    decrypt: AssetJob

    def all(self) -> list[AssetJob | dg.JobDefinition]:
        """Those that there are."""
        return [job for job in (self.introduce, self.rows, self.retire, self.evidence, self.decrypt) if job is not None]


def build_jobs(
    naming: Naming,
    tables: Sequence[EncryptedTable],
    checks: Iterable[dg.AssetCheckKey],
    keyrotation: dg.ResourceDefinition,
) -> Jobs:
    """The jobs over these tables, each in one process: a step takes less time than a process takes to start."""
    return Jobs(
        introduce=_leg(naming, INTRODUCE_KEY, "The new key: made, read by every instance, made the primary."),
        rows=_rows(naming, keyrotation) if tables else None,
        retire=_leg(naming, RETIRE_KEY, "The proof, the retirement of the old key, and the evidence for the auditor."),
        evidence=dg.define_asset_job(
            naming.name(EVIDENCE),
            dg.AssetSelection.assets(naming.asset("encrypted_columns")).without_checks()
            | dg.AssetSelection.checks(*checks),
            description="Every check, changing nothing: all is read after a rotation or by hand; by the clock, a part.",
            executor_def=dg.in_process_executor,
        ),
        decrypt=dg.define_asset_job(
            naming.name(DECRYPT),
            dg.AssetSelection.checks(
                dg.AssetCheckKey(naming.step(Step.RETIRED_KEY), "every_value_decrypts"),
                dg.AssetCheckKey(naming.asset("encrypted_columns"), NO_UNDECLARED_CIPHERTEXT),
            ),
            description="Decrypt the part of all values that is due, and search the part of everything else.",
            executor_def=dg.in_process_executor,
        ),
    )


def _rows(naming: Naming, keyrotation: dg.ResourceDefinition) -> dg.JobDefinition:
    due_shards = due_shards_op(naming)

    # With its resource here: Dagster warns of a sensor over a job whose resource comes later.
    @dg.job(
        name=naming.name(REENCRYPT_ROWS),
        resource_defs={RESOURCE: keyrotation},
        description="Shards under the new key, one after another; as many such runs at a time as may be.",
        executor_def=dg.in_process_executor,
    )
    def reencrypt_rows() -> None:
        due_shards()

    return reencrypt_rows


def _leg(naming: Naming, name: str, description: str) -> AssetJob:
    return dg.define_asset_job(
        naming.name(name),
        dg.AssetSelection.assets(*map(naming.step, LEGS[name])).without_checks(),
        description=description,
        executor_def=dg.in_process_executor,
    )
