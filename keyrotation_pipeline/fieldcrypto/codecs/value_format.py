"""Names the format of a table's values and how the key of a value is identified. Holds no key and no code.

`codecs.format` has the code that reads and writes each format; the inventory's `format_sql` has its SQL.
"""

from dataclasses import dataclass
from enum import StrEnum


class IdentifiedBy(StrEnum):
    """How the key of a value is identified, which decides how old values are counted, refused and proved absent."""

    MARKER = "marker"
    MAC = "mac"


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """The declared format of the values in a table's columns.

    Args:
        name: as in `[format]` of the configuration.
        keep_time: whether a re-encrypted value keeps the time that it was encrypted at, where the format has one.
    """

    name: str
    identified_by: IdentifiedBy
    keep_time: bool = False


NATIVE = ValueFormat("native", IdentifiedBy.MARKER)
FERNET = ValueFormat("fernet", IdentifiedBy.MAC)
