"""The example of the rules is what they say, and each of their tables is part of the one that judges."""

import doctest

from keyrotation_pipeline.audit import rules
from keyrotation_pipeline.audit.events import AuditEntry
from keyrotation_pipeline.audit.incidents import INCIDENT_RULES
from keyrotation_pipeline.audit.request_rules import REQUEST_RULES
from keyrotation_pipeline.audit.walk_rules import WALK_RULES
from keyrotation_pipeline.model.audit import Fact
from keyrotation_pipeline.model.request_events import StatusChanged, StepFinished
from keyrotation_pipeline.model.requests import RequestStatus, Step, StepRecord
from keyrotation_pipeline_tests.fakes import START
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation


def test_the_example_of_the_rules_is_what_they_say() -> None:
    world = before_any_rotation()
    world.ledger.signs = True
    asked = approved(world)
    state = world.ledger.replayed()

    def entry(fact: Fact) -> AuditEntry:
        facts = fact.as_json()
        return AuditEntry(state.head.seq + 1, START, "owner", world.ledger.database, asked.id, fact.kind, facts)

    given = {
        "state": state,
        "begun": entry(StatusChanged(RequestStatus.REQUESTED, RequestStatus.RUNNING, START)),
        "step": entry(StepFinished.of(StepRecord(Step.KEY_VERSION, None, None, START, {}))),
        "AuditRules": rules.AuditRules,
        "Step": Step,
    }
    [example] = doctest.DocTestFinder(recurse=False).find(rules.AuditRules, globs=given)
    assert len(example.examples) == 7
    assert doctest.DocTestRunner().run(example).failed == 0


def test_no_event_has_a_rule_in_two_tables() -> None:
    tables = (REQUEST_RULES, WALK_RULES, INCIDENT_RULES)
    own = [each for each in rules.RULES if not any(each in table for table in tables)]
    assert len(rules.RULES) == len(own) + sum(map(len, tables))
