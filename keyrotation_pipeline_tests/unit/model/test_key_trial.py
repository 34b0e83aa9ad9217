"""When values that do not decrypt are single damaged ones, and when the key is wrong."""

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.key_trial import ColumnTrial, KeyTrial, PlaceProbe

V1, V2, V2X = KeyVersion(1), KeyVersion(2), KeyVersion(2, 2)


@pytest.mark.parametrize(("tried", "opened", "wrong"), [
    pytest.param(200, 200, False, id="all open"),
    pytest.param(200, 180, False, id="a tenth does not"),
    pytest.param(200, 179, True, id="more than a tenth does not"),
    pytest.param(5, 4, False, id="a single one of few"),
    pytest.param(5, 3, True, id="two of few"),
    pytest.param(1, 0, True, id="the only one"),
    pytest.param(200, 0, True, id="none opens"),
])  # fmt: skip
def test_more_than_a_tenth_of_a_column_is_no_damage(tried: int, opened: int, wrong: bool) -> None:
    column = ColumnTrial("clients", "email", V1, tried, opened, {}, ("[7]",))
    trial = KeyTrial((V1,), (column,))
    assert trial.wrong_versions == ((V1,) if wrong else ())
    assert bool(trial.damaged()) is (opened < tried and not wrong)


def test_keys_are_counted_by_version_and_another_key_is_named() -> None:
    columns = (ColumnTrial("t", "a", V1, 4, 0, {V2: 4}), ColumnTrial("t", "b", V2, 6, 6))
    trial = KeyTrial((V1, V2), columns)
    assert (trial.tried, trial.failed, trial.of_version(V1), trial.of_version(V2)) == (10, 4, (4, 0), (6, 6))
    assert trial.wrong_key(V1, lambda version: f"file {version}") == (
        "file v1 decrypts none of the 4 values tried under v1 (t.a 0 of 4); file v2 decrypts 4 of them, so give that "
        "key as file v1"
    )


@pytest.mark.parametrize(("version", "others", "named"), [
    pytest.param(V2X, {}, True, id="second generation"),
    pytest.param(V2X, {KeyVersion(3, 2): 4}, False, id="another key opens them under the label"),
    pytest.param(V2, {}, False, id="first generation"),
])  # fmt: skip
def test_of_a_column_of_the_second_generation_that_no_key_opens_the_label_is_asked_for_first(
    version: KeyVersion, others: dict[KeyVersion, int], *, named: bool
) -> None:
    columns = (ColumnTrial("t", "mail", version, 4, 4), ColumnTrial("t", "tel", version, 4, 0, others))
    said = KeyTrial((version,), columns).wrong_key(version, lambda version: f"file {version}")
    assert ("if t.tel (or the table) was renamed, or the application declares a binding" in said) is named


@pytest.mark.parametrize(
    ("fits", "then"),
    [
        pytest.param(None, "correct format, keys and options there", id="in no known form"),
        pytest.param("sqlalchemy-utils-aes, padding naive", "padding naive: write that there", id="in another form"),
    ],
)
def test_values_that_another_library_s_key_does_not_open_are_said_in_one_short_sentence(
    fits: str | None, then: str
) -> None:
    form = "sqlalchemy-utils-aes, padding pkcs5"
    said = str(PlaceProbe("cases", "token", form, 200, 0, fits=fits, key_name="OLD_KEY").refusal)
    assert f"0 of 200 values tried open with the key imported from OLD_KEY as `from` says ({form}); " in said
    assert said.endswith(then)
    assert len(said) <= 200
