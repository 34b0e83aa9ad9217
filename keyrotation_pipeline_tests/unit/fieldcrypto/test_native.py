"""The native codec against its reference, and what only it can do wrong: memory, threads, packed bytes."""

import base64
import importlib.util
import operator
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.fernet import Fernet

from hatch_build import compile_codec
from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, Codec
from keyrotation_pipeline.adapters.postgres.engine.search_indexes import SearchIndexes
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import TextArray, TidArray
from keyrotation_pipeline.errors import KeyRotationError, UnknownKeyVersionError
from keyrotation_pipeline.fieldcrypto import compiled, native
from keyrotation_pipeline.fieldcrypto.batch import Reencryptor
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.native import CompiledIndex, NativeCodec
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, IndexForm, Normalisation
from keyrotation_pipeline.model.tables import EncryptedTable, Place, SearchIndex, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import V2, opened, ring_of, sealed
from keyrotation_pipeline_tests.unit.fieldcrypto.codec_fuzz import FORMATS, FUZZED, fuzz, token
from keyrotation_pipeline_tests.unit.fieldcrypto.value_cases import ACCEPTED, LIKE_VALUES, REFUSED

pytestmark = pytest.mark.skipif(not compiled.is_native(), reason="the native codec was not built here")

# The layouts differ in little, and so do the libraries, so most of them are for the long run.
NAMES = [
    pytest.param(
        name, marks=() if name in {"native", "fernet", "b64", "bound b64", "rails", "lockbox"} else pytest.mark.extended
    )
    for name in FORMATS
]
_LONG = ("back", "arrays ", "out of", "indexed rows", "plaintext into")
FUZZED_NAMES = [
    *NAMES,
    *(
        pytest.param(name, marks=pytest.mark.extended if name.startswith(_LONG) else ())
        for name in FUZZED
        if name not in FORMATS
    ),
]
USUAL = [str(each.values[0]) for each in FUZZED_NAMES if not each.marks]
OTHERS = [str(each.values[0]) for each in FUZZED_NAMES if each.marks]
SANITISED_VALUES = 1_000
TABLE = EncryptedTable(TableName("public", "clients"), ("email",))


@pytest.fixture(scope="module")
def ring() -> KeyRing:
    return ring_of(1, 2, 999_999)


@pytest.fixture
def codec(ring: KeyRing) -> NativeCodec:
    return NativeCodec(ring, V2)


def elements(array: bytes) -> list[bytes | None]:
    """The elements of a packed array, read by another hand."""
    assert int.from_bytes(array[:4], "big") == int.from_bytes(array[16:20], "big") == 1
    found: list[bytes | None] = []
    at = 20
    while at < len(array):
        size = int.from_bytes(array[at : at + 4], "big", signed=True)
        found.append(None if size < 0 else array[at + 4 : at + 4 + size])
        at += 4 + max(0, size)
    assert (at, len(found)) == (len(array), int.from_bytes(array[12:16], "big"))
    return found


@pytest.mark.parametrize("values", [7_000, pytest.param(40_000, marks=pytest.mark.extended)])
@pytest.mark.parametrize("name", FUZZED_NAMES)
def test_both_codecs_agree_on_every_mutated_value(name: str, values: int) -> None:
    rewritten, refused = fuzz(name, values, int.from_bytes(os.urandom(4), "big"))
    assert rewritten > values // 6
    assert refused > values // (16 if FUZZED[name].plaintext else 6)  # most of what is damaged is plaintext then


@pytest.mark.parametrize("stored", [value for value in REFUSED.values() if value])
def test_what_the_grammar_refuses_is_refused(codec: NativeCodec, ring: KeyRing, stored: str) -> None:
    good = sealed(ring, 1, "good").encode()
    assert codec.reencrypt([(good,), (stored.encode(),)], 0, 1) is None
    assert codec.check([(good,), (stored.encode(),)], 0, 1) is None


@pytest.mark.parametrize("stored", ACCEPTED.values(), ids=ACCEPTED)
def test_what_nobody_encrypted_is_refused_though_it_looks_well(codec: NativeCodec, stored: str) -> None:
    assert codec.check([(stored.encode(),)], 0, 1) is None


@pytest.mark.parametrize("value", ACCEPTED.values(), ids=ACCEPTED)
def test_a_value_within_a_value_is_left_to_the_reference(codec: NativeCodec, ring: KeyRing, value: str) -> None:
    rows = [(sealed(ring, 1, "good").encode(),), (sealed(ring, 1, value).encode(),)]
    assert (codec.reencrypt(rows, 0, 1), codec.check(rows, 0, 1)) == (None, None)
    assert codec.reencrypt([(sealed(ring, 2, value).encode(),)], 0, 1) is not None  # it stays: the proof finds it


def test_texts_that_only_begin_like_values_are_rewritten(codec: NativeCodec, ring: KeyRing) -> None:
    rows = [(sealed(ring, 1, text).encode(),) for text in LIKE_VALUES]
    packed = codec.reencrypt(rows, 0, 1)
    assert packed is not None
    assert [opened(ring, (value or b"").decode()) for value in elements(packed.arrays[0])] == [
        ("v2", text) for text in LIKE_VALUES
    ]
    assert codec.check(rows, 0, 1) == [{KeyVersion(1): len(LIKE_VALUES)}]


def test_plaintext_is_encrypted_natively_beside_values(monkeypatch: pytest.MonkeyPatch) -> None:
    table = EncryptedTable.of(TABLE.name, [Place("email"), Place("note", source="plaintext")])
    ring = ring_of(1, 2)
    codec = Codec(table, ring, V2)
    monkeypatch.delattr(Reencryptor, "reencrypt")
    old, new = sealed(ring, 1, "x").encode(), sealed(ring, 2, "y").encode()
    notes = [b"v2: final", b"v2:", new, old, b"", None, b"Z\xc3\xbcrich", new[:-1], new + b"="]
    done = codec.encrypt(
        Batch.of([(7, 0, b"\0\0\0\0\0%c" % n, b"\0\0\0\1", old, note) for n, note in enumerate(notes)])
    )
    read = [value and opened(ring, value.decode()) for value in elements(done.parameters["value_1"].packed)]
    expected = [("v2", "x") if note == old else note and note != new and ("v2", note.decode()) for note in notes]
    assert read == [each or None for each in expected]
    assert (done.rows, done.whole, done.failures) == (len(notes), False, [])


def test_positions_are_packed_next_to_the_values_and_what_stays_is_null(codec: NativeCodec, ring: KeyRing) -> None:
    old, new = sealed(ring, 1, "Zürich 😀").encode(), sealed(ring, 2, "x").encode()
    rows = [(7, b"\0\0\0\1\0\1", old, None), (7, b"\0\0\0\1\0\2", new, sealed(ring, 999_999, "").encode())]
    packed = codec.reencrypt(rows, 2, 2, [(1, TidArray.element_oid)])
    assert packed is not None
    positions, *columns = packed.arrays
    assert positions == TidArray([row[1] for row in rows]).packed
    read = [[opened(ring, value.decode()) if value else None for value in elements(column)] for column in columns]
    assert (read, packed.rows, packed.changed) == ([[("v2", "Zürich 😀"), None], [None, ("v2", "")]], 2, 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_whose_values_all_stay_is_left_out_with_its_position(name: str, ring: KeyRing) -> None:
    of = FORMATS[name]
    codec = format_of(of.values).native_codec(ring, V2, of.labels)
    assert codec is not None
    (old, other), (new, same) = ([of.good(of.keys(ring, n), *each) for n in (0, 1)] for each in ((1, "x"), (2, "y")))
    rows = [
        (b"\0\0\0\0\0%c" % place, *values)
        for place, values in enumerate(
            [(new, None), (old, same), (b"", same), (None, other), (None, None), (old, other), (new, same)]
        )
    ]
    packed = codec.reencrypt(rows, 1, 2, [(0, TidArray.element_oid)])
    assert packed is not None
    positions, *columns = packed.arrays
    assert positions == TidArray([rows[place][0] for place in (1, 3, 5)]).packed
    present = [[value is not None for value in elements(column)] for column in columns]
    assert (present, packed.rows, packed.changed) == ([[True, False, True], [False, True, True]], 3, 4)
    assert (nothing := codec.reencrypt([rows[0], rows[6]], 1, 2)) is not None
    assert (nothing.rows, nothing.changed) == (0, 0)


def test_the_elements_of_arrays_are_replaced_next_to_columns_of_values(codec: NativeCodec, ring: KeyRing) -> None:
    old, new = sealed(ring, 1, "x").encode(), sealed(ring, 2, "y").encode()
    # Escapes are for Python, and so are texts that no server writes.
    for text in (
        rb'{"\"",%b}' % old,
        b"",
        b"{%b" % old,
        b"%b" % old,
        b"[0:0]",
        b'{"%b}' % old,
        b"[:0]={%b}" % old,
        b"[0:]={%b}" % old,
    ):
        assert codec.reencrypt([(old, text or b"x")], 0, 2, (), {1}) is None
        assert codec.check([(text or b"x",)], 0, 1, {0}) is None
    rows = [
        (old, b'{"%b",NULL,""}' % old),
        (old, b"{%b,NULL}" % new),
        (new, b"[0:1][3:3]={{%b},{%b}}" % (new, old)),
        (None, None),
        (old, b"{}"),
        (new, b"{}"),
    ]
    packed = codec.reencrypt(rows, 0, 2, (), {1})
    assert packed is not None
    # The second and fifth row have two cells, of which one stays: so not every cell is new, though four elements are.
    assert (packed.rows, packed.changed) == (4, 5)
    plain, arrays = map(elements, packed.arrays)
    assert [value is not None for value in plain] == [True, True, False, True]
    assert [value and re.sub(rb'"v2:[^"]+"', b'"new"', value) for value in arrays] == [
        b'{"new",NULL,""}',
        None,
        b'[0:1][3:3]={{%b},{"new"}}' % new,
        None,
    ]
    written = [value for value in [*plain, *re.findall(rb'"(v2:[^"]+)"', b"".join(filter(None, arrays)))] if value]
    assert [opened(ring, value.decode()) for value in written] == [("v2", "x")] * 5
    assert len({value[:20] for value in written}) == 5  # no nonce twice
    assert codec.check(rows, 0, 2, {1}) == [
        {KeyVersion(1): 3, V2: 2},
        {KeyVersion(1): 2, V2: 2, None: 1},
    ]


def test_a_large_value_comes_through(codec: NativeCodec, ring: KeyRing) -> None:
    text = "x" * 3_000_001
    packed = codec.reencrypt([(sealed(ring, 1, text).encode(),)], 0, 1)
    assert packed is not None
    assert [opened(ring, value.decode()) for value in elements(packed.arrays[0]) if value] == [("v2", text)]


# What is damaged of a packed element, by its name: of which format, and how, in C.
DAMAGES = {
    "its length": ("native", "(element)[3] ^= 1"),
    "its version": ("native", "(element)[4] ^= 1"),
    "its nonce": ("native", "(element)[10] ^= 1"),
    "its body": ("native", "(element)[(bytes) - 30] ^= 1"),
    "its end": ("native", "(element)[(bytes) - 1] = '='"),
    "a token's length": ("fernet", "(element)[3] ^= 1"),
    "a token's version": ("fernet", "(element)[4] ^= 1"),
    "a token's time": ("fernet", "(element)[12] ^= 1"),
    "a token's IV": ("fernet", "(element)[20] ^= 1"),
    "a token's body": ("fernet", "(element)[50] ^= 1"),
    "a token's MAC": ("fernet", "(element)[(bytes) - 3] ^= 1"),
    "a laid out value's length": ("b64", "(element)[3] ^= 1"),
    "its nonce, laid out": ("b64", "(element)[7] ^= 1"),
    "its ciphertext, laid out": ("b64", "(element)[30] ^= 1"),
    "a payload": ("rails", "(element)[4 + 8] ^= 1"),
    "what names its key": ("rails", "(element)[(bytes) - 6] ^= 1"),
    "a fingerprint": ("47ng", "(element)[4 + 14] ^= 1"),
    "its head": ("b64url with a head", "(element)[5] ^= 1"),
    "what separates its groups": ("hex in three groups", "(element)[4 + 24] ^= 1"),
    "its tag, laid out": ("hex in three groups", "(element)[4 + 30] ^= 1"),
}
DAMAGE = "KEYROTATION_TEST_DAMAGE"


def chosen(statements: Iterable[str]) -> str:
    """Returns C that executes the statement whose number the environment says at that moment."""
    cases = " ".join(f"case {number}: {each}; break;" for number, each in enumerate(statements))
    return f'switch (atoi(getenv("{DAMAGE}"))) {{ {cases} }}'


@pytest.fixture(scope="module")
def damaging(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A codec that damages each value after it has packed it."""
    statement = chosen(statement for _, statement in DAMAGES.values())
    return built(tmp_path_factory.mktemp("damaging"), f"-DAFTER_PACKING(element,bytes)=({{ {statement} }})")


@pytest.mark.parametrize("damage", DAMAGES)
def test_packed_bytes_that_were_damaged_are_never_given_out(
    damage: str, damaging: ModuleType, monkeypatch: pytest.MonkeyPatch, ring: KeyRing
) -> None:
    name, _ = DAMAGES[damage]
    monkeypatch.setattr(compiled, "MODULE", damaging)
    monkeypatch.setenv(DAMAGE, "-1")
    value = FORMATS[name].good(ring, 1, "a text of 17 char")
    codec = format_of(FORMATS[name].values).native_codec(ring, V2)
    assert codec is not None
    assert codec.reencrypt([(value,)], 0, 1) is not None
    monkeypatch.setenv(DAMAGE, str(list(DAMAGES).index(damage)))
    with pytest.raises(KeyRotationError, match="faulty") as refusal:
        codec.reencrypt([(value,)], 0, 1)
    assert refusal.value.__context__ is None


@pytest.mark.parametrize("keep_time", [True, False])
def test_tokens_under_both_keys_are_packed_as_short_as_they_are(ring: KeyRing, *, keep_time: bool) -> None:
    codec = format_of(replace(FERNET, keep_time=keep_time)).native_codec(ring, V2)
    assert codec is not None
    old, new = token(ring, 1, "Zürich 😀"), token(ring, 2, "x")
    library = Fernet(base64.urlsafe_b64encode(raw_of(ring.material(V2))))
    past = Fernet(base64.urlsafe_b64encode(raw_of(ring.material(KeyVersion(1))))).encrypt_at_time(
        b"then", 1_500_000_000
    )
    packed = codec.reencrypt([(old, None), (new, b""), (past, new)], 0, 2)
    assert packed is not None
    first, second = map(elements, packed.arrays)
    assert [value and library.decrypt(value).decode() for value in first] == ["Zürich 😀", "then"]
    assert (second, packed.changed) == ([None, None], 2)
    assert first[1] is not None
    assert (library.extract_timestamp(first[1]) == 1_500_000_000) == keep_time
    assert codec.check([(old,), (new,), (new,), (b"",), (None,)], 0, 1) == [{KeyVersion(1): 1, V2: 2, None: 1}]


def test_where_openssl_lacks_what_a_format_needs_python_does_it(monkeypatch: pytest.MonkeyPatch, ring: KeyRing) -> None:
    class PendingCheck:
        UnavailableError = compiled.MODULE.UnavailableError if compiled.MODULE else Exception

        def Codec(self, *_: object) -> None:  # noqa: N802  as the module names it
            raise self.UnavailableError

    monkeypatch.setattr(compiled, "MODULE", PendingCheck())
    assert format_of(FERNET).native_codec(ring, V2) is None


def built(directory: Path, *extra: str) -> ModuleType:
    """The codec compiled again, as a module next to the installed one."""
    found = importlib.util.spec_from_file_location("_keyrotation_codec", compile_codec(directory, *extra))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_nothing_in_it_is_an_error_to_newer_compilers(tmp_path: Path) -> None:
    # GCC 14 and Clang 16 refuse these by themselves, and the package would go without the codec.
    refused = ("int-conversion", "incompatible-pointer-types", "implicit-function-declaration", "implicit-int")
    compile_codec(tmp_path, "-fsyntax-only", *(f"-Werror={each}" for each in refused))


TEXTS = (
    "Anna@Example.org",
    " \t\x1c anna@example.org\x1f\n",
    "İnes@ÉCOLE.fr ",
    "e\u0301",
    "",
    None,
    "",
    " ",
    "[Z]`{@}",
)


@pytest.mark.parametrize("normalise", [(), ("strip",), ("lower", "strip"), ("nfc",), ("strip", "lower", "nfc")])
@pytest.mark.parametrize("before", [b"", b"v1:AAAA", b"no index"])
def test_both_codecs_write_the_same_search_indexes(ring: KeyRing, normalise: tuple[str, ...], before: bytes) -> None:
    index = IndexForm("clients.email", tuple(map(Normalisation, normalise)), 17)
    table = EncryptedTable(
        TABLE.name, ("name", "email"), indexes=(SearchIndex("email", "email_odd", "email_even", index),)
    )
    stored = [None if text is None else sealed(ring, 1, text).encode() for text in TEXTS]
    stored[TEXTS.index("")] = b""
    rows = [(7, 0, b"\0\0\0\1\0\1", b"\0\0\0\1", sealed(ring, 1, "a").encode(), each, b"", before) for each in stored]
    by_native, by_python = (
        Codec(table, ring, V2, native=native).encrypt(Batch.of(rows, (), 1)) for native in (True, False)
    )
    assert by_native.parameters["index_0"].packed == by_python.parameters["index_0"].packed
    assert by_native.parameters["positions"].packed == by_python.parameters["positions"].packed
    assert by_native.parameters.keys() == by_python.parameters.keys()
    assert (elements(by_native.parameters["index_0"].packed)[5] is None) == (stored[5] is None)


def test_the_reference_does_not_decrypt_a_text_again_for_its_index(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = IndexForm("clients.email")
    table = replace(TABLE, indexes=(SearchIndex("email", "email_odd", "email_even", form),))
    position = (7, 0, b"\0\0\0\1\0\1", b"\0\0\0\1")
    versions = {"x": 1, "y": 999_999, "z": 2}
    rows = [(*position, sealed(ring, number, text).encode(), b"", b"") for text, number in versions.items()]
    opened: list[object] = []

    def recorded(_: SearchIndexes, value: bytes, __: str) -> bytes:
        opened.append(value)
        return b"z"

    monkeypatch.setattr(SearchIndexes, "_plaintext", recorded)
    written = Codec(table, ring, V2, native=False).encrypt(Batch.of(rows, (), 1)).parameters["index_0"].packed
    assert elements(written) == [Indexer(form, ring).under(V2, text.encode()).encode() for text in versions]
    assert opened == [rows[-1][4]], "only a value that stays"


def test_a_value_under_the_target_that_lacks_its_index_is_left_to_the_reference(ring: KeyRing) -> None:
    codec = NativeCodec(ring, V2)
    assert codec.index([CompiledIndex(0, b"k" * 32, 32, ())])
    old, new = sealed(ring, 1, "x").encode(), sealed(ring, 2, "x").encode()
    assert codec.reencrypt([(old,), (new,)], 0, 1) is None
    assert codec.reencrypt([(old, new)], 0, 2) is not None
    with pytest.raises(TypeError):
        codec.index([CompiledIndex(0, b"k" * 32, 32, ())])


@pytest.mark.parametrize(
    "entry", [(0, b"short", 32, 0), (-1, b"k" * 32, 32, 0), (0, b"k" * 32, 33, 0), (0, b"k" * 32, 0, 0)]
)
def test_an_index_that_cannot_be_is_refused(ring: KeyRing, entry: tuple[object, ...]) -> None:
    module = compiled.MODULE
    assert module is not None
    made = module.Codec(((b"v2", raw_of(ring.material(V2))),), b"v2")
    with pytest.raises(ValueError, match="a column without another index"):
        made.index((entry,))
    with pytest.raises(TypeError):
        made.rewrite((), 0, 1, b"", (), os.urandom, b"")


@pytest.fixture(scope="module")
def sanitised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a codec is that ends the process when it touches what is not its own."""
    directory = tmp_path_factory.mktemp("sanitised")
    compile_codec(directory, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")
    return directory


def fuzzed_elsewhere(values: int, names: Sequence[str], **environment: str) -> list[int]:
    """Fuzz in one other process, which imports under a sanitiser for longer than it fuzzes: what was done of each."""
    program = [sys.executable, "-m", "keyrotation_pipeline_tests.unit.fieldcrypto.codec_fuzz", str(values), "7", *names]
    done = subprocess.run(program, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    counts = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [name for *_, name in counts] == list(names)
    return [int(count) for *both, _ in counts for count in both]


@pytest.mark.parametrize("names", [USUAL, pytest.param(OTHERS, marks=pytest.mark.extended)], ids=["usual", "others"])
def test_no_address_is_touched_that_is_not_the_codecs(sanitised: Path, names: Sequence[str]) -> None:
    libraries = [
        subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    done = fuzzed_elsewhere(
        SANITISED_VALUES, names, PYTHONPATH=f"{sanitised}{os.pathsep}{Path.cwd()}", ASAN_OPTIONS="detect_leaks=0",
        LD_PRELOAD=" ".join(libraries), PYTHONMALLOC="malloc",
    )  # fmt: skip
    assert min(done) > SANITISED_VALUES // 16


@pytest.mark.parametrize("name", ["native", "fernet"])
def test_no_byte_stands_for_a_character_of_base64_but_that(name: str, ring: KeyRing) -> None:
    # One that did would go unnoticed: the value still opens.
    of = FORMATS[name]
    codec = format_of(of.values).native_codec(ring, V2)
    assert codec is not None
    good = of.good(ring, 1, "é" * 60)
    for place in range(3, len(good)):
        changed = [good[:place] + bytes([byte]) + good[place + 1 :] for byte in range(256)]
        opened = [value for value in changed if codec.check([(value,)], 0, 1) is not None]
        assert opened == [good], place


# Aborts where Python is called without the interpreter's lock; a name within its own macro is the function.
_LOCK_REQUIRED = """
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
extern int PyGILState_Check(void);
#define LOCKED(call) (PyGILState_Check() ? (void)0 : Py_FatalError("called without the lock"), call)
#define PyTuple_GetItem(...) LOCKED(PyTuple_GetItem(__VA_ARGS__))
#define PyTuple_Size(...) LOCKED(PyTuple_Size(__VA_ARGS__))
#define PyBytes_AsString(...) LOCKED(PyBytes_AsString(__VA_ARGS__))
#define PyBytes_Size(...) LOCKED(PyBytes_Size(__VA_ARGS__))
"""


def test_python_is_called_with_its_lock_only_and_wide_registers_are_not_needed(tmp_path: Path) -> None:
    (tmp_path / "locked.h").write_text(_LOCK_REQUIRED)
    compile_codec(tmp_path, f"-include{tmp_path / 'locked.h'}", "-DNARROW_BASE64")
    names = ("native", "fernet", "indexed", "into the second generation")
    fuzzed_elsewhere(300, names, PYTHONPATH=f"{tmp_path}{os.pathsep}{Path.cwd()}")


def test_the_interpreter_continues_meanwhile_and_a_second_thread_is_refused(codec: NativeCodec, ring: KeyRing) -> None:
    # A second call can only come while the first computes if that does not hold the interpreter's lock.
    large = [(sealed(ring, 1, "x" * 20_000_000).encode(),)]
    refusals: list[RuntimeError] = []

    def tried(call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as refused:  # either may be the one that comes second
            refusals.append(refused)

    for _ in range(50):  # a busy machine may let the worker end before this thread has its turn
        worker = threading.Thread(target=tried, args=(lambda: codec.reencrypt(large, 0, 1),))
        worker.start()
        while worker.is_alive():
            tried(lambda: codec.check([(None,)], 0, 1))
        worker.join()
        if refusals:
            break
    assert refusals


_COPIES = """
import sys
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.model.tables import (EncryptedTable, TableName)
from keyrotation_pipeline_tests.integration.encrypted_rows import V2, ring_of
from keyrotation_pipeline_tests.unit.fieldcrypto.codec_fuzz import FORMATS

of = FORMATS[sys.argv[1]]
ring = ring_of(1, 2)
rows = [tuple(of.good(of.keys(ring, column), 1, "x") for column in (0, 1))]

buffer = bytearray(1 << 16)

def copies(needle):
    found = 0
    wipe = bytes(len(buffer))
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if rights.startswith("rw") and "[v" not in line:
                start, end = (int(each, 16) for each in span.split("-"))
                # Through one buffer that is wiped, or this would find its own copies.
                for at in range(start, end, len(buffer) - 32):
                    buffer[:] = wipe
                    memory.seek(at)
                    with memoryview(buffer)[: min(len(buffer), end - at)] as part:
                        memory.readinto(part)
                    found += buffer.count(needle)
    buffer[:] = wipe
    return found

# By halves: one signs Fernet tokens, of which no copy is held; the other encrypts.
key = bytearray(of.raw(of.keys(ring, 1).material(V2)))
halves = key[:16], key[16:]
before = [copies(half) for half in halves]
codec = format_of(of.values).native_codec(ring, V2, of.labels)
assert codec.reencrypt(rows, 0, 2)
during = [copies(half) for half in halves]
del codec
print(*before, *during, *(copies(half) for half in halves))
"""


@pytest.mark.parametrize("name", NAMES)
def test_freed_key_schedules_leave_no_key_in_memory(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", _COPIES, name], capture_output=True, text=True, check=True)
    before, during, after = zip(*[iter(map(int, done.stdout.split()))] * 2, strict=True)
    assert during[1] > before[1]
    assert all(map(operator.le, after, before))


def test_a_codec_takes_only_what_it_knows(codec: NativeCodec, ring: KeyRing) -> None:
    with pytest.raises(TypeError):
        codec.reencrypt([("text",)], 0, 1)
    with pytest.raises(TypeError):
        codec.reencrypt([[b"no tuple"]], 0, 1)  # type: ignore[list-item]
    with pytest.raises(IndexError):
        codec.reencrypt([(b"",)], 0, 2)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(codec)
    with pytest.raises(UnknownKeyVersionError):
        native.native_codec(ring, KeyVersion(3))


def test_without_the_module_python_does_it_and_the_version_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch, ring: KeyRing
) -> None:
    rows = [(7, 0, b"\0\0\0\1\0\1", b"\0\0\0\1", sealed(ring, 1, "x").encode())]
    with_native = Codec(TABLE, ring, V2).encrypt(Batch.of(rows))
    assert "OpenSSL" in compiled.codec_in_use()
    monkeypatch.setattr(compiled, "MODULE", None)
    assert "uv sync" in compiled.codec_in_use()
    without = Codec(TABLE, ring, V2).encrypt(Batch.of(rows))
    assert with_native.parameters.keys() == without.parameters.keys()
    assert isinstance(without.parameters["value_0"], TextArray)
    assert with_native.rows == without.rows == 1
