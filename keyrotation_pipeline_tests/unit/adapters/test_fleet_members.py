"""A member of a fleet whose server is gone."""

from typing import NoReturn, cast

import pytest

from keyrotation_pipeline.adapters.fleet import members
from keyrotation_pipeline.adapters.fleet.members import Members, in_member
from keyrotation_pipeline.errors import DatabaseUnavailableError, MemberUnavailableError
from keyrotation_pipeline.ports.database import DatabasePorts


def test_a_server_that_is_gone_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt lets its command wait for ten seconds."""
    asked, lead = list[str](), cast("DatabasePorts", None)

    def gone() -> NoReturn:
        asked.append("south")
        raise DatabaseUnavailableError("no server answers there; correct host and port in [database] url")

    fleet = Members(lead, {"south": gone})
    for _ in range(3):
        with (
            pytest.raises(MemberUnavailableError, match=r"^database south: .* in \[\[databases\]\] south url$"),
            fleet.at("south"),
        ):
            pass
    assert asked == ["south"]
    monkeypatch.setattr(members, "NOT_ASKED_AGAIN_SECONDS", 0.0)
    again = Members(lead, {"south": gone})
    for _ in range(2):
        with pytest.raises(MemberUnavailableError), again.at("south"):
            pass
    assert asked == ["south"] * 3


def test_a_sentence_about_a_member_names_it_once() -> None:
    once = in_member("south", "give the primary's address as [database] url")
    assert once == "database south: give the primary's address as [[databases]] south url"
    assert in_member("south", once) == once


def test_a_short_name_is_not_taken_for_the_end_of_a_word() -> None:
    assert in_member("s", "these columns: name, email") == "database s: these columns: name, email"
