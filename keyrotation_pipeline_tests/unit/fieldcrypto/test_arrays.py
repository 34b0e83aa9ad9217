"""The text of an array is taken apart and put together again, and everything that is not replaced stays."""

import pytest

from keyrotation_pipeline.fieldcrypto.arrays import array_text, check_elements, reencrypt_elements
from keyrotation_pipeline.fieldcrypto.batch import Failure
from keyrotation_pipeline.fieldcrypto.codecs.format import column_reencryptors, format_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of
from keyrotation_pipeline_tests.integration.fernet_rows import V1, V2
from keyrotation_pipeline_tests.integration.stored_places import seal

X2 = KeyVersion.parse("v2x")


@pytest.mark.parametrize(
    ("text", "elements", "subscripts"),
    [
        pytest.param("{}", [], [], id="empty"),
        pytest.param("{a,b}", ["a", "b"], ["[1]", "[2]"], id="plain"),
        pytest.param('{NULL,"NULL",""}', [None, "NULL", ""], ["[1]", "[2]", "[3]"], id="null and empty"),
        pytest.param(r'{"a\"b","c\\d","{e},f"}', ['a"b', "c\\d", "{e},f"], ["[1]", "[2]", "[3]"], id="quoted"),
        pytest.param("{{a,b},{c,d}}", list("abcd"), ["[1][1]", "[1][2]", "[2][1]", "[2][2]"], id="two dimensions"),
        pytest.param("[0:1]={a,b}", ["a", "b"], ["[0]", "[1]"], id="lower bound"),
        pytest.param(
            "[-1:0][5:6]={{a,b},{c,NULL}}",
            ["a", "b", "c", None],
            ["[-1][5]", "[-1][6]", "[0][5]", "[0][6]"],
            id="lower bounds",
        ),
        pytest.param(
            "{{{a},{b}},{{c},{d}}}",
            list("abcd"),
            ["[1][1][1]", "[1][2][1]", "[2][1][1]", "[2][2][1]"],
            id="three dimensions",
        ),
        pytest.param('{"[0:1]={a}"}', ["[0:1]={a}"], ["[1]"], id="an element like an array"),
        pytest.param('{"a\nb"}', ["a\nb"], ["[1]"], id="line break"),
    ],
)
def test_elements_and_their_subscripts(text: str, elements: list[str | None], subscripts: list[str]) -> None:
    array = array_text(text.encode())
    assert [None if each is None else each.decode() for each in array.elements] == elements
    assert list(array.subscripts) == subscripts
    assert array.replaced([None] * len(elements)) is None
    if elements:
        new = [*[None] * (len(elements) - 1), b'new "\\{}']
        again = array_text(array.replaced(new) or b"")
        assert again.elements == (*array.elements[:-1], new[-1])
        assert again.parts == array.parts


@pytest.mark.parametrize("text", ["", "a", "{a", "a}", '{"a}', "[0:1]=", "null"])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the text of an array"):
        array_text(text.encode())


@pytest.mark.parametrize("values", [NATIVE, FERNET], ids=lambda each: each.name)
def test_elements_are_re_encrypted_in_their_places_and_a_bad_one_is_named(values: ValueFormat) -> None:
    ring, code = ring_of(1, 2), format_of(values)
    reencryptor = column_reencryptors(code, ring, V2, (None, None))
    old, new = (seal(values, ring, version, "x") for version in (1, 2))
    arrays = [f'{{"{old}",NULL,""}}', None, "{}", f"{{{new}}}", f"[0:1][3:3]={{{{{old}}},{{{new}}}}}"]
    plain = [new.encode(), None, b"", old.encode(), None]
    stored = [None if each is None else each.encode() for each in arrays]
    done = reencrypt_elements(reencryptor, [stored, plain], frozenset({0}))
    assert done.failures == []
    first, second = done.columns
    assert [each is not None for each in first] == [True, False, False, False, True]
    assert [each is not None for each in second] == [False, False, False, True, False]
    again = [new or before for new, before in zip(first, stored, strict=True)]
    assert (again[0] or b"").endswith(b',NULL,""}')
    assert (again[4] or b"").startswith(b"[0:1][3:3]={{")
    held, failures = check_elements(reencryptor, [again, plain], frozenset({0}))
    assert (dict(held[0]), failures) == ({V2: 4, None: 1}, [])
    bad = [*again[:4], b"[0:1][3:3]={{plain},{" + old.encode() + b"}}"]
    done = reencrypt_elements(reencryptor, [plain, bad], frozenset({1}))
    assert done.failures == [Failure(4, 1, NOT_A_VALUE, "[0][3]")]
    assert [each is not None for each in done.columns[1]] == [False, False, False, False, True]
    held, failures = check_elements(reencryptor, [bad], frozenset({0}))
    assert (dict(held[0]), failures) == ({V1: 1, V2: 2, None: 1}, [Failure(4, 0, NOT_A_VALUE, "[0][3]")])


def test_a_value_that_is_bound_to_its_column_opens_next_to_an_array() -> None:
    """Each column is rewritten by itself, but not as if it were the first."""
    ring, code = ring_of(1, 2), format_of(NATIVE)
    bound = KeyRing({V1: ring.material(V1), X2: ring.material(V2)}, X2)
    labels = ("clients.tags", "clients.email")
    old, array = seal(NATIVE, ring, 1, "x").encode(), b"{NULL}"
    done = reencrypt_elements(column_reencryptors(code, bound, X2, labels), [[array], [old]], frozenset({0}))
    assert done.failures == []
    held, failures = code.reencryptor(bound, X2, labels).check([[None], done.columns[1]])
    assert (dict(held[1]), failures) == ({X2: 1}, [])
    held, failures = check_elements(
        column_reencryptors(code, bound, X2, labels), [[array], done.columns[1]], frozenset({0})
    )
    assert (dict(held[1]), failures) == ({X2: 1}, [])
