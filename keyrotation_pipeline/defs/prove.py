"""The proof that nothing under the old key is left."""

from collections.abc import Sequence

import dagster as dg

from keyrotation_pipeline.defs.names import rows_key, step_key
from keyrotation_pipeline.defs.owners import DATABASE_ADMINISTRATORS
from keyrotation_pipeline.defs.partitions import KEY_VERSIONS
from keyrotation_pipeline.defs.performing import perform
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.columns import EncryptedTable
from keyrotation_pipeline.model.request import Step


def zero_old_rows_proof_asset(tables: Sequence[EncryptedTable]) -> dg.AssetsDefinition:
    """The asset `zero_old_rows_proof`, after the rows of every table."""
    before = [rows_key(table.name) for table in tables] or [step_key(Step.PRIMARY_KEY_ROLLOUT)]

    @dg.asset(
        partitions_def=KEY_VERSIONS,
        group_name="old_key",
        kinds={"postgres"},
        owners=[DATABASE_ADMINISTRATORS],
        deps=before,
    )
    def zero_old_rows_proof(
        context: dg.AssetExecutionContext, pipeline: PipelineParameter
    ) -> dg.MaterializeResult[None]:
        """5. Sweeps find nothing, every value decrypts, and the database itself refuses the old version from now on."""
        return perform(context, pipeline, Step.ZERO_OLD_ROWS_PROOF, closing=Step.ROWS)

    return zero_old_rows_proof
