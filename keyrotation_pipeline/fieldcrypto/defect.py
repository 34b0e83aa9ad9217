"""Names the reason why a stored value cannot be decrypted, without any of its content."""

from dataclasses import dataclass
from enum import StrEnum

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion


class DefectKind(StrEnum):
    """What is wrong with a value; the quarantine stores these names."""

    NOT_A_VALUE = "not-a-value"
    UNKNOWN_VERSION = "unknown-version"
    NOT_AUTHENTIC = "not-authentic"


_SENTENCES = {
    DefectKind.NOT_A_VALUE: "not encrypted, or damaged: not of the form of an encrypted value",
    DefectKind.UNKNOWN_VERSION: "under key version {version}, which is not in the key ring",
    DefectKind.NOT_AUTHENTIC: "fails authentication under key version {version}",
}


@dataclass(frozen=True, order=True, slots=True)
class Defect:
    """What is wrong with a value; `str()` gives the reason in words.

    Args:
        version: the key version that the value names; None where it names no possible version.
    """

    kind: DefectKind
    version: KeyVersion | None = None

    def __str__(self) -> str:
        return _SENTENCES[self.kind].format(version=self.version)


NOT_A_VALUE = Defect(DefectKind.NOT_A_VALUE)
