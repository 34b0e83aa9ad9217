"""Members that join by a rule: whom it covers, and which events count."""

import pytest

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.members import Listed, MemberRule, member_line, members_among, place_by_rule
from keyrotation_pipeline.model.request_events import HostsPinned, MemberJoined
from keyrotation_pipeline_tests.fakes import FakeWorld, fake_pipeline

SYSTEM = ", system identifier 7, schema keys"
PLACE = f"tenant_* without tenant_3, tenant_4{SYSTEM}"
HOSTS = (member_line("north", f"clinic{SYSTEM}"), member_line("tenant_*", PLACE))


@pytest.fixture
def world() -> FakeWorld:
    world = fake_pipeline()
    world.ledger.append(HostsPinned(HOSTS))
    return world


@pytest.mark.parametrize(
    ("member", "covered"),
    [
        ("tenant_1", True),
        ("tenant_", True),
        ("tenant_3", False),
        ("tenant_30", True),
        ("north", False),
        ("tenants", False),
        ("tenant_*", False),
        ("tenant_1\n", False),
        ("tenant_É", False),
        ("xtenant_1", False),
    ],
)
def test_a_rule_gives_a_place_to_names_that_it_covers(member: str, covered: bool) -> None:
    assert place_by_rule(member, PLACE) == (f"{member}{SYSTEM}" if covered else None)


def test_a_rule_is_read_back_from_its_place() -> None:
    rule = MemberRule("a*b_*", ("ab_", "axb_y"))
    assert rule.place(f"postgres{SYSTEM}") == f"a*b_* without ab_, axb_y{SYSTEM}"
    assert MemberRule.of(rule.place(f"postgres{SYSTEM}")) == (rule, SYSTEM)
    assert MemberRule.of(f"clinic{SYSTEM}") is None


def test_a_covered_database_is_a_member_from_then_on(world: FakeWorld) -> None:
    before = world.ledger.head().seq
    world.ledger.append(MemberJoined("tenant_1", f"tenant_1{SYSTEM}"))
    state = world.ledger.replayed()
    assert list(members_among(state.hosts or ())) == ["north", "tenant_1"]
    assert state.joined_after(before) == {"tenant_1": f"tenant_1{SYSTEM}"}
    assert state.joined_after(state.head.seq) == {}


@pytest.mark.parametrize(
    "fact",
    [
        pytest.param(MemberJoined("clinic", f"clinic{SYSTEM}"), id="not covered"),
        pytest.param(MemberJoined("tenant_3", f"tenant_3{SYSTEM}"), id="gone"),
        pytest.param(MemberJoined("tenant_1", "tenant_1, system identifier 8, schema keys"), id="another server"),
        pytest.param(MemberJoined("tenant_1", "tenant_1, system identifier 7"), id="another schema"),
        pytest.param(MemberJoined("tenant_1", f"tenant_2{SYSTEM}"), id="under another name"),
        pytest.param(MemberJoined("tenant_2", f"tenant_2{SYSTEM}"), id="again"),
    ],
)
def test_an_event_that_no_signed_rule_covers_changes_nothing(world: FakeWorld, fact: MemberJoined) -> None:
    world.ledger.append(MemberJoined("tenant_2", f"tenant_2{SYSTEM}"))
    before = world.ledger.replayed().hosts
    with pytest.raises(KeyRotationError):
        world.ledger.append(fact)
    assert world.ledger.replayed().hosts == before


def test_what_a_listing_lacks_or_adds_is_named() -> None:
    assert list(Listed().sentences) == []
    added, lost = Listed(("tenant_8", "tenant_9"), ("tenant_1",)).sentences
    assert added.startswith("database tenant_8 (and 1 more) is listed by")
    assert lost.startswith("database tenant_1 is no longer listed by")
