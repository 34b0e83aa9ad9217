"""Witnesses of the audit outside, as the configuration names them and officers sign them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from keyrotation_pipeline.model.checkpoints import COSIGNATURE, VerifierKey

SETTING = "audit.witness"
_KEY = " with the key "


@dataclass(frozen=True, slots=True)
class Witness:
    """Where a witness is asked, and what verifies its signatures.

    Args:
        url: its submission prefix; of locked objects, the place that they are in (``s3://…``).
        key: None: it signs nothing, and objects are locked instead.
    """

    url: str
    key: VerifierKey | None

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """Read what ``str`` gives; None for the line of another host."""
        setting, _, rest = line.partition(" ")
        if setting != SETTING:
            return None
        url, separator, key = rest.partition(_KEY)
        if not separator:
            return cls(url, None)
        parsed = VerifierKey.parse(key)
        return None if parsed is None or parsed.kind != COSIGNATURE else cls(url, parsed)

    def __str__(self) -> str:
        """The line among the hosts that officers sign."""
        return f"{SETTING} {self.url}{'' if self.key is None else f'{_KEY}{self.key}'}"

    @property
    def name(self) -> str:
        """As sentences call it."""
        return self.url if self.key is None else self.key.name


def witnesses_in(hosts: Iterable[str]) -> Iterator[Witness]:
    """The witnesses among the hosts that officers signed."""
    return (found for each in hosts if (found := Witness.parse(each)) is not None)
