"""The roster: who may approve, how many must, and who can read backups."""

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.ports.pipeline import Pipeline


def pinned_roster(pipeline: Pipeline) -> Roster:
    """The roster that `init` or a later `policy` pinned.

    Raises:
        ApprovalError: there is none.
    """
    roster = pipeline.ledger.pinned_roster()
    if roster is None:
        raise ApprovalError("no roster of officers is pinned yet; run `keyrotation init`")
    return roster


def require_roster(pipeline: Pipeline) -> Roster:
    """The pinned roster, if the configuration still says the same, in whatever order.

    Raises:
        ApprovalError: it differs; names what.
    """
    pinned, configured = pinned_roster(pipeline), pipeline.signatures.roster()
    if differs := pinned.differences(configured):
        raise ApprovalError(
            f"{' and '.join(differs)} in keyrotation.toml differ from what is pinned; restore them there, or have the "
            "change signed with `keyrotation policy --reason TEXT`"
        )
    return pinned
