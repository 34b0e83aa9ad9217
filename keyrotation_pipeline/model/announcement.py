"""What everybody is told of a planned rotation, a week ahead. Source: the seed procedure, section 3.1, step 5."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Announcement:
    """One message.

    Args:
        request: id of the rotation or rollback.
        subject: one line.
        cancels: whether it takes back the one before.
    """

    request: str
    subject: str
    text: str
    cancels: bool = False

    @property
    def key(self) -> str:
        """The key of the alert that carries it."""
        return f"rotation/{self.request}/cancelled" if self.cancels else announced_key(self.request)


def announced_key(request: str) -> str:
    """Of the announcement of a request."""
    return f"rotation/{request}/announced"
