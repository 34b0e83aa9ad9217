"""Who is called, and how soon. Source: the seed procedure, appendix B."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class ContactRole(StrEnum):
    """Whom an alert is for. `OFFICER`: whoever signs besides the Security Officer."""

    ON_CALL = "on-call"
    DEVOPS_LEAD = "devops-lead"
    SECURITY_OFFICER = "security-officer"
    COMPLIANCE_OFFICER = "compliance-officer"
    DATABASE_ADMINISTRATOR = "database-administrator"
    OFFICER = "officer"


# On-call is told at once; these only while nobody has acknowledged the incident.
ESCALATION = (
    (ContactRole.DEVOPS_LEAD, timedelta(minutes=30)),
    (ContactRole.SECURITY_OFFICER, timedelta(hours=1)),
)


@dataclass(frozen=True, slots=True)
class Contact:
    """One line of the emergency contact list."""

    role: ContactRole
    name: str
    email: str | None = None
    phone: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """As `status --json` has it."""
        return {"role": str(self.role), "name": self.name, "email": self.email, "phone": self.phone}

    def __str__(self) -> str:
        return ", ".join(part for part in (f"{self.role}: {self.name}", self.email, self.phone) if part)
