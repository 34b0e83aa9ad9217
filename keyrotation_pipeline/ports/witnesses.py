"""Who outside of this system has seen that the audit only grows?"""

from typing import Protocol

from keyrotation_pipeline.model.checkpoints import SignedCheckpoint
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.witnesses import Witness


class CheckpointWitness(Protocol):
    """One witness."""

    @property
    def witness(self) -> Witness:
        """Where it is asked, and its key."""

    def sign(self, note: SignedCheckpoint, tree: EventTree, known: int) -> SignedCheckpoint:
        """Returns the checkpoint with the signature of the witness, which has been verified.

        Args:
            note: of all events of the tree, signed by the home.
            known: how many events it is recorded to have signed last; it may have signed more.

        Raises:
            WitnessConflictError: it has signed something that the tree does not continue.
            WitnessError: it does not answer, refuses, or its answer does not verify.
        """
