"""Tries keys on the values of one place in a database of which no home need be known; writes nothing."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from keyrotation_pipeline.adapters.postgres.inventory.relations import CORRECT_TABLES
from keyrotation_pipeline.adapters.postgres.inventory.samples import any_values
from keyrotation_pipeline.adapters.postgres.server.connection import connect, display_name
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.probe import Fit, fits
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName

VALUES = 200


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What opened the values of a place.

    Args:
        database: ``name@host``, without user and password.
        values: that were tried.
    """

    database: str
    values: int
    fits: Sequence[Fit]


def probe_place(url: str, name: TableName, place: Place, listed: str, variable: str) -> ProbeReport:
    """Opens up to `VALUES` values of a place in every known format.

    Args:
        listed: keys, in the notation of any library.
        variable: where they are from.

    Raises:
        InvalidKeyError: nothing reads them as keys.
        PreflightError, BlockedError: the table, or the place, cannot be read.
        DatabaseUnavailableError: no server answers, or it refuses.
    """
    with closing(connect(url)) as connection:
        connection.execute("SET default_transaction_read_only = on")
        table = EncryptedTable.of(name, [place])
        try:
            (values,) = any_values(connection, table, VALUES).values()
        except PreflightError as error:  # there may be no configuration
            raise PreflightError(str(error).replace(CORRECT_TABLES, "type its name as the database has it")) from None
    return ProbeReport(display_name(url), len(values), fits(listed, variable, values, table.label(place.name)))
