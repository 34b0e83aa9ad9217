"""A text that waits to be encrypted until the key of its row is known."""

from keyrotation_pipeline.encrypted_type.failures import unwrapped
from keyrotation_pipeline.errors import InvalidBindingError
from keyrotation_pipeline.fieldcrypto.binding import Row
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing


class Waiting:
    """A text on its way to the database that waits for the key of its row. Never shows its content.

    Args:
        since: see `Row`.
    """

    __slots__ = ("_key", "_label", "_ring", "_since", "_stored", "_text", "name")

    def __init__(self, ring: KeyRing, text: str, label: str | None, name: str, since: int) -> None:
        self._ring, self._text, self._label, self._since = ring, text, label, since
        self.name = name
        self._key: str | None = None
        self._stored: str | None = None

    @property
    def is_bound(self) -> bool:
        """Whether the text is encrypted."""
        return self._stored is not None

    def bound_to(self, key: str) -> None:
        """Encrypts the text for a row.

        Raises:
            InvalidBindingError: it was for another row, too.
        """
        if self._stored is not None and key != self._key:
            raise unwrapped(InvalidBindingError(f"{self} would be stored in two rows; give each row its own parameter"))
        self._key = key
        self._stored = self._stored or encrypt(self._ring, self._text, self._label, Row(self._since, key.encode()))

    @property
    def stored(self) -> str:
        """The encrypted form.

        Raises:
            InvalidBindingError: the key of the row is not known.
        """
        if self._stored is None:
            raise unwrapped(
                InvalidBindingError(
                    f"{self} is bound to the row's {self.name}, which the statement does not give for each row; set "
                    f"{self.name} before the INSERT (as by default=uuid4; a number that the server counts is not known "
                    f"in time), write `where(table.{self.name} == key)` in an UPDATE"
                )
            )
        return self._stored

    def __repr__(self) -> str:
        return f"a value of {self._label}"
