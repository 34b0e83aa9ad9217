"""What holds wrapping keys: a module for each kind, imported only where it is asked for."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from keyrotation_pipeline.errors import BrokenSealError

AWS_KMS = "aws-kms"
PKCS11 = "pkcs11"
# In place of a version: a key that encrypts nothing, which shows that an application can open others.
CANARY = "canary"
Context = Mapping[str, str]
"""What is authenticated with a sealed key."""
IMPORTED, EXTRACTABLE, ONCE_EXTRACTABLE = "imported", "extractable", "extractable before"
_LONGEST_FACT_CHARS = 80


def kind_of(name: str) -> str:
    """Returns the kind of the wrapping key that has this name."""
    return PKCS11 if name.startswith("pkcs11:") else AWS_KMS


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a wrapping key comes from, as its KMS or token says: a claim, which nothing here proves.

    Args:
        said: in its own words, such as ``Origin AWS_KMS``.
        exposed: why a copy of it may be elsewhere, such as `IMPORTED`; empty: nothing says that there is one.
    """

    said: tuple[str, ...]
    exposed: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: Mapping[str, object], exposed: Iterable[str] = ()) -> "Origin":
        """Returns what was said, by name; only plain characters of it, and no long texts."""
        found = (f"{name} {str(value).lower() if isinstance(value, bool) else value}" for name, value in said.items())
        plain = ("".join(each if " " <= each <= "~" else "?" for each in text) for text in found)
        return cls(tuple(text[:_LONGEST_FACT_CHARS].strip() for text in plain), tuple(exposed))

    @property
    def warning(self) -> str:
        """Why a copy may be elsewhere, in words; empty: nothing says so."""
        return f"{' and '.join(self.exposed)}, so a copy of it may be elsewhere" if self.exposed else ""

    def __str__(self) -> str:
        said = ", ".join(self.said) or "it does not say where it comes from"
        return f"{said} ({self.warning})" if self.exposed else said


@dataclass(frozen=True, slots=True)
class WrappingKeyState:
    """How a wrapping key was found.

    Args:
        problems: what stands against sealing keys with it, a sentence each.
        origin: None: it did not answer.
    """

    problems: tuple[str, ...]
    origin: Origin | None = None


def require_same(opened: bytes, plaintext: bytes) -> None:
    """Refuses what opens to something else than was sealed.

    Raises:
        BrokenSealError: it does.
    """
    if opened != plaintext:
        raise BrokenSealError("opens to something else")


class WrappingKey(Hashable, Protocol):
    """A key of a KMS or HSM, used only there, which seals others; a value, which can be pickled.

    Each method raises:
        KeyStoreUnavailableError: it does not answer or refuses; names the call and the code.
    """

    @property
    def kind(self) -> str:
        """As ``[keys.seal] kind`` has it."""

    @property
    def name(self) -> str:
        """Names the key to whoever holds a sealed text: printable ASCII without spaces."""

    def encrypt(self, plaintext: bytes, context: Context) -> bytes:
        """Seals a few bytes, and sees that they open again, which takes the same context.

        Raises:
            BrokenSealError: they do not.
        """

    def decrypt(self, ciphertext: bytes, context: Context) -> bytes:
        """Opens what `encrypt` made.

        Raises:
            BrokenSealError: it was changed, or made with another context or key.
        """

    def state(self, *, alone: bool) -> WrappingKeyState:
        """Asks for it.

        Args:
            alone: nothing else opens backups, so a second region or token must have it, too.
        """
