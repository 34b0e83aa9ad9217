"""Check results that say how far something is: not passed yet, but no failure, so nobody is alerted."""

from collections.abc import Mapping

import dagster as dg

UNDER_WAY = "under_way"


def marked(*, under_way: bool) -> Mapping[str, bool]:
    """The metadata by which `is_failure` recognises a result that is not passed yet; empty for any other."""
    return {UNDER_WAY: True} if under_way else {}


def is_failure(evaluation: dg.AssetCheckEvaluation) -> bool:
    """Whether an evaluation is news for people; a result of the severity `ERROR` always is."""
    if evaluation.passed:
        return False
    return evaluation.severity is dg.AssetCheckSeverity.ERROR or UNDER_WAY not in evaluation.metadata
