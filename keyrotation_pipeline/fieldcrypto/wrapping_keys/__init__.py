"""What holds wrapping keys: a module for each kind, imported only where it is asked for."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Protocol

AWS_KMS = "aws-kms"
PKCS11 = "pkcs11"
# In place of a version: a key that encrypts nothing, which shows that an application can open others.
CANARY = "canary"
Context = Mapping[str, str]
"""What is authenticated with a sealed key."""


def kind_of(name: str) -> str:
    """Returns the kind of the wrapping key that has this name."""
    return PKCS11 if name.startswith("pkcs11:") else AWS_KMS


class WrappingKey(Hashable, Protocol):
    """A key that never leaves its KMS or HSM, and seals others; a value, which can be pickled.

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
        """Seals a few bytes; opening them takes the same context."""

    def decrypt(self, ciphertext: bytes, context: Context) -> bytes:
        """Opens what `encrypt` made.

        Raises:
            BrokenSealError: it was changed, or made with another context or key.
        """

    def problems(self, *, alone: bool) -> Iterator[str]:
        """Yields what stands against sealing keys with it, a sentence each.

        Args:
            alone: nothing else opens backups, so a second region or token must have it, too.
        """
