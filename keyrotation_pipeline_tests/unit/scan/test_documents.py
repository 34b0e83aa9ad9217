"""Documents are taken apart by path, whatever their keys are, and however deep, long or broken they are."""

import json
import uuid
from collections.abc import Sequence

import pytest

from keyrotation_pipeline.scan.documents import MOST_PATHS, leaves_of, texts_in_xml, values_in_hstore


def paths(*documents: object) -> dict[tuple[str, ...], list[str]]:
    return dict(leaves_of([json.dumps(each) for each in documents]).by_path)


@pytest.mark.parametrize(
    ("documents", "found"),
    [
        pytest.param([{"a": {"b": "x"}}, {"a": {"b": "y", "c": 1}}], {("a", "b"): ["x", "y"]}, id="objects"),
        pytest.param([["x", ["y"], {"k": "z"}]], {("[]",): ["x"], ("[]", "[]"): ["y"], ("[]", "k"): ["z"]}, id="lists"),
        pytest.param(["x"], {(): ["x"]}, id="a string"),
        pytest.param([None, 1, True, {}, [], {"k": ""}], {}, id="nothing"),
        pytest.param(
            [{"k": json.dumps({"l": json.dumps({"m": json.dumps({"n": "x"})})})}],
            {
                ("k",): [json.dumps({"l": json.dumps({"m": json.dumps({"n": "x"})})})],
                ("k", "l"): [json.dumps({"m": json.dumps({"n": "x"})})],
                ("k", "l", "m"): [json.dumps({"n": "x"})],
            },
            id="JSON in JSON, twice and no further",
        ),
        pytest.param([{"h": {"iv": "i"}, "p": "x"}], {(): ['{"p":"x","h":{"iv":"i"}}']}, id="one value of Rails"),
        pytest.param([{"s": {"h": {}, "p": "x"}}], {("s",): ['{"p":"x","h":{}}']}, id="one within a document"),
        pytest.param([{"h": {}, "p": "x", "q": "y"}], {("p",): ["x"], ("q",): ["y"]}, id="no such value"),
    ],
)
def test_strings_by_path(documents: Sequence[object], found: dict[tuple[str, ...], list[str]]) -> None:
    assert paths(*documents) == found


@pytest.mark.parametrize(
    "key",
    ["ana@example.org", "20261128", "+15550100", str(uuid.UUID(int=7)), "deadbeefcafe", "x" * 50, "a\nb", "17"],
)
def test_a_key_that_is_data_is_not_told(key: str) -> None:
    assert paths({"by": {key: "x"}, "name": "n"}) == {("by", "*"): ["x"], ("name",): ["n"]}


@pytest.mark.parametrize("key", ["first_name", "Straße", "sha256", "x-y.z", "First Name", "氏名"])
def test_a_key_that_is_a_name_is_told(key: str) -> None:
    assert paths({key: "x"}) == {(key,): ["x"]}


def test_keys_that_vary_from_row_to_row_are_one_path() -> None:
    documents = [{"by_user": {f"user {chr(97 + number % 26)}{chr(97 + number // 26)}": "x"}} for number in range(200)]
    assert paths(*documents) == {("by_user", "*"): ["x"] * 200}


def test_too_many_paths_are_cut_and_it_is_told() -> None:
    wide = [{f"{chr(97 + at)}": {f"{chr(97 + b)}{c}": "x" for b in range(20) for c in "xyz"} for at in range(26)}] * 3
    cut = leaves_of([json.dumps(each) for each in wide])
    assert (len(cut.by_path), cut.complete) == (MOST_PATHS, False)
    assert leaves_of(["{}"]).complete


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000, id="deep and unfinished"),
        pytest.param("[" * 5_000 + "]" * 5_000, id="deep"),
        pytest.param('{"a":' * 900 + '"x"' + "}" * 900, id="deep objects"),
        pytest.param(f"[{'9' * 10_000}]", id="a long number"),
        pytest.param('{"\\ud800": "\\udfff"}', id="half characters"),
        pytest.param('{"a": "x"', id="unfinished"),
        pytest.param("{}" * 10, id="several"),
        pytest.param(f'["{"x" * 5_000_000}"]', id="long"),
        pytest.param("", id="nothing"),
    ],
)
def test_nothing_is_raised(text: str) -> None:
    leaves_of([text, '{"k": "v"}'])
    texts_in_xml([text])
    values_in_hstore([text])


def test_xml_and_hstore() -> None:
    xml = "<a><b>x</b><c d='1'>y</c><e/></a>"
    assert texts_in_xml([xml]).by_path == {("b",): ["x"], ("c",): ["y"]}
    assert values_in_hstore(['"a"=>"x\\"\\\\", "b"=>NULL, "c"=>""']).by_path == {("a",): ['x"\\']}
