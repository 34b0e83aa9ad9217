"""The text of an array is taken apart and put together again, and everything that is not replaced stays."""

import pytest

from keyrotation_pipeline.fieldcrypto.arrays import array_text


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
