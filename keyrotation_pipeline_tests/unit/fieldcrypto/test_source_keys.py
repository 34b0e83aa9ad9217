"""Values of libraries that read one key: opened and sealed as these do, and nothing else is taken for one."""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import date
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django.conf import settings  # type: ignore[import-untyped]
from django.db.models import TextField  # type: ignore[import-untyped]
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine  # type: ignore[import-untyped]

from keyrotation_pipeline.errors import ConfigurationError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.batch import Failure
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError
from keyrotation_pipeline.fieldcrypto.formats.sources import SourceForm, parsed, sources
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.fieldcrypto.plaintext_columns import PlaintextReencryptor, is_plaintext
from keyrotation_pipeline.fieldcrypto.reads import CLOSED
from keyrotation_pipeline.fieldcrypto.source_keys import LegacyKey, possible_others, source_in, source_of
from keyrotation_pipeline_tests.integration.encrypted_rows import opened, ring_of, sealed

TEXTS = [
    "",
    "a",
    "x" * 15,
    "x" * 16,
    "x" * 5000,
    "Zürich 😀",
    "À",
    "v2: final version",
    "two\nlines",
    "a*b",
    "\x00\x01",
]
KEY = "a secret"


MADE = json.loads((Path(__file__).parents[2] / "vectors" / "sources.json").read_text(encoding="utf-8"))
"""By the words of a form: texts, and values as its library made them, a list where they are in several columns."""


class Made:
    """A library of which values are kept; what it would write else, we write."""

    def __init__(self, form: str, key: str | None = None) -> None:
        self.form = parsed(form)
        self.key = SourceKey((key or MADE[form]["key"]).encode(), "OLD_KEY")
        self._source = source_of(self.form, self.key)

    def __str__(self) -> str:
        return str(self.form)

    def encrypt(self, text: str) -> bytes:
        return self._source.sealed(text.encode())

    def of_another_key(self, number: int) -> "Made":
        key = str(MADE[str(self.form)]["key"])
        is_base64 = dict(self.form.options).get("key_encoding") == "b64"
        other = base64.b64encode(number.to_bytes(32)).decode() if is_base64 else f"{number:0{len(key)}x}"
        return Made(str(self.form), other)


def as_read(stored: str | list[str]) -> bytes:
    return (stored if isinstance(stored, str) else ";".join(stored)).encode()


class Library:
    """sqlalchemy-utils itself under a key."""

    def __init__(self, name: str, options: dict[str, str], key: str = KEY) -> None:
        self.form, self.key = SourceForm.of(name, options), SourceKey(key.encode(), "OLD_KEY")
        self._engine = AesEngine() if "padding" in options else AesGcmEngine()
        self._engine._update_key(key)  # noqa: SLF001
        if "padding" in options:
            self._engine._set_padding_mechanism(options["padding"])  # noqa: SLF001

    def __str__(self) -> str:
        return str(self.form)

    def encrypt(self, text: str) -> bytes:
        return bytes(self._engine.encrypt(text).encode())

    def decrypt(self, stored: bytes) -> str:
        return str(self._engine.decrypt(stored.decode()))

    def of_another_key(self, number: int) -> "Library":
        return Library(self.form.name, dict(self.form.options), f"key {number}")


if not settings.configured:
    settings.configure(SECRET_KEY=KEY)
from django_cryptography.core.signing import FernetSigner  # noqa: E402  they read the settings
from django_cryptography.fields import encrypt  # noqa: E402
from django_cryptography.utils.crypto import FernetBytes  # noqa: E402


class Field:
    """A field of django-cryptography itself, with the settings of this process or a key of its own."""

    def __init__(self, form: SourceForm, key: str) -> None:
        self.form, self.key = form, SourceKey(key.encode(), "OLD_KEY")
        self._field: Any = encrypt(TextField())
        if key != settings.SECRET_KEY:
            secret, _, own = key.partition(":")
            derived = pbkdf2_hmac("sha256", (own or secret).encode(), b"django-cryptography", 30_000)
            self._field._fernet = FernetBytes(derived, FernetSigner(secret))  # noqa: SLF001

    def __str__(self) -> str:
        return str(self.form)

    def encrypt(self, text: object) -> bytes:
        return bytes(self._field._dump(text))  # noqa: SLF001

    def decrypt(self, stored: bytes) -> str:
        return str(self._field._load(stored))  # noqa: SLF001

    def of_another_key(self, number: int) -> "Field":
        return Field(self.form, f"key{number}:own" if "CRYPTOGRAPHY" in str(self) else f"key {number}")


def libraries() -> Iterator[Library]:
    for padding in ("naive", "pkcs5", "oneandzeroes", "zeroes"):
        yield Library("sqlalchemy-utils-aes", {"padding": padding})
    yield Library("sqlalchemy-utils-aesgcm", {})


OF_TEXT = list(libraries())
FIELDS = [
    Field(SourceForm.of("django-cryptography", {"key_of": "SECRET_KEY"}), settings.SECRET_KEY),
    Field(SourceForm.of("django-cryptography", {"key_of": "CRYPTOGRAPHY_KEY"}), "the secret:another one"),
]
LIBRARIES: list[Library | Field] = [*OF_TEXT, *FIELDS]
ALL: list[Library | Field | Made] = [*LIBRARIES, *map(Made, MADE)]


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_the_library_and_we_read_each_other(library: Library | Field, text: str) -> None:
    source = source_of(library.form, library.key)
    assert source.opened(library.encrypt(text)) == text.encode()
    if library.form.options == (("padding", "oneandzeroes"),) and text.encode().endswith(b"\x80"):
        with pytest.raises(ClosedError):  # it cannot read itself what it has written
            source.sealed(text.encode())
    else:
        assert library.decrypt(source.sealed(text.encode())) == text


def changed(stored: bytes) -> Iterator[tuple[str, bytes]]:
    yield "of a part", stored[:-4]
    yield "without padding", stored.rstrip(b"=")[:-1]
    yield "with white space", stored + b" \n"
    yield "in base64url", b"-_" + stored[2:]
    yield "empty", b""
    yield "a text", b"plain text"
    yield "ours", sealed(ring_of(1, 2), 1, "Ada").encode()


@pytest.mark.parametrize("form", MADE)
def test_what_a_library_made_opens_and_is_made_again(form: str) -> None:
    made = Made(form)
    source = source_of(made.form, made.key)
    for text, stored in MADE[form]["values"]:
        assert source.opened(as_read(stored)) == text.encode()
        is_of_own_length = bool(made.form.columns) and "layout" in dict(made.form.options)
        assert is_of_own_length or len(source.sealed(text.encode())) == len(as_read(stored))
        assert source.opened(source.sealed(text.encode())) == text.encode()


def test_a_key_that_the_library_would_not_take_is_refused() -> None:
    with pytest.raises(InvalidKeyError, match="64 hexadecimal digits"):
        LegacyKey("typeorm-encrypted-gcm", "a passphrase")


@pytest.mark.parametrize("back_end", ["brng", "nacl", "fips"])
@pytest.mark.parametrize("held", [b"\x01", b"\x02", (1337).to_bytes(8, "little"), bytes(8)])
def test_what_ciphersweet_writes_of_numbers_and_booleans_is_no_text(back_end: str, held: bytes) -> None:
    source = LegacyKey(f"ciphersweet-{back_end}", "ab" * 32, table="cases", column="age").source
    with pytest.raises(ClosedError):  # what it would store is opened again
        source.sealed(held)


@pytest.mark.parametrize("encoded", [bytes.hex, lambda raw: base64.urlsafe_b64encode(raw).decode()])
def test_a_key_of_ciphersweet_is_read_as_its_library_reads_it(encoded: Callable[[bytes], str]) -> None:
    (form,) = (each for each in MADE if each.startswith("ciphersweet-brng"))
    key = encoded(bytes.fromhex(MADE[form]["key"]))
    source = source_of(parsed(form), SourceKey(key.encode(), "OLD_KEY"))
    assert [source.opened(stored.encode()).decode() for _, stored in MADE[form]["values"]] == [
        text for text, _ in MADE[form]["values"]
    ]
    for other in ("short", "z" * 64, "_" * 44):
        with pytest.raises(InvalidKeyError, match="64 hexadecimal digits or 44 characters of base64url"):
            LegacyKey("ciphersweet-brng", other, table="cases", column="token")


@pytest.mark.parametrize("form", [each for each in MADE if each.startswith("attr-encrypted")])
def test_attr_encrypted_opens_bytes_too_and_no_value_with_the_parts_of_another(form: str) -> None:
    source = source_of(parsed(form), SourceKey(MADE[form]["key"].encode(), "OLD_KEY"))
    (first, (value, *parts)), (_, (_, *others)) = MADE[form]["values"][:2]
    iv, *salt = parts
    raw = base64.b64decode(value) + f";\\x{base64.b64decode(iv).hex()}".encode()
    salts = "".join(f";\\x{base64.b64decode(each[1:]).hex()}" for each in salt).encode()
    assert source.opened(raw + salts) == first.encode()
    swapped = [[value], [value, *others], [value, "", *salt], [value, iv[:-1], *salt], [value, *salt, iv, "x"]]
    swapped += [[value.replace("\n", ""), *parts]]
    for each in swapped:
        with pytest.raises(ClosedError):
            source.opened(";".join(each).encode())


def test_a_value_of_awx_opens_with_the_key_of_its_own_row_and_field_alone() -> None:
    form = "awx, field password, pk number"
    made, secret = MADE[form], SourceKey(MADE[form]["key"].encode(), "OLD_KEY")
    (text, (value, row)), _ = made["values"][:2]
    older = value.replace("UTF8$", "")
    assert [source_of(parsed(form), secret).opened(f"{each};{row}".encode()) for each in (value, older)] == [
        text.encode()
    ] * 2
    wrong = [(form, stored) for stored in (f"{value};2", value, f"{value};", f"{value};{row};{row}")]
    wrong += [("awx, field token, pk number", f"{value};{row}"), ("awx, field password", value)]
    for other, stored in wrong:
        with pytest.raises(ClosedError):
            source_of(parsed(other), secret).opened(stored.encode())


def test_tokens_of_each_release_of_gitlab_open_and_none_with_the_nonce_of_another() -> None:
    made = MADE["gitlab-token"]
    source = source_of(parsed("gitlab-token"), SourceKey(made["key"].encode(), "OLD_KEY"))
    for text, stored in [*made["with_their_nonce"], *made["in_lines"]]:
        assert source.opened(stored.encode()) == text.encode()
    (_, first), (_, second) = made["with_their_nonce"][:2]
    for each in (first[1:-12], first[:-12] + second[-12:], first[:-12], "|", first[1:]):
        with pytest.raises(ClosedError):
            source.opened(each.encode())
    with pytest.raises(InvalidKeyError, match="has 32 characters of ASCII at least"):
        LegacyKey("gitlab-token", "k" * 31)


OWN = {"format": "aes-256-gcm", "layout": "b64.salt16.nonce12.tag16.ct", "kdf": "scrypt"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "b64(nonce12 ct tag16)"}, "a name of letters, digits"),
        ({"layout": "b32.salt16.nonce12.tag16.ct"}, "is none that can be read"),
        ({"layout": "b64.salt16.nonce12.tag16"}, "hold salt, nonce, tag, not nonce, ct, tag, salt once each"),
        ({"layout": "b64.salt16.nonce12.tag16.tag16.ct"}, "once each"),
        ({"salt": "note_salt"}, "once each"),
        ({"layout": "b64.nonce12.tag16.ct"}, "once each"),
        ({"layout": "b64.salt16.nonce13.tag16.ct"}, "nonce13"),
        ({"layout": "b64.salt7.nonce12.tag16.ct"}, "salt7"),
        ({"cost": "1000"}, "a power of two, not 1000"),
        ({"cost": "many"}, "a number of at most"),
        ({"kdf": "pbkdf2-sha256"}, "a number of at most"),
        ({"info": "x"}, "kdf scrypt takes no info"),
        ({"kdf": "none", "layout": "b64.nonce12.tag16.ct"}, "a key of AES-256 has 32 bytes, this one 8"),
        ({"key_encoding": "hex"}, "is not written in hex"),
        ({"format": "aes-256-cbc"}, "hold salt, nonce, tag, ct, not nonce, ct, salt once each"),
        ({"format": "aes-256-cbc", "tag": "x"}, "has no tag"),
    ],
)
def test_a_layout_that_no_value_can_have_is_refused(changes: dict[str, str], said: str) -> None:
    said_of_it = OWN | changes
    with pytest.raises((InvalidKeyError, ConfigurationError), match=re.escape(said)):
        source_of(SourceForm.of(said_of_it.pop("format"), said_of_it), SourceKey(b"a secret", "OLD_KEY"))


def test_the_other_forms_that_are_tried_are_those_that_values_can_have() -> None:
    said = {each: OWN[each] for each in OWN if each != "format"}
    others = {str(each) for each in possible_others(SourceForm.of("aes-256-gcm", said | {"cost": "1024"}))}
    head = "aes-256-gcm, layout b64.salt16.nonce12.tag16.ct, kdf"
    assert others == {f"{head} pbkdf2-{each}, cost 1024" for each in ("sha256", "sha512", "sha1")}


def test_values_in_several_columns_are_none_of_encrypted_type_and_their_key_has_a_length() -> None:
    with pytest.raises(InvalidKeyError, match="are in several columns, and EncryptedType reads one"):
        LegacyKey("attr-encrypted", "k" * 32, iv="token_iv")
    form = SourceForm.of("attr-encrypted", {"iv": "token_iv"})
    raw = source_of(form, SourceKey(b"k" * 32, "OLD_KEY")).sealed(b"Ada")
    for key in (b"k".hex() * 32, base64.b64encode(b"k" * 32).decode()):
        assert source_of(form, SourceKey(key.encode(), "OLD_KEY")).opened(raw) == b"Ada"
    with pytest.raises(InvalidKeyError, match="has 32 bytes"):
        source_of(form, SourceKey(b"k" * 31, "OLD_KEY"))
    with pytest.raises(InvalidKeyError, match="has 32 bytes at least"):
        source_of(SourceForm.of("attr-encrypted", {"iv": "a", "salt": "b"}), SourceKey(b"k" * 31, "OLD_KEY"))


@pytest.mark.parametrize("library", ALL, ids=str)
@pytest.mark.parametrize("change", [name for name, _ in changed(b"x" * 24)])
def test_nothing_else_is_taken_for_a_value(library: Library | Field | Made, change: str) -> None:
    stored = dict(changed(library.encrypt("a text of more than one block")))[change]
    with pytest.raises(ClosedError):
        source_of(library.form, library.key).opened(stored)


@pytest.mark.parametrize("library", ALL, ids=str)
def test_a_value_of_another_key_or_padding_or_one_encrypted_twice_stays_closed(library: Library | Field | Made) -> None:
    source = source_of(library.form, library.key)
    strangers = []
    if isinstance(library, Library):
        others = [Library(library.form.name, dict(form.options)) for form in library.form.others]
        strangers = [each.encrypt("a" * 13) for each in others]
    is_slow = isinstance(library, Field) or "kdf" in dict(library.form.options)
    strangers += [library.of_another_key(n).encrypt("Ada") for n in range(10 if is_slow else 200)]
    twice: list[bytes] = []
    if isinstance(library, Field):
        twice = [library.encrypt(library.encrypt("Ada")), library.encrypt(sealed(ring_of(1, 2), 1, "Ada"))]
    elif isinstance(library, Library):  # we refuse to write these
        twice = [library.encrypt(library.encrypt("Ada").decode()), library.encrypt(sealed(ring_of(1, 2), 1, "Ada"))]
    for stored in [*strangers, *twice]:
        with pytest.raises(ClosedError):
            source.opened(stored)


def test_an_asterisk_that_the_library_takes_away_is_refused_on_the_way_in() -> None:
    naive = OF_TEXT[0]
    source = source_of(naive.form, naive.key)
    assert source.opened(naive.encrypt("a**")).decode() == naive.decrypt(naive.encrypt("a**")) == "a"
    with pytest.raises(ClosedError):
        source.sealed(b"a**")


def test_a_wrong_key_opens_hardly_any_value_without_authentication() -> None:
    counts = {}
    for library in OF_TEXT[:4]:
        source, found = source_of(library.form, SourceKey(b"another", "OLD_KEY")), 0
        for _ in range(3000):
            try:
                source.opened(base64.b64encode(os.urandom(16)))
                found += 1
            except ClosedError:
                pass
        counts[str(library)] = found
    assert max(counts.values()) <= 1, counts


def ring(*numbers: int, key: SourceKey | None = None) -> KeyRing:
    first = ring_of(*numbers)
    keys: dict[KeyVersion, KeyMaterial] = {version: first.material(version) for version in first.versions}
    return KeyRing({**keys, KeyVersion(9): key or SourceKey(KEY.encode(), "OLD_KEY")}, first.primary)


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
def test_a_batch_comes_to_the_target_and_what_stays_closed_is_a_failure(library: Library | Field) -> None:
    keys = ring(1, 2, key=library.key)
    reencryptor = PlaintextReencryptor(keys, KeyVersion(2), ("t.note",), {0: source_in(keys, library.form, "OLD_KEY")})
    values = [library.encrypt(text) for text in TEXTS]
    batch = [*values, b"plain", b"", None, sealed(keys, 1, "old").encode(), sealed(keys, 2, "new").encode()]
    closed = len(values)
    done = reencryptor.reencrypt([batch])
    assert done.failures == [Failure(closed, 0, CLOSED)]
    texts = [opened(keys, None if value is None else value.decode()) for value in done.columns[0]]
    assert texts == [*(("v2", text) for text in TEXTS), None, None, None, ("v2", "old"), None]
    held, failures = reencryptor.check([batch])
    assert held[0] == {None: 1, KeyVersion(1): 1, KeyVersion(2): 1}
    assert [each.row for each in failures if is_plaintext(each, {0})] == list(range(closed))
    assert [each.row for each in failures if not is_plaintext(each, {0})] == [closed]
    assert PlaintextReencryptor(
        keys, KeyVersion(1), ("t.note",), {0: source_in(keys, library.form, "OLD_KEY")}
    ).reencrypt([values]).columns == [[None] * len(values)]  # a rollback


class Shown:
    """Says so when it is made of a pickle."""

    seen: ClassVar[list[str]] = []

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return self.seen.append, ("unpickled",)


@pytest.mark.parametrize("held", [Shown(), 7, 1.5, True, None, date(2026, 1, 1), ["Ada"], {"a": "Ada"}, ("Ada", "Ada")])
def test_nothing_is_unpickled_and_what_is_no_text_stays_closed(held: object) -> None:
    (field, _), Shown.seen[:] = FIELDS, []
    with pytest.raises(ClosedError):
        source_of(field.form, field.key).opened(field.encrypt(held))
    assert Shown.seen == []
    assert source_of(field.form, field.key).opened(field.encrypt(b"Ada")) == b"Ada"


@pytest.mark.parametrize("key", ["one", "a:b:c", ":b", "a:"])
def test_two_settings_have_one_colon_between_them(key: str) -> None:
    with pytest.raises(InvalidKeyError, match="with one colon"):
        LegacyKey("django-cryptography", key, key_of="CRYPTOGRAPHY_KEY")


def test_without_the_key_nothing_opens() -> None:
    keys = ring_of(1, 2)
    source = source_in(keys, OF_TEXT[0].form, "OLD_KEY")
    batch = PlaintextReencryptor(keys, KeyVersion(2), ("t.note",), {0: source}).reencrypt([[OF_TEXT[0].encrypt("Ada")]])
    assert (batch.columns, batch.failures) == ([[None]], [Failure(0, 0, CLOSED)])


def test_the_key_is_no_version_of_a_ring_and_reads_back_as_stored() -> None:
    key, keys = SourceKey(KEY.encode(), "OLD_KEY"), ring(1, 2)
    assert key_from_base64(base64_of(key)) == key
    assert (keys.versions, keys.sources["OLD_KEY"]) == ((KeyVersion(1), KeyVersion(2)), (KeyVersion(9), key))
    assert KEY not in repr(key)
    assert key.fingerprint != SourceKey(b"another", "OLD_KEY").fingerprint
    assert key != SourceKey(KEY.encode(), "OTHER")
    only = KeyRing.for_reading({KeyVersion(2): key})
    assert only.sources["OLD_KEY"] == (KeyVersion(2), key)


@pytest.mark.parametrize("make", [lambda: SourceKey(b"", "A"), lambda: SourceKey(b"x" * 1025, "A"),
                                  lambda: SourceKey(b"x", "A B"), lambda: LegacyKey("fernet", "x"),
                                  lambda: LegacyKey("sqlalchemy-utils-aes", "x"),
                                  lambda: LegacyKey("sqlalchemy-utils-aesgcm", "x", padding="naive")])  # fmt: skip
def test_what_is_no_key_or_form_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidKeyError):
        make()


@pytest.mark.parametrize("library", ALL, ids=str)
def test_a_form_reads_back_from_its_words(library: Library | Field | Made) -> None:
    assert parsed(str(library.form)) == library.form


@pytest.mark.parametrize("text", ["", "plaintext", "sqlalchemy-utils-aes", "sqlalchemy-utils-aes, padding x",
                                  "sqlalchemy-utils-aes, padding naive, padding naive\n"])  # fmt: skip
def test_other_words_are_no_form(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parsed(text)


def test_each_source_says_where_it_was_read() -> None:
    assert all(each.source and each.library for each in sources().values())
