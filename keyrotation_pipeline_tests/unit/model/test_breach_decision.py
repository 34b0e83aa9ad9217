"""The breach decision as a table of cases, each with the paragraph of 45 CFR that it follows."""

from dataclasses import replace
from datetime import date
from itertools import product

import pytest

from keyrotation_pipeline.model.breach import (
    Affected,
    Answer,
    Exclusion,
    IncidentFacts,
    LawEnforcementDelay,
    Outcome,
    RiskAssessment,
    Role,
)
from keyrotation_pipeline.model.breach_decision import CAVEATS, decide_breach

YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN
KNOWN_ON = date(2026, 3, 2)
LOW = RiskAssessment("names only", "a colleague", "not viewed", "returned, attested", low_probability=True)


def facts(**changes: object) -> IncidentFacts:
    """A key and its ciphertext in other hands, 40 people of one State."""
    base = IncidentFacts(
        Role.COVERED_ENTITY, KNOWN_ON, key_breached=YES, key_kept_apart=YES, ciphertext_reached=YES,
        plaintext_reached=NO, affected=Affected({"Ohio": 40}),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def last_dates(given: IncidentFacts) -> dict[str, date]:
    return {notice.to: notice.last_date for notice in decide_breach(given).notices}


# key breached, key kept apart, ciphertext reached, plaintext reached
GRID = [
    pytest.param(YES, YES, YES, NO, Outcome.NOTIFY, id="164.402 unsecured: key and ciphertext"),
    pytest.param(NO, YES, YES, NO, Outcome.SAFE_HARBOR, id="164.402 secured: key not breached and kept apart"),
    pytest.param(NO, NO, YES, NO, Outcome.NOTIFY, id="164.402 unsecured: key next to the data"),
    pytest.param(YES, NO, YES, NO, Outcome.NOTIFY, id="164.402 unsecured: key breached and next to the data"),
    pytest.param(UNKNOWN, YES, YES, NO, Outcome.UNDECIDED, id="164.414(b): key perhaps breached"),
    pytest.param(NO, UNKNOWN, YES, NO, Outcome.UNDECIDED, id="164.414(b): key perhaps next to the data"),
    pytest.param(UNKNOWN, NO, YES, NO, Outcome.NOTIFY, id="164.402: next to the data, whatever the key"),
    pytest.param(YES, YES, UNKNOWN, NO, Outcome.UNDECIDED, id="164.414(b): ciphertext perhaps reached"),
    pytest.param(NO, YES, UNKNOWN, NO, Outcome.SAFE_HARBOR, id="164.402 secured: reached or not"),
    pytest.param(YES, YES, NO, NO, Outcome.NO_BREACH, id="164.402: a key alone is no PHI"),
    pytest.param(UNKNOWN, UNKNOWN, NO, NO, Outcome.NO_BREACH, id="164.402: nothing was reached"),
    pytest.param(NO, YES, NO, YES, Outcome.NOTIFY, id="164.402: plaintext columns, whatever the key"),
    pytest.param(NO, YES, YES, YES, Outcome.NOTIFY, id="164.402: plaintext next to secured ciphertext"),
    pytest.param(NO, YES, YES, UNKNOWN, Outcome.UNDECIDED, id="164.414(b): plaintext perhaps reached"),
    pytest.param(NO, YES, NO, UNKNOWN, Outcome.UNDECIDED, id="164.414(b): only plaintext is unknown"),
    pytest.param(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, Outcome.UNDECIDED, id="164.414(b): nothing is known"),
]


@pytest.mark.parametrize(("key", "apart", "ciphertext", "plaintext", "outcome"), GRID)
def test_what_was_reached_decides(
    key: Answer, apart: Answer, ciphertext: Answer, plaintext: Answer, outcome: Outcome
) -> None:
    given = facts(key_breached=key, key_kept_apart=apart, ciphertext_reached=ciphertext, plaintext_reached=plaintext)
    decision = decide_breach(given)
    assert decision.outcome is outcome
    assert decision.reasons
    assert bool(decision.notices) == (outcome in {Outcome.NOTIFY, Outcome.UNDECIDED})
    assert bool(decision.missing) == (outcome is Outcome.UNDECIDED)


@pytest.mark.parametrize("answers", list(product(Answer, repeat=4)), ids="-".join)
def test_learning_an_answer_never_contradicts_what_was_decided(answers: tuple[Answer, ...]) -> None:
    """164.414(b): of a decision without unknowns, replacing any answer by "unknown" gives the same or "undecided"."""
    names = ("key_breached", "key_kept_apart", "ciphertext_reached", "plaintext_reached")
    known = decide_breach(facts(**dict(zip(names, answers, strict=True)))).outcome
    for name, answer in zip(names, answers, strict=True):
        if answer is UNKNOWN:
            outcomes = {
                decide_breach(facts(**{**dict(zip(names, answers, strict=True)), name: each})).outcome
                for each in (YES, NO)
            }
            assert known in outcomes | {Outcome.UNDECIDED}
            if known is Outcome.NOTIFY:
                assert outcomes <= {Outcome.NOTIFY, Outcome.UNDECIDED}
            if known in {Outcome.SAFE_HARBOR, Outcome.NO_BREACH}:
                assert outcomes <= {Outcome.SAFE_HARBOR, Outcome.NO_BREACH}


@pytest.mark.parametrize("exclusion", list(Exclusion), ids=lambda exclusion: exclusion.paragraph)
def test_each_exclusion_ends_it(exclusion: Exclusion) -> None:
    decision = decide_breach(facts(exclusion=exclusion))
    assert decision.outcome is Outcome.NO_BREACH
    assert exclusion.paragraph in decision.reasons[-1]
    assert not decision.notices


def test_the_reason_of_an_exclusion_is_in_the_words_of_the_rule() -> None:
    (reason,) = decide_breach(facts(exclusion=Exclusion.NOT_RETAINABLE)).reasons[-1:]
    assert reason == (
        "good-faith belief that the recipient could not have retained the information (164.402(1)(iii)); keep the "
        "proof six years (164.414(b))"
    )


@pytest.mark.parametrize(
    ("assessment", "outcome"),
    [
        pytest.param(LOW, Outcome.NO_BREACH, id="164.402(2): low over four factors"),
        pytest.param(replace(LOW, low_probability=False), Outcome.NOTIFY, id="164.402(2): not low"),
        pytest.param(RiskAssessment(), Outcome.NOTIFY, id="164.402(2): none made, so presumed"),
        pytest.param(replace(LOW, nature_of_phi=""), Outcome.NOTIFY, id="164.402(2)(i) missing"),
        pytest.param(replace(LOW, unauthorised_person=" "), Outcome.NOTIFY, id="164.402(2)(ii) missing"),
        pytest.param(replace(LOW, acquired_or_viewed=""), Outcome.NOTIFY, id="164.402(2)(iii) missing"),
        pytest.param(replace(LOW, mitigation=""), Outcome.NOTIFY, id="164.402(2)(iv) missing"),
    ],
)
def test_the_four_factors(assessment: RiskAssessment, outcome: Outcome) -> None:
    decision = decide_breach(facts(assessment=assessment))
    assert decision.outcome is outcome
    incomplete = assessment.low_probability and outcome is Outcome.NOTIFY
    assert any("risk assessment" in each for each in decision.missing) == incomplete


IN_60_DAYS = date(2026, 5, 1)
AFTER_YEAR = date(2027, 3, 1)


@pytest.mark.parametrize(
    ("affected", "expected"),
    [
        pytest.param(
            Affected({"Ohio": 499}), {"individuals": IN_60_DAYS, "HHS": AFTER_YEAR}, id="164.408(c): 499 in all"
        ),
        pytest.param(
            Affected({"Ohio": 500}), {"individuals": IN_60_DAYS, "HHS": IN_60_DAYS},
            id="164.408(b): 500 in all; 164.406: 500 in one State is not more than 500",
        ),
        pytest.param(
            Affected({"Ohio": 501}),
            {"individuals": IN_60_DAYS, "media of Ohio": IN_60_DAYS, "HHS": IN_60_DAYS},
            id="164.406: 501 in one State",
        ),
        pytest.param(
            Affected({"Ohio": 250, "Iowa": 251}), {"individuals": IN_60_DAYS, "HHS": IN_60_DAYS},
            id="164.406: 501 over two States",
        ),
        pytest.param(
            Affected({"Ohio": 600, "Iowa": 700}),
            {"individuals": IN_60_DAYS, "media of Iowa": IN_60_DAYS, "media of Ohio": IN_60_DAYS, "HHS": IN_60_DAYS},
            id="164.406: two States",
        ),
        pytest.param(
            Affected({"Ohio": 450}, elsewhere_unknown=51),
            {"individuals": IN_60_DAYS, "media": IN_60_DAYS, "HHS": IN_60_DAYS},
            id="164.406: unknown State may tip it",
        ),
        pytest.param(
            Affected({"Ohio": 449}, elsewhere_unknown=51), {"individuals": IN_60_DAYS, "HHS": IN_60_DAYS},
            id="164.406: unknown State cannot tip it",
        ),
        pytest.param(
            None, {"individuals": IN_60_DAYS, "media": IN_60_DAYS, "HHS": IN_60_DAYS}, id="164.408: nobody has counted"
        ),
        pytest.param(
            Affected({"Ohio": 40}, is_complete=False),
            {"individuals": IN_60_DAYS, "media": IN_60_DAYS, "HHS": IN_60_DAYS},
            id="164.408(b): 40 so far may become 500",
        ),
        pytest.param(
            Affected({"Ohio": 501, "Iowa": 2}, is_complete=False),
            {"individuals": IN_60_DAYS, "media of Ohio": IN_60_DAYS, "media": IN_60_DAYS, "HHS": IN_60_DAYS},
            id="164.406: 2 of Iowa so far may become 501",
        ),
    ],
)  # fmt: skip
def test_who_is_notified_by_when(affected: Affected | None, expected: dict[str, date]) -> None:
    assert last_dates(facts(affected=affected)) == expected


def test_an_unknown_state_is_missing_and_its_notice_uncertain() -> None:
    decision = decide_breach(facts(affected=Affected({"Ohio": 450}, elsewhere_unknown=51)))
    assert "the State or jurisdiction of 51 people" in decision.missing
    assert {notice.to for notice in decision.notices if not notice.is_certain} == {"media"}


def test_a_count_that_continues_is_missing() -> None:
    decision = decide_breach(facts(affected=Affected({"Ohio": 40}, is_complete=False)))
    assert decision.missing == ("how many people are affected, and in which States",)


def test_a_count_raised_later_moves_hhs_to_the_individuals_date_even_when_that_has_passed() -> None:
    """164.408(b): the dates run from discovery, not from the new count."""
    (hhs,) = [each for each in decide_breach(facts(affected=Affected({"Ohio": 500}))).notices if each.to == "HHS"]
    assert hhs.last_date == IN_60_DAYS


@pytest.mark.parametrize(
    ("known_on", "individuals", "annual"),
    [
        pytest.param(date(2026, 12, 31), date(2027, 3, 1), date(2027, 3, 1), id="164.408(c): 31 December 2026"),
        pytest.param(date(2027, 1, 1), date(2027, 3, 2), date(2028, 2, 29), id="164.408(c): 1 January 2027, leap year"),
        pytest.param(date(2028, 2, 29), date(2028, 4, 29), date(2029, 3, 1), id="164.404(b): 29 February"),
        pytest.param(date(2027, 12, 31), date(2028, 2, 29), date(2028, 2, 29), id="164.408(c): 31 December 2027"),
    ],
)
def test_days_are_calendar_days(known_on: date, individuals: date, annual: date) -> None:
    assert last_dates(facts(known_on=known_on)) == {"individuals": individuals, "HHS": annual}


@pytest.mark.parametrize(
    ("diligently", "discovered"),
    [
        pytest.param(date(2026, 2, 20), date(2026, 2, 20), id="164.404(a)(2): diligence would have shown it before"),
        pytest.param(date(2026, 3, 9), KNOWN_ON, id="164.404(a)(2): it was known before"),
        pytest.param(None, KNOWN_ON, id="164.404(a)(2): known"),
    ],
)
def test_the_dates_run_from_discovery(diligently: date | None, discovered: date) -> None:
    assert decide_breach(facts(diligently_known_on=diligently)).discovered_on == discovered


STATED = date(2026, 3, 10)


@pytest.mark.parametrize(
    ("delays", "individuals", "not_before"),
    [
        pytest.param([], IN_60_DAYS, None, id="164.412: none"),
        pytest.param(
            [LawEnforcementDelay(STATED)], IN_60_DAYS, date(2026, 4, 10), id="164.412(b): oral, 30 days within the 60"
        ),
        pytest.param(
            [LawEnforcementDelay(date(2026, 4, 20))], date(2026, 5, 20), date(2026, 5, 21),
            id="164.412(b): oral, beyond the 60",
        ),
        pytest.param(
            [LawEnforcementDelay(STATED, date(2026, 9, 30))], date(2026, 9, 30), date(2026, 10, 1),
            id="164.412(a): written, its period",
        ),
        pytest.param(
            [LawEnforcementDelay(STATED, date(2026, 4, 1))], IN_60_DAYS, date(2026, 4, 2),
            id="164.412(a): written, within the 60",
        ),
        pytest.param(
            [LawEnforcementDelay(STATED, date(2026, 6, 1)), LawEnforcementDelay(date(2026, 5, 20), date(2026, 8, 1))],
            date(2026, 8, 1), date(2026, 8, 2), id="164.412: overlapping",
        ),
        pytest.param(
            [LawEnforcementDelay(date(2026, 4, 20)), LawEnforcementDelay(date(2026, 5, 10), date(2026, 5, 12))],
            date(2026, 5, 12),
            date(2026, 5, 13),
            id="164.412(b): a written one replaces the oral one, after the 60 days",
        ),
        pytest.param(
            [LawEnforcementDelay(date(2026, 4, 20)), LawEnforcementDelay(date(2026, 4, 25), date(2026, 5, 5))],
            date(2026, 5, 5), date(2026, 5, 6), id="164.412(b): a written one replaces the oral one, and is shorter",
        ),
        pytest.param(
            [LawEnforcementDelay(date(2026, 5, 2), date(2026, 9, 30))], IN_60_DAYS, None,
            id="164.412: stated after the last date had passed",
        ),
    ],
)  # fmt: skip
def test_law_enforcement_delays(delays: list[LawEnforcementDelay], individuals: date, not_before: date | None) -> None:
    (notice,) = [each for each in decide_breach(facts(delays=delays)).notices if each.to == "individuals"]
    assert (notice.last_date, notice.not_before) == (individuals, not_before)


def test_a_delay_holds_for_the_annual_report_too() -> None:
    delay = LawEnforcementDelay(STATED, date(2027, 6, 30))
    assert last_dates(facts(delays=[delay]))["HHS"] == date(2027, 6, 30)


def test_a_business_associate_notifies_the_covered_entity_alone() -> None:
    """164.410: without unreasonable delay, and within 60 days."""
    given = facts(role=Role.BUSINESS_ASSOCIATE, affected=Affected({"Ohio": 5000}))
    assert last_dates(given) == {"covered entity": IN_60_DAYS}


def test_every_notice_of_an_undecided_incident_is_uncertain() -> None:
    decision = decide_breach(facts(ciphertext_reached=UNKNOWN, affected=Affected({"Ohio": 501})))
    assert {notice.to for notice in decision.notices} == {"individuals", "media of Ohio", "HHS"}
    assert not any(notice.is_certain for notice in decision.notices)


def test_it_says_what_it_is_not() -> None:
    assert decide_breach(facts()).caveats == CAVEATS
    assert "counsel" in CAVEATS[0]
