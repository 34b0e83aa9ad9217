"""How many values a key has encrypted, and will have, at most: the bound of its cipher is never crossed."""

from collections.abc import Sequence

from keyrotation_pipeline.errors import RequestError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.keys import KeyUsage
from keyrotation_pipeline.model.tables import TableCount
from keyrotation_pipeline.ports.pipeline import Pipeline

_SECOND = (
    "write generation = 2 under [format] of keyrotation.toml, whose keys allow 2^80 (`keyrotation docs "
    "second-generation`)"
)
_DIVIDE = (
    "give some of the tables a key of their own, in a home with another [database] schema (`keyrotation docs "
    "prepare-database`)"
)


def usage_of_primary(pipeline: Pipeline) -> KeyUsage | None:
    """The upper bound for the primary: all writes that the server counted, and the rotation to it."""
    primary = pipeline.keys.read().primary
    if primary is None:
        return None
    columns = {str(table.name): len(table.columns) for table in pipeline.tables}
    written = pipeline.inventory.written_rows(pipeline.tables)
    rewritten = sum(
        walked.rows * columns.get(walked.table, 1)
        for rotation in pipeline.ledger.requests()
        if rotation.target == primary
        for walked in pipeline.ledger.shard_progress(rotation.id)
    )
    return KeyUsage(primary, sum(rows * columns[table] for table, rows in written.items()), rewritten)


def require_room(pipeline: Pipeline, target: KeyVersion, counts: Sequence[TableCount]) -> None:
    """Refuses a rotation by which more than half of the values that the new key may encrypt would be used up.

    That is: every value that is there, once, and as many writes of applications until the rotation after it as the
    server's statistics hold so far, without the pipeline's own. A reset or a crash of the server empties these, and
    nothing replaces them: then the values that are there decide alone.

    Args:
        counts: of all tables.

    Raises:
        RequestError: says by how much, and what leads out.
    """
    declared = pipeline.tables[0].format
    if not declared.encrypts_by_gcm:
        return
    values = sum(sum(count.values_by_version.values()) for count in counts)
    used = usage_of_primary(pipeline)
    writes = 0 if used is None else max(0, used.by_applications - used.by_rotations)
    expected = KeyUsage(target, writes, values)
    if not expected.half_used:
        return
    raise RequestError(
        f"{target} would encrypt about {expected.encryptions:,} values until the next rotation ({values:,} that are "
        f"there, {writes:,} writes as so far), which is {expected.share:.0%} of the {expected.limit_name} that AES-GCM "
        f"with random nonces allows a key; {_SECOND if declared.name == NATIVE.name else _DIVIDE}"
    )
