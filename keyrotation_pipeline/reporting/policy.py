"""The key rotation policy as the report states it: when keys change, who must agree, and how each step is done.

Source: the source procedure, sections 1.2, 2, 4 and 7.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.model.breach import ResponseStage
from keyrotation_pipeline.model.incidents import IncidentType
from keyrotation_pipeline.model.keys import DUTIES
from keyrotation_pipeline.model.requests import Step

TRIGGERS: Mapping[IncidentType, str] = {
    IncidentType.KEY_EXPOSED: "an encryption key is exposed in version control, logs or error messages",
    IncidentType.UNAUTHORIZED_ACCESS: "somebody gains access to the secrets manager or environment without permission",
    IncidentType.SERVER_COMPROMISE: "a security incident affects application servers",
    IncidentType.INSIDER: "an employee with access to keys leaves the organisation under suspicious circumstances",
    IncidentType.LIBRARY_ADVISORY: "a third-party security advisory affects the encryption library",
    IncidentType.OTHER: "anything else by which officers judge a key to be at risk",
}
STAGES: Mapping[ResponseStage, str] = {
    ResponseStage.ASSESSED: "the incident is assessed",
    ResponseStage.DUAL_KEY: "every instance reads a new key",
    ResponseStage.REENCRYPTED: "every row is re-encrypted",
    ResponseStage.RETIRED_AND_AUDITED: "the old key is retired, and it is documented",
}
RESPONSE = tuple(f"within {each.within.total_seconds() / 3600:.0f} hours: {said}" for each, said in STAGES.items())
STEPS: Mapping[Step, str] = {
    Step.KEY_VERSION: "the new key is generated, stored, read back, compared, backed up and registered",
    Step.DUAL_KEY_ROLLOUT: "every application instance reads the new key in addition to the old one",
    Step.PRIMARY_KEY_ROLLOUT: "the new key becomes the primary, and every instance writes under it",
    Step.ROWS: "every row is re-encrypted under the new key",
    Step.ZERO_OLD_ROWS_PROOF: "it is proven that nothing is left under the old key: every value is decrypted, and the "
    "database refuses the old version",
    Step.RETIRED_KEY: "the old key is withdrawn from the applications, on evidence that is taken again",
    Step.ARCHIVED_KEY: "every instance is seen without the old key, which is archived",
    Step.KEY_ROTATION_AUDIT: "the row of the key rotation audit table is completed",
    Step.COMPLIANCE_REPORT: "the evidence is summed up in the audit",
}
BACKUPS = (
    "every day, and after each rotation, keys and database are backed up together, encrypted, to two places or more",
    "every quarter a recovery test restores the newest backup on a scratch server, decrypts it and reads every value",
)


@dataclass(frozen=True, slots=True)
class OfficerOnRoster:
    """An officer who may approve; the fingerprint is that of the certificate's primary key."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy: when keys change, who must agree, and how it is done.

    Args:
        next_rotation_due, rule: when it is due, and which rule says so; None: no key is active.
        emergency_triggers: what calls for an emergency rotation.
        response: the stages after an incident was discovered.
        calendar: what each quarter of the year is for.
        procedure: the steps of a rotation, in order.
    """

    required: int
    officers: tuple[OfficerOnRoster, ...]
    recipients: tuple[str, ...]
    next_rotation_due: datetime | None
    rule: str | None
    schedule: str = "every 12 months"
    emergency: str = "within 24 hours of the request, for an incident"
    emergency_triggers: tuple[str, ...] = tuple(TRIGGERS.values())
    response: tuple[str, ...] = RESPONSE
    calendar: tuple[str, ...] = DUTIES
    approval: str = "signatures of different officers over the exact text, verified again before each deed"
    procedure: tuple[str, ...] = tuple(STEPS.values())
    backups: tuple[str, ...] = BACKUPS
