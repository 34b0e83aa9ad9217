"""Seals keys under an AES key in a PKCS#11 token: by AES-GCM, or by AES key wrap where token or key have no GCM.

    01 ‖ 12 B nonce ‖ ciphertext ‖ 16 B tag
    02 ‖ wrapped (SHA-256 of the context ‖ 2 B length ‖ plaintext ‖ zeros up to a multiple of 8 B)

The context is GCM's associated data; key wrap has none, so it is inside and compared.

Each use initializes the module, logs in and finalizes it again. So there is no session to lose, and the child of a fork
inherits none: PKCS#11 leaves undefined what a child does with its parent's.

Source: PKCS #11 3.1, sections 5.1, 6.13.3 and 6.14; RFC 7512 for the name of a key; RFC 3394.
"""

import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from keyrotation_pipeline.errors import BrokenSealError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.fork_guard import LIBRARIES
from keyrotation_pipeline.fieldcrypto.wrapping_keys import (
    EXTRACTABLE,
    IMPORTED,
    ONCE_EXTRACTABLE,
    PKCS11,
    Context,
    Origin,
    WrappingKeyState,
    require_same,
)
from keyrotation_pipeline.regular_files import read_text

if TYPE_CHECKING:
    import pkcs11

URI = re.compile(r"pkcs11:token=([A-Za-z0-9._~%-]{1,96});object=([A-Za-z0-9._~%-]{1,300})", re.ASCII)
# What tells an application, whose keys name token and key, how to reach them.
MODULE_VARIABLE = "ENCRYPTION_PKCS11_MODULE"
PIN_VARIABLE = "ENCRYPTION_PKCS11_PIN"
PIN_FILE_VARIABLE = "ENCRYPTION_PKCS11_PIN_FILE"
REPLICA_VARIABLE = "ENCRYPTION_PKCS11_REPLICA_TOKEN"
_GCM, _KEY_WRAP = b"\1", b"\2"
_NONCE_BYTES, _TAG_BITS, _LENGTH_BYTES = 12, 128, 2
_KEY_BITS = 256
_TRIAL, _TRIAL_CONTEXT = b"keyrotation-seal-trial-v1", {"trial": "v1"}
_PAUSES_SECONDS = (0.05, 0.2, 0.5)
_AGAIN = "see that the token answers, then run the same again"
_WHAT_TO_DO = {
    "PinExpired": "have its PIN set anew",
    "PinLocked": "its PIN is locked: have its security officer set it anew",
    "UserPinNotInitialized": "have its security officer set a PIN",
    "UserAlreadyLoggedIn": "this process uses the token otherwise, too: name p11-kit-proxy.so as the module",
    "KeyHandleInvalid": "see that the key is still there",
}


def uri_of(token_label: str, key_label: str) -> str:
    """Returns the name of a key, as RFC 7512 writes it."""
    return f"pkcs11:token={quote(token_label, safe='')};object={quote(key_label, safe='')}"


@dataclass(frozen=True, slots=True)
class Pkcs11Key:
    """`WrappingKey` in a token.

    Args:
        name: as `uri_of`.
        module: path of the library by which the token's maker has it reached.
        pin: of its user.
        replica: label of a second token with a copy of the key, for when the first is not there.
    """

    name: str
    module: str
    pin: str = field(repr=False)
    replica: str | None = None

    @classmethod
    def of(cls, name: str) -> "Pkcs11Key":
        """Returns the key that a sealed text names, as the environment reaches it.

        Raises:
            BrokenSealError: the text names none.
            KeyStoreUnavailableError: the environment does not say how.
        """
        if URI.fullmatch(name) is None:
            raise BrokenSealError("is sealed by pkcs11 and names no key by its URI")
        module, pin = os.environ.get(MODULE_VARIABLE), _pin_in_environment()
        if not module or not pin:
            missing = PIN_VARIABLE if module else MODULE_VARIABLE
            raise KeyStoreUnavailableError(f"the keys are sealed by {name}, and {missing} is not set; set it")
        return cls(name, module, pin, os.environ.get(REPLICA_VARIABLE))

    @property
    def kind(self) -> str:
        """See `WrappingKey.kind`."""
        return PKCS11

    @property
    def token_label(self) -> str:
        """The label of the token."""
        return unquote(self.name.partition("token=")[2].partition(";")[0])

    @property
    def key_label(self) -> str:
        """The label of the key in it."""
        return unquote(self.name.partition(";object=")[2])

    def encrypt(self, plaintext: bytes, context: Context) -> bytes:
        """See `WrappingKey.encrypt`."""
        with self._opened() as key:
            ciphertext = key.seal(plaintext, context)
            require_same(key.unseal(ciphertext, context), plaintext)
        return ciphertext

    def decrypt(self, ciphertext: bytes, context: Context) -> bytes:
        """See `WrappingKey.decrypt`."""
        with self._opened() as key:
            return key.unseal(ciphertext, context)

    def state(self, *, alone: bool) -> WrappingKeyState:
        """See `WrappingKey.state`."""
        with self._opened() as key:
            found, sealed = tuple(key.problems()), key.seal(_TRIAL, _TRIAL_CONTEXT)
            origin = key.origin()
        return WrappingKeyState((*found, *(self._without_copy(sealed) if alone else ())), origin)

    def _without_copy(self, sealed: bytes) -> Iterator[str]:
        """Yields that a second token does not open what this one sealed."""
        if self.replica is None:
            yield f'{self._subject} has no copy, and recovery = "sealed" needs one: name its replica_token_label'
            return
        try:
            with self._opened(self.replica) as key:
                same = key.unseal(sealed, _TRIAL_CONTEXT) == _TRIAL
        except BrokenSealError:
            same = False
        if not same:
            yield f"token {self.replica!r} does not open what {self._subject} seals; copy the key there"

    @property
    def _subject(self) -> str:
        return f"key {self.key_label!r} in token {self.token_label!r}"

    @contextmanager
    def _opened(self, label: str | None = None) -> "Iterator[_TokenKey]":
        """The key in the token with this label; None: in the first one, or its replica where that is not there."""
        with LIBRARIES:
            _require_pkcs11()
            import pkcs11  # noqa: PLC0415  see `_require_pkcs11`

            try:
                with ExitStack() as stack:
                    yield self._found(stack, label)
            except pkcs11.PKCS11Error as error:
                failure = self._refusal(error)
            else:
                return
        raise failure from None

    def _found(self, stack: ExitStack, label: str | None) -> "_TokenKey":
        """Opens the key, and tries again where token or key seem not to be there, before any PIN was judged.

        SoftHSM before 2.7.0 writes a token's file at each login, and unlocks it before it has: other processes, which
        wait for just that, then find an empty one, or fail in general. A token that has counted a PIN as wrong says so
        in its flags, and is not tried again.
        """
        from pkcs11 import (  # noqa: PLC0415  see `_require_pkcs11`
            GeneralError,
            TokenNotPresent,
            TokenNotRecognised,
            UserPinNotInitialized,
        )

        for seconds in _PAUSES_SECONDS:
            absent = (_AbsentError, GeneralError, TokenNotPresent, TokenNotRecognised, UserPinNotInitialized)
            with suppress(*absent), ExitStack() as opened:
                found = self._open(opened, label)
                stack.push(opened.pop_all())
                return found
            time.sleep(seconds)
        return self._open(stack, label)

    def _open(self, stack: ExitStack, label: str | None) -> "_TokenKey":
        library = stack.enter_context(self._initialized())
        token = self._token(library, label)
        session = stack.enter_context(self._session(token))
        return _TokenKey(token, self._key(session), self._refusal)

    @contextmanager
    def _initialized(self) -> Iterator[Any]:  # the library's classes are made in C
        import pkcs11  # noqa: PLC0415  see `_require_pkcs11`

        try:
            library = pkcs11.lib(self.module)
        except pkcs11.PKCS11Error as error:
            failure = (
                "is in use otherwise in this process: name p11-kit-proxy.so as the module"
                if "already initialized" in str(error)
                else "cannot be loaded and initialized; install it, or correct its path and configuration"
            )
            raise KeyStoreUnavailableError(f"PKCS#11 module {self.module} {failure}") from None
        try:
            yield library
        finally:
            with suppress(pkcs11.PKCS11Error):
                library.finalize()

    def _token(self, library: Any, label: str | None) -> "pkcs11.Token":  # noqa: ANN401
        present = list(library.get_tokens())
        wanted = [label] if label else [self.token_label, *([self.replica] if self.replica else [])]
        for each in wanted:
            found: list[pkcs11.Token] = [token for token in present if token.label == each]
            if len(found) > 1:
                raise KeyStoreUnavailableError(
                    f"{len(found)} tokens have the label {each!r}, and which one is meant is not known; rename one"
                )
            if found:
                return found[0]
        raise _AbsentError(
            f"token {' or '.join(map(repr, wanted))} is not among those of {self.module}; connect it, or correct its "
            "label"
        )

    @contextmanager
    def _session(self, token: "pkcs11.Token") -> "Iterator[pkcs11.Session]":
        """A session that is logged in; a PIN that was wrong once is not tried again, since that locks the token."""
        import pkcs11  # noqa: PLC0415  see `_require_pkcs11`

        flags, tried = pkcs11.TokenFlag, (self.module, token.label, self.pin)
        if token.flags & flags.USER_PIN_LOCKED:
            raise KeyStoreUnavailableError(
                f"the PIN of token {token.label!r} is locked; have its security officer set it anew"
            )
        if tried in _WRONG or token.flags & (flags.USER_PIN_COUNT_LOW | flags.USER_PIN_FINAL_TRY):
            named = f"--module {self.module} --token-label {shlex.quote(token.label)}"
            raise KeyStoreUnavailableError(
                f"a wrong PIN was the last one tried with token {token.label!r}, so none is until somebody logs in: "
                f"correct it, then run `pkcs11-tool {named} -l -O`"
            )
        try:
            session = token.open(user_pin=self.pin)
        except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange) as error:
            _WRONG.add(tried)
            failure = KeyStoreUnavailableError(
                f"token {token.label!r} refuses its PIN ({type(error).__name__}), which is not tried again; correct it"
            )
        else:
            try:
                yield session
            finally:
                with suppress(pkcs11.PKCS11Error):
                    session.close()
            return
        raise failure

    def _key(self, session: "pkcs11.Session") -> Any:  # noqa: ANN401  what a key can do is known at run time
        from pkcs11 import Attribute, KeyType, ObjectClass  # noqa: PLC0415  see `_require_pkcs11`

        wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: self.key_label}
        found = [each for each in session.get_objects(wanted) if each[Attribute.KEY_TYPE] == KeyType.AES]
        if len(found) != 1:
            how = f"holds {len(found)} AES keys" if found else "holds no AES key"
            raise _AbsentError(
                f"token {session.token.label!r} {how} with the label {self.key_label!r}; correct the label"
            )
        return found[0]

    def _refusal(self, error: Exception) -> KeyStoreUnavailableError:
        code = type(error).__name__
        return KeyStoreUnavailableError(f"{self._subject} cannot be used ({code}); {_WHAT_TO_DO.get(code, _AGAIN)}")


class _AbsentError(KeyStoreUnavailableError):
    """A token or a key is not there."""


class _TokenKey:
    """A key in an open session."""

    def __init__(self, token: "pkcs11.Token", key: Any, refusal: Callable[[Exception], Exception]) -> None:  # noqa: ANN401
        self._token, self._key, self._refusal = token, key, refusal

    def seal(self, plaintext: bytes, context: Context) -> bytes:
        """Seals by the mechanism that token and key have."""
        how = self._mechanism()
        return how + (self._gcm(plaintext, context) if how == _GCM else self._wrapped(plaintext, context))

    def unseal(self, ciphertext: bytes, context: Context) -> bytes:
        """Opens what `seal` made.

        Raises:
            BrokenSealError: it was changed, or made with another context or key.
            PKCS11Error: the token refuses what it would have to open as well.
        """
        import pkcs11  # noqa: PLC0415  see `_require_pkcs11`

        how, body = ciphertext[:1], ciphertext[1:]
        opens = {_GCM: self._of_gcm, _KEY_WRAP: self._unwrapped}.get(how)
        if opens is None:
            raise BrokenSealError("is sealed in a way that this version does not know")
        try:
            return opens(body, context)
        except (pkcs11.PKCS11Error, ValueError):
            # Tokens have no common code for a tag that does not match.
            trial = (self._gcm if how == _GCM else self._wrapped)(_TRIAL, _TRIAL_CONTEXT)
            opens(trial, _TRIAL_CONTEXT)
        raise BrokenSealError(
            f"does not open under key {self._key.label!r} in token {self._token.label!r}: it was changed or moved; "
            "restore that key"
        )

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the key, a sentence each."""
        if self._key.key_length < _KEY_BITS:
            subject = f"key {self._key.label!r} in token {self._token.label!r}"
            yield f"{subject} has {self._key.key_length} bits, fewer than what it seals; make one of {_KEY_BITS}"

    def origin(self) -> Origin:
        """Returns what the token says of itself and of the key."""
        from pkcs11 import Attribute  # noqa: PLC0415  see `_require_pkcs11`

        token, key = self._token, Attribute
        names = (key.LOCAL, key.EXTRACTABLE, key.NEVER_EXTRACTABLE, key.SENSITIVE, key.ALWAYS_SENSITIVE)
        local, extractable, never, sensitive, always = found = tuple(map(self._flag, names))
        said = {
            "manufacturer": token.manufacturer_id,
            "model": token.model,
            "firmware": ".".join(map(str, token.firmware_version)),
            **{f"CKA_{name.name}": flag for name, flag in zip(names, found, strict=True) if flag is not None},
        }
        exposed = [IMPORTED] if local is False else []
        if extractable or sensitive is False:
            exposed.append(EXTRACTABLE)
        elif not exposed and (never is False or always is False):
            exposed.append(ONCE_EXTRACTABLE)
        return Origin.of(said, exposed)

    def _flag(self, name: "pkcs11.Attribute") -> bool | None:
        """Returns an attribute of the key; None: the token does not say."""
        import pkcs11  # noqa: PLC0415  see `_require_pkcs11`

        try:
            return bool(self._key[name])
        except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive):
            return None

    def _mechanism(self) -> bytes:
        from pkcs11 import Attribute, Mechanism  # noqa: PLC0415  see `_require_pkcs11`

        has, key = self._token.slot.get_mechanisms(), self._key
        if Mechanism.AES_GCM in has and key[Attribute.ENCRYPT] and key[Attribute.DECRYPT]:
            return _GCM
        if Mechanism.AES_KEY_WRAP in has and key[Attribute.WRAP] and key[Attribute.UNWRAP]:
            return _KEY_WRAP
        raise KeyStoreUnavailableError(
            f"token {self._token.label!r} lets key {key.label!r} do neither AES-GCM nor AES key wrap; name a key that "
            "encrypts and decrypts, or wraps and unwraps"
        )

    def _gcm(self, plaintext: bytes, context: Context) -> bytes:
        from pkcs11 import GCMParams, Mechanism  # noqa: PLC0415  see `_require_pkcs11`

        nonce = os.urandom(_NONCE_BYTES)
        params = GCMParams(nonce, _canonical(context), _TAG_BITS)
        return nonce + bytes(self._key.encrypt(plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=params))

    def _of_gcm(self, body: bytes, context: Context) -> bytes:
        from pkcs11 import GCMParams, Mechanism  # noqa: PLC0415  see `_require_pkcs11`

        params = GCMParams(body[:_NONCE_BYTES], _canonical(context), _TAG_BITS)
        return bytes(self._key.decrypt(body[_NONCE_BYTES:], mechanism=Mechanism.AES_GCM, mechanism_param=params))

    def _wrapped(self, plaintext: bytes, context: Context) -> bytes:
        from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass  # noqa: PLC0415  see `_require_pkcs11`

        content = _digest(context) + len(plaintext).to_bytes(_LENGTH_BYTES) + plaintext
        held = self._key.session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                Attribute.VALUE: content + bytes(-len(content) % 8),
                **_readable(),
            }
        )
        return bytes(self._key.wrap_key(held, mechanism=Mechanism.AES_KEY_WRAP))

    def _unwrapped(self, body: bytes, context: Context) -> bytes:
        from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass  # noqa: PLC0415

        held = self._key.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.GENERIC_SECRET,
            body,
            mechanism=Mechanism.AES_KEY_WRAP,
            capabilities=MechanismFlag(0),
            template=_readable(),
        )
        content, start = bytes(held[Attribute.VALUE]), hashlib.sha256().digest_size
        if content[:start] != _digest(context):
            raise ValueError
        length = int.from_bytes(content[start : start + _LENGTH_BYTES])
        return content[start + _LENGTH_BYTES :][:length]


def _readable() -> dict[Any, Any]:
    """Attributes of what is wrapped: in the session alone, and to be read."""
    from pkcs11 import Attribute  # noqa: PLC0415  see `_require_pkcs11`

    return {Attribute.TOKEN: False, Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False}


def _canonical(context: Context) -> bytes:
    return json.dumps(dict(context), sort_keys=True, separators=(",", ":")).encode()


def _digest(context: Context) -> bytes:
    return hashlib.sha256(_canonical(context)).digest()


def _pin_in_environment() -> str | None:
    if pin := os.environ.get(PIN_VARIABLE):
        return pin
    if not (path := os.environ.get(PIN_FILE_VARIABLE)):
        return None
    try:
        return read_text(path).strip()
    except (OSError, UnicodeDecodeError):
        raise KeyStoreUnavailableError(f"{PIN_FILE_VARIABLE} names {path}, which cannot be read; correct it") from None


def _require_pkcs11() -> None:
    try:
        import pkcs11  # noqa: F401, PLC0415  only an application with sealed keys has it
    except ImportError:
        raise KeyStoreUnavailableError(
            "the keys are sealed in a PKCS#11 token, and python-pkcs11 is missing; install keyrotation-pipeline[pkcs11]"
        ) from None


# Module, token and PIN, of which the token said that they do not belong together.
_WRONG: set[tuple[str, str, str]] = set()
