"""Why a cluster starts no process for a run: what of it refuses the Job or its Pod, and how `status` gets to say so.

The launcher makes it the reason of the failed run; the sensor `run_failure_alert`, which has the ledger, reads it.
Whoever reaches Dagster's storage writes such reasons, too: only what refuses is taken from them, by patterns.
"""

import re

from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.ports.ledger import Ledger

ANSWER = "the API server refuses its Job"
_REFUSED = "the cluster starts no process"
_NAME = r"([a-z0-9][a-z0-9.-]{0,62})"
_BY = (
    (rf"ValidatingAdmissionPolicy '{_NAME}'", "admission policy {}"),
    (rf'admission webhook "{_NAME}"', "admission webhook {}"),
    (rf"exceeded quota: {_NAME}", "quota {}"),
    (r'violates PodSecurity "([a-z]+):', "Pod Security, {}"),
    (r"is forbidden: (User) ", "the rights of the account"),
    (rf"{ANSWER} \(HTTP (4[0-9][0-9])\)", "the API server, HTTP {}"),
)


def refused_by(reason: str) -> str | None:
    """Returns what refuses the Job of a failed run, or the Pod of that Job; None: the run failed for another reason."""
    for pattern, by in _BY:
        if found := re.search(pattern, reason, re.ASCII):
            return by.format(found[1])
    return None


def block(ledger: Ledger, rotation: Walk, job: str, by: str) -> None:
    """Records that nothing works at a rotation because the cluster refuses it, unless a process does by now."""
    if not rotation.is_over and not ledger.held_locks(f"{rotation.id}/"):
        message = f"{_REFUSED} for {job}: {by} refuses it; open the failed run in Dagster's UI, and correct that"
        ledger.block(rotation.id, message)


def lift(ledger: Ledger, rotation: Walk) -> None:
    """Takes that back where a process works after all."""
    if (rotation.blocked_by or "").startswith(_REFUSED):
        ledger.block(rotation.id, None)
