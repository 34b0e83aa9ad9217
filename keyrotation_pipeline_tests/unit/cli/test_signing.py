"""A request that officers are to sign, and results, as commands print them."""

import pytest

from keyrotation_pipeline.cli.output import Table, Text, show
from keyrotation_pipeline.cli.signing import propose, require_signed
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.fakes import FakeWorld, fake_pipeline


@pytest.fixture
def world() -> FakeWorld:
    return fake_pipeline({"clients": [{"first_name": "v1:Ada", "email": None}]})


@pytest.mark.parametrize(
    ("then", "ends"), [(None, "what, and how"), ("run it again", "what, and how; then run it again")]
)
def test_the_id_stands_alone_on_stdout(
    world: FakeWorld, then: str | None, ends: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = open_request(world.pipeline, reason="yearly", requested_by="ops@host")
    propose(world.pipeline, request, {"id": request.id}, ["clinic: v1 to v2"], then, as_json=False)
    printed = capsys.readouterr()
    assert printed.out == f"{request.id}\n"
    assert printed.err.splitlines() == [
        "clinic: v1 to v2", f"2 officer(s) must sign; `keyrotation approve {request.id}` shows each {ends}",
    ]  # fmt: skip


def test_a_request_that_is_not_signed_is_not_carried_out(world: FakeWorld) -> None:
    request = open_request(world.pipeline, reason="yearly", requested_by="ops@host")
    with pytest.raises(BlockedError, match=r"needs 2 more approval\(s\); sign with `keyrotation approve"):
        require_signed(world.pipeline, request)


@pytest.mark.parametrize(
    ("database", "as_json", "printed"),
    [
        pytest.param("clinic", True, '{\n"schema": 1,\n"id": "ä"\n}\n', id="JSON"),
        pytest.param("clinic", False, "clinic\none\ntwo\nRows\n1,000\n", id="text begins with the database"),
        pytest.param(None, False, "one\ntwo\nRows\n1,000\n", id="named before"),
    ],
)
def test_a_result_is_its_value_or_its_lines(
    database: str | None, as_json: bool, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(database, {"id": "ä"}, ["one", Text("two", "bold"), Table(("Rows",), [(1000,)])], as_json=as_json)
    assert "".join(f"{line.strip()}\n" for line in capsys.readouterr().out.splitlines()) == printed
