"""The proof that nothing under the old key is left."""

from collections.abc import Sequence

import dagster as dg

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.defs.owners import DATABASE_ADMINISTRATORS
from keyrotation_pipeline.defs.partitions import key_versions
from keyrotation_pipeline.defs.performing import perform
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import EncryptedTable


def zero_old_rows_proof_asset(naming: Naming, tables: Sequence[EncryptedTable]) -> dg.AssetsDefinition:
    """The asset `zero_old_rows_proof`, after the rows of every table."""
    before = [naming.rows(table.name) for table in tables] or [naming.step(Step.PRIMARY_KEY_ROLLOUT)]

    @dg.asset(
        key_prefix=naming.prefix,
        partitions_def=key_versions(naming),
        group_name=naming.name("old_key"),
        kinds={"postgres"},
        owners=[DATABASE_ADMINISTRATORS],
        deps=before,
    )
    def zero_old_rows_proof(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """5. Sweeps find nothing, every value decrypts, and the database itself refuses the old version from now on."""
        return perform(context, keyrotation, Step.ZERO_OLD_ROWS_PROOF, closing=Step.ROWS)

    return zero_old_rows_proof
