"""Decrypts some pages of a table at a time, each span under a short snapshot of its own, and rests in between.

A row that the application moves from pages ahead to pages that are done is read in a later round, where it is then.
"""

from collections.abc import Callable, Sequence

from keyrotation_pipeline.adapters.postgres.engine.decrypt import Found, opened
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.server_errors import without_content
from keyrotation_pipeline.adapters.postgres.engine.supervisor import CLOCK
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.tables import EncryptedTable


@without_content
def decrypt_spans(
    connect: Callable[[], Connection],
    table: EncryptedTable,
    spans: Sequence[PageSpan],
    ring: KeyRing,
    report: Report,
    limits: Limits,
    go_on: Callable[[], bool],
) -> int:
    """Decrypt what some spans of one table hold, keeping nothing; returns the number of values.

    Values that do not decrypt go to the quarantine. Earlier entries leave it when their row is seen to be mended.

    Args:
        limits: with the duty cycle, and as many workers as threads are to read.
        go_on: asked before each span, whether it may still be read now.
    """
    values = 0
    with opened(connect, table, ring, report, limits) as decryption:
        relations = {relation.noted_as: relation for relation in decryption.relations}
        for relation in relations.values():
            decryption.recheck(relation)
        for span in spans:
            if span.relation not in relations:
                continue
            if not go_on():
                break
            began = CLOCK.monotonic()
            found = Found.nothing(table)
            decryption.decrypt(relations[span.relation], found, (span.first_page, span.end_page))
            values += found.values
            CLOCK.sleep((CLOCK.monotonic() - began) * (1 / limits.duty_cycle - 1))
    return values
