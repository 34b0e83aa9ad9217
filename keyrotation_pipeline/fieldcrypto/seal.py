"""Seals keys at rest: what key stores, and the applications that read them, hold instead of a key.

    sealed:aws-kms:<home>:<fingerprint>:<base64>:arn:aws:kms:eu-central-1:111122223333:key/…
    sealed:pkcs11:<home>:<fingerprint>:<base64>:pkcs11:token=clinic;object=field-keys

That is the kind of wrapping key, the home (32 hex digits), the fingerprint of the sealed key (64), what the wrapping
key made of it, and the wrapping key's own name. Home, version and fingerprint are authenticated with it, so a text
opens under no other version, and a role that may decrypt for one home alone opens no text of another. The wrapping key
is a *key-storage key* in the words of NIST SP 800-57 part 1.

A process opens each text once, and holds the key in memory alone.
"""

import base64
import binascii
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from keyrotation_pipeline.errors import BrokenSealError, InvalidKeyError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.fork_guard import LIBRARIES
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.wrapping_keys import (
    AWS_KMS,
    CANARY,
    PKCS11,
    Context,
    WrappingKey,
    WrappingKeyState,
)

BEGINS = "sealed:"
_TEXT = re.compile(
    r"sealed:([a-z0-9-]{1,20}):([0-9a-f]{32}):([0-9a-f]{64}):([A-Za-z0-9+/]{16,4096}={0,2}):([!-~]{1,500})", re.ASCII
)
_ASKED_SECONDS = 60.0
_TRIAL = b"keyrotation-seal-trial-v1"


@dataclass(frozen=True, slots=True)
class SealedText:
    """A key as it is stored under a seal.

    Args:
        kind, wrapping_key: what opens it.
        home: id of the home that sealed it.
        fingerprint: of the key in it.
    """

    kind: str
    home: str
    fingerprint: str
    ciphertext: bytes = field(repr=False)
    wrapping_key: str

    @classmethod
    def parse(cls, text: str) -> "SealedText":
        """Parses a text that begins with ``sealed:``, ignoring white space around it.

        Raises:
            BrokenSealError: any other shape.
        """
        match = _TEXT.fullmatch(text.strip())
        try:
            if match is not None:
                kind, home, fingerprint, ciphertext, name = match.groups()
                return cls(kind, home, fingerprint, base64.b64decode(ciphertext, validate=True), name)
        except binascii.Error:
            pass
        raise BrokenSealError("begins like a sealed key and is none")

    @property
    def opener(self) -> tuple[str, str]:
        """The kind and name of what opens it."""
        return self.kind, self.wrapping_key

    def __str__(self) -> str:
        encoded = base64.b64encode(self.ciphertext).decode()
        return f"{BEGINS}{self.kind}:{self.home}:{self.fingerprint}:{encoded}:{self.wrapping_key}"

    def context(self, name: str) -> Context:
        """Returns what is authenticated with the key; `name` is its version."""
        return {"home": self.home, "version": name, "fingerprint": self.fingerprint}


def is_sealed(text: str) -> bool:
    """Returns whether a text is, or should be, a sealed key."""
    return text.lstrip().startswith(BEGINS)


class _Opened:
    """What texts hold that this process has opened, by a hash of text and version, and the texts of each key."""

    def __init__(self) -> None:
        self._keys: dict[bytes, KeyMaterial | BrokenSealError] = {}
        self._texts: dict[tuple[str, ...], str] = {}
        self._lock = threading.Lock()

    def key(self, name: str, text: str, opened: Callable[[], KeyMaterial]) -> KeyMaterial:
        """Returns the key of a text, or raises that it is broken; only the first call opens it.

        One that is open waits for no other, whose KMS may take long to answer.
        """
        digest = hashlib.sha256(f"{name}\n{text}".encode()).digest()
        if (found := self._keys.get(digest)) is None:
            with self._lock:
                if (found := self._keys.get(digest)) is None:
                    found = self._keys[digest] = _key_or_error(opened)
        if isinstance(found, BrokenSealError):
            raise BrokenSealError(str(found))
        return found

    def begin_in_child(self) -> None:
        """Releases, in the child of a fork, what a thread of the parent held: it is not there to do so."""
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._keys.clear()
            self._texts.clear()

    def remember(self, name: str, sealed: SealedText) -> None:
        """Remembers the text of a key, which serves again when the key is moved."""
        self._texts[_place(name, sealed)] = str(sealed)

    def text(self, name: str, wanted: SealedText) -> str | None:
        """Returns the text under which this process knows a key of the same place and wrapping key."""
        return self._texts.get(_place(name, wanted))


def _key_or_error(opened: Callable[[], KeyMaterial]) -> KeyMaterial | BrokenSealError:
    try:
        return opened()
    except BrokenSealError as error:
        return error


def _place(name: str, sealed: SealedText) -> tuple[str, ...]:
    return name, sealed.kind, sealed.home, sealed.fingerprint, sealed.wrapping_key


_OPENED = _Opened()
os.register_at_fork(after_in_child=_OPENED.begin_in_child)
_REACHABLE: dict[tuple[str, str], WrappingKey] = {}
_WITHHELD: dict[tuple[str, str], str] = {}


def forget_opened() -> None:
    """Forgets the keys that this process has opened, so that the next text of each asks its KMS again."""
    _OPENED.clear()


def reach(wrapping: WrappingKey) -> WrappingKey:
    """Has whatever is sealed by a key opened in the way that the configuration says which was read last."""
    _REACHABLE[wrapping.kind, wrapping.name] = wrapping
    return wrapping


def withhold(opener: tuple[str, str], why: str | None) -> None:
    """Has nothing sealed, opened or asked of a wrapping key, by its kind and name; None: again.

    Args:
        why: as a sentence that goes on after the name of a stored key.
    """
    if why is None:
        _WITHHELD.pop(opener, None)
    else:
        _WITHHELD[opener] = why


def open_key(version: KeyVersion | str, text: str, wrapping: Sequence[WrappingKey] = ()) -> KeyMaterial:
    """Returns the key that a text holds, sealed or not.

    Args:
        version: under which the text was read; or `CANARY`.
        wrapping: one of them opens it; none: whatever the text names.

    Raises:
        InvalidKeyError: the text is no key; `BrokenSealError`: it is a sealed one that can never be opened as this.
        KeyStoreUnavailableError: see `WrappingKey`.
    """
    if not is_sealed(text):
        return key_from_base64(text)
    sealed, name = SealedText.parse(text), str(version)
    named = (each for each in wrapping or [wrapping_key_of(sealed)] if (each.kind, each.name) == sealed.opener)
    if (opener := next(named, None)) is None:
        raise BrokenSealError(f"is sealed by {' '.join(sealed.opener)}; name that in [keys.seal] earlier")
    if (why := _WITHHELD.get(sealed.opener)) is not None:
        raise BrokenSealError(why)
    key = _OPENED.key(name, str(sealed), lambda: _opened(sealed, name, opener))
    _OPENED.remember(name, sealed)
    return key


def _opened(sealed: SealedText, name: str, opener: WrappingKey) -> KeyMaterial:
    try:
        key = key_from_base64(opener.decrypt(sealed.ciphertext, sealed.context(name)).decode("ascii"))
    except UnicodeDecodeError:
        raise BrokenSealError("opens to something else than a key") from None
    if key.fingerprint != sealed.fingerprint:
        raise BrokenSealError("opens to another key than it names")
    return key


def wrapping_key_of(sealed: SealedText) -> WrappingKey:
    """Returns what opens a text: as a configuration says, or as the environment of an application does.

    Raises:
        BrokenSealError: this version knows no such kind.
        KeyStoreUnavailableError: the environment does not say how.
    """
    if (known := _REACHABLE.get(sealed.opener)) is not None:
        return known
    with LIBRARIES:  # each module of its kind alone
        if sealed.kind == AWS_KMS:
            from keyrotation_pipeline.fieldcrypto.wrapping_keys.aws_kms import AwsKmsKey  # noqa: PLC0415

            return AwsKmsKey.of(sealed.wrapping_key)
        if sealed.kind == PKCS11:
            from keyrotation_pipeline.fieldcrypto.wrapping_keys.pkcs11 import Pkcs11Key  # noqa: PLC0415

            return Pkcs11Key.of(sealed.wrapping_key)
    raise BrokenSealError(f"is sealed by {sealed.kind}, which this version does not know")


@dataclass(frozen=True, slots=True)
class Seal:
    """How a key store turns keys into texts and back; see `UNSEALED`.

    It can be pickled, and then opens keys and seals none.

    Args:
        wrapping: None: keys are stored as they are.
        earlier: open what they sealed, and seal nothing more.
        alone: backups hold sealed keys only, so a second place must have the wrapping key.
        home: returns the id of the home; None: it has none yet.
    """

    wrapping: WrappingKey | None = None
    earlier: tuple[WrappingKey, ...] = ()
    alone: bool = False
    home: Callable[[], str | None] | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> "tuple[type[Seal], tuple[WrappingKey | None, tuple[WrappingKey, ...]]]":
        return type(self), (self.wrapping, self.earlier)

    @property
    def name(self) -> str:
        """Returns kind and name of the wrapping key; empty: there is none."""
        return "" if self.wrapping is None else f"{self.wrapping.kind} {self.wrapping.name}"

    @property
    def description(self) -> str:
        """Returns what is added to the description of a key store."""
        return self.name and f", sealed by {self.name}"

    def text_of(self, version: KeyVersion | str, material: KeyMaterial) -> str:
        """Returns what a store holds as this version, and has seen it open to the same key.

        Raises:
            KeyStoreError: the home has no id yet.
            KeyStoreUnavailableError: see `WrappingKey`.
        """
        if self.wrapping is None:
            return base64_of(material)
        if (why := _WITHHELD.get((self.wrapping.kind, self.wrapping.name))) is not None:
            raise KeyStoreError(f"keys {why}")
        if self.home is None or (home := self.home()) is None:
            raise KeyStoreError("this home has no id to seal keys for; run `keyrotation init`")
        name = str(version)
        empty = SealedText(self.wrapping.kind, home, material.fingerprint, b"", self.wrapping.name)
        if (known := _OPENED.text(name, empty)) is not None:
            return known
        try:
            ciphertext = self.wrapping.encrypt(base64_of(material).encode(), empty.context(name))
        except BrokenSealError:
            raise KeyStoreError(f"{self.name} does not open what it sealed; find out why") from None
        sealed = SealedText(empty.kind, home, empty.fingerprint, ciphertext, empty.wrapping_key)
        _OPENED.key(name, str(sealed), lambda: material)
        _OPENED.remember(name, sealed)
        return str(sealed)

    def is_under(self, text: str) -> bool:
        """Returns whether a text is stored as `text_of` does: for this home under this wrapping key, or plain."""
        if self.wrapping is None or not is_sealed(text):
            return self.wrapping is None
        try:
            sealed = SealedText.parse(text)
        except BrokenSealError:
            return False
        if sealed.opener != (self.wrapping.kind, self.wrapping.name):
            return False
        home = None if self.home is None else self.home()
        return home is None or sealed.home == home

    def problems(self) -> Iterator[str]:
        """Yields what stands against sealing another key, a sentence each; once a process it seals and opens one."""
        if self.wrapping is None or (found := self.state(afresh=True)) is None:
            return
        yield from found.problems
        if found.problems:
            return
        try:
            _tried(self.wrapping)
        except KeyStoreError as error:
            yield str(error)
        except BrokenSealError as error:
            yield f"what {self.name} seals {error}"

    def state(self, *, afresh: bool = False) -> WrappingKeyState | None:
        """Returns how the wrapping key was found within the last minute, or is now; None: there is none."""
        if self.wrapping is None:
            return None
        if (why := _WITHHELD.get((self.wrapping.kind, self.wrapping.name))) is not None:
            return WrappingKeyState((f"keys {why}",))
        asked, now = (self.wrapping, self.alone), time.monotonic()
        known = None if afresh else _STATES.get(asked)
        if known is not None and now - known[0] < _ASKED_SECONDS:
            return known[1]
        try:
            found = self.wrapping.state(alone=self.alone)
        except KeyStoreError as error:
            found = WrappingKeyState((str(error),))
        _STATES[asked] = now, found
        return found

    def canary_of(self, text: str | None) -> KeyMaterial | None:
        """Returns the canary in a text of a store; None: there is none under this wrapping key.

        Raises:
            KeyStoreUnavailableError: see `WrappingKey`.
        """
        if text is None or self.wrapping is None or not self.is_under(text):
            return None
        try:
            return open_key(CANARY, text, [self.wrapping])
        except InvalidKeyError:
            return None

    def key_of(self, version: KeyVersion, text: str) -> KeyMaterial:
        """Returns the key in a text of a store; one that is not sealed opens, too.

        Raises:
            As `open_key`.
        """
        if self.wrapping is None:
            if is_sealed(text):
                sealed = SealedText.parse(text)
                raise BrokenSealError(f"is sealed by {' '.join(sealed.opener)}; name that in [keys.seal]")
            return key_from_base64(text)
        return open_key(version, text, [self.wrapping, *self.earlier])


_STATES: dict[tuple[WrappingKey, bool], tuple[float, WrappingKeyState]] = {}


@cache
def _tried(wrapping: WrappingKey) -> None:
    """Seals and opens a few bytes that are no key."""
    wrapping.encrypt(_TRIAL, {"home": "none", "version": "none", "fingerprint": "none"})


UNSEALED = Seal()
"""Stores keys as they are, and refuses a sealed text by saying what is missing."""
