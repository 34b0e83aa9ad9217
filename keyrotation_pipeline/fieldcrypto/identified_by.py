"""How the key of a value is told, and what a count of zero old values then rests on."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class IdentifiedBy(StrEnum):
    """How the key of a value is identified, which decides how old values are counted, refused and proved absent."""

    MARKER = "marker"
    MAC = "mac"
    DECRYPT = "decrypt"

    @property
    def signed(self) -> str:
        """What identifies the key, in a signed text."""
        return _WAYS[self].signed

    @property
    def evidence(self) -> str:
        """What a count of zero old values rests on, in words."""
        return _WAYS[self].evidence

    @property
    def refuses_writers(self) -> bool:
        """Whether the database can neither count nor refuse old values, only refuse those who write them."""
        return _WAYS[self].refuses_writers

    @property
    def is_searchable(self) -> bool:
        """Whether something tells a value from other text, so that copies in undeclared places are found."""
        return _WAYS[self].is_searchable

    @property
    def remark(self) -> str:
        """What is said next to a count of old values, with a space before it; empty where the database counts them."""
        return " (by decrypting: weaker evidence than a count by the database)" if self.refuses_writers else ""

    def refused(self, versions: str) -> str:
        """What the database refuses of retired versions, in words."""
        return f"the logins of {versions}" if self.refuses_writers else versions


@dataclass(frozen=True, slots=True)
class _Way:
    signed: str
    evidence: str
    refuses_writers: bool = False
    is_searchable: bool = True


_WAYS: Mapping[IdentifiedBy, _Way] = MappingProxyType(
    {
        IdentifiedBy.MARKER: _Way(
            "the marker in each value", "every value names its key version, and none names a retired one"
        ),
        IdentifiedBy.MAC: _Way(
            "the MAC of each value",
            "values name no key version: the MAC of each was computed with the signing halves of the retired keys, and "
            "none was right",
        ),
        IdentifiedBy.DECRYPT: _Way(
            "decrypting each value, which is weaker evidence than a count by the database",
            "weaker evidence than a count by the database, which cannot tell a value's key: every value was decrypted "
            "twice, the second time with the new key alone after the old login had lost the right to write, and what "
            "was written since was decrypted while nobody could write (of relations named as not read again: only "
            "their new pages, while others could write); a value in an undeclared place is not found, and roles that "
            "can act as the tables' owner can still write any value",
            refuses_writers=True,
            is_searchable=False,
        ),
    }
)
