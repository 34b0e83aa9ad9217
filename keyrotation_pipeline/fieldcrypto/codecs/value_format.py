"""Names the format of a table's values and how the key of a value is identified. Holds no key and no code.

`codecs.format` has the code that reads and writes each format; the inventory's `format_sql` has its SQL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class IdentifiedBy(StrEnum):
    """How the key of a value is identified, which decides how old values are counted, refused and proved absent."""

    MARKER = "marker"
    MAC = "mac"

    @property
    def evidence(self) -> str:
        """What a count of zero old values rests on, in words."""
        return _EVIDENCE[self]


_EVIDENCE: Mapping[IdentifiedBy, str] = MappingProxyType(
    {
        IdentifiedBy.MARKER: "every value names its key version, and none names a retired one",
        IdentifiedBy.MAC: (
            "values name no key version: the MAC of each was computed with the signing halves of the retired keys, and "
            "none was right"
        ),
    }
)


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

    def signed(self) -> str:
        """The format in a signed text."""
        time = "; new values keep the time of the old ones" if self.keep_time else ""
        return f"{self.name}, keys as they are, identified by {_SIGNED[self.identified_by]}{time}"


_SIGNED: Mapping[IdentifiedBy, str] = MappingProxyType(
    {IdentifiedBy.MARKER: "the version that each value names", IdentifiedBy.MAC: "the MAC of each value"}
)
NATIVE = ValueFormat("native", IdentifiedBy.MARKER)
FERNET = ValueFormat("fernet", IdentifiedBy.MAC)
FORMATS: Mapping[str, ValueFormat] = MappingProxyType({each.name: each for each in (NATIVE, FERNET)})
