"""The patterns of the value grammar mean the same to PostgreSQL as to Python."""

import re
from collections.abc import Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import NEAR_MISS_PATTERN, VALUE_PATTERN
from keyrotation_pipeline_tests.unit.fieldcrypto.value_cases import ACCEPTED, NEAR_MISSES, NO_NEAR_MISSES, REFUSED

TEXTS = [*ACCEPTED.values(), *REFUSED.values(), *NEAR_MISSES.values(), *NO_NEAR_MISSES.values()]


def matched(connection: Connection, pattern: str, texts: Iterable[str]) -> list[object]:
    rows = connection.execute(
        'SELECT t COLLATE "C" ~ %s FROM unnest(%s::text[]) WITH ORDINALITY AS u (t, n) ORDER BY n',
        (pattern, list(texts)),
    )
    return [row[0] for row in rows]


def test_postgresql_accepts_exactly_the_values(connection: Connection) -> None:
    pattern = f"^(?:{VALUE_PATTERN})$"
    assert all(matched(connection, pattern, ACCEPTED.values()))
    refused = matched(connection, pattern, REFUSED.values())
    assert [name for name, wrong in zip(REFUSED, refused, strict=True) if wrong] == []


def test_postgresql_sees_the_same_near_misses(connection: Connection) -> None:
    found = matched(connection, f"^(?:{NEAR_MISS_PATTERN})", TEXTS)
    assert found == [re.match(NEAR_MISS_PATTERN, text) is not None for text in TEXTS]


@given(texts=st.lists(st.sampled_from(TEXTS[:40]), min_size=50, max_size=50), data=st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_agree_on_damaged_values(connection: Connection, texts: list[str], data: st.DataObject) -> None:
    pieces = st.text(st.sampled_from("vV0159AQgw+/=:-_ \t\n\x1cÿ\u00a0\u0661"), max_size=2)
    damaged = []
    for text in texts:
        at = data.draw(st.integers(0, min(len(text), 60)))
        damaged.append(text[:at] + data.draw(pieces) + text[at + data.draw(st.integers(0, 2)) :])
    assert matched(connection, f"^(?:{VALUE_PATTERN})$", damaged) == [
        re.fullmatch(VALUE_PATTERN, text) is not None for text in damaged
    ]
    assert matched(connection, f"^(?:{NEAR_MISS_PATTERN})", damaged) == [
        re.match(NEAR_MISS_PATTERN, text) is not None for text in damaged
    ]
