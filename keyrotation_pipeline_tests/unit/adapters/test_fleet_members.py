"""A member of a fleet whose server is gone."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from keyrotation_pipeline.adapters.fleet import members
from keyrotation_pipeline.adapters.fleet.members import Member, Members, OwnTables, in_member
from keyrotation_pipeline.adapters.fleet.retirement import FleetEvidence
from keyrotation_pipeline.errors import DatabaseUnavailableError, MemberUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.proof import Searched
from keyrotation_pipeline.model.requests import Step
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


def test_a_search_says_which_database_it_is_in() -> None:
    """Every member may have a table of the same name; a declared one has its database in its name already."""
    subjects = ["keyrotation.quarantine", "south:clients counted"]

    def search(*arguments: object) -> Searched:
        for subject in subjects:
            cast("Report", arguments[-1])(Progress(Step.RETIRED_KEY, subject, 0, 0))
        return Searched({}, {}, {}, {}, datetime(2026, 12, 2, tzinfo=UTC))

    ports = cast("DatabasePorts", SimpleNamespace(evidence=SimpleNamespace(search=search)))
    south = SimpleNamespace(ports=ports, is_open=True, require_unmoved=lambda: None, bring_up_to_date=lambda: None)
    said = list[str]()
    fleet = FleetEvidence(Members(ports, {"south": lambda: cast("Member", south)}), cast("OwnTables", None))
    fleet.search([], KeyVersion(1), [], lambda progress: said.append(progress.subject))
    assert said == [*subjects, "south:keyrotation.quarantine", "south:clients counted"]


def test_a_short_name_is_not_taken_for_the_end_of_a_word() -> None:
    assert in_member("s", "these columns: name, email") == "database s: these columns: name, email"


def test_a_rule_is_named_as_a_member_is() -> None:
    assert in_member("tenant_*", "tenant_: it answers") == "database tenant_*: tenant_: it answers"
