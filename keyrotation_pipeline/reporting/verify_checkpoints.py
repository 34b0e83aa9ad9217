"""Checks what witnesses have signed of a pack's audit, and asks one whether it has signed more or something else."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from keyrotation_pipeline.audit.witnessed import Witnessed, faults, witnessed_in
from keyrotation_pipeline.errors import WitnessConflictError, WitnessError
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.checkpoints import Checkpoint, SignedCheckpoint
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.witnesses import Witness, witnesses_in
from keyrotation_pipeline.reporting.pack_files import CHECKPOINT

if TYPE_CHECKING:
    from keyrotation_pipeline.reporting.verify_pack import Findings, Judged, OfflineCrypto

# Has a witness sign; as `CheckpointWitness.sign`.
Ask = Callable[[Witness, SignedCheckpoint, EventTree, int], SignedCheckpoint]
NEVER_WITNESSED = (
    "whether whoever has the database, the home and its key has cut or rewritten the audit: no witness outside has "
    "signed it"
)


def check_checkpoints(
    files: Mapping[str, bytes], judged: "Judged", openssl: "OfflineCrypto", asked: Mapping[str, Ask], found: "Findings"
) -> None:
    """The pack's own checkpoint, and the newest of each witness, which is of these events and signed by it.

    Args:
        asked: the URL of each witness that is to be asked now, and how.
    """

    def verify(public: str, message: bytes, signature: bytes) -> bool:
        return openssl.verifies(b64decode(public), message, signature)

    state, tree = judged.state, EventTree(judged.state.hashes)
    note = SignedCheckpoint.parse(files.get(CHECKPOINT, b"").decode())
    if state.origin is not None:
        own = [b64encode(key).decode() for key in judged.vouched_keys()]
        is_whole = note is not None and note.checkpoint == Checkpoint.of(state.origin, tree)
        good = note if note is not None and is_whole and any(note.is_by_home(each, verify) for each in own) else None
        sentence = f"{CHECKPOINT} is not of this audit, or not signed by the pipeline's key"
        found.check("checkpoint of the whole audit, signed by the pipeline's key", sentence, holds=good is not None)
        note = good
    pinned, present = set(witnesses_in(state.hosts or ())), list[Witnessed]()
    for each in witnessed_in(judged.entries, state):
        wrong = list(faults(each, tree, verify))
        if each.seq is not None:
            found.check("checkpoints of witnesses, the newest of each", "; ".join(wrong), holds=not wrong)
        if each.origin == state.origin and each.witness in pinned:
            present.append(replace(each, note=None) if wrong else each)
    found.not_covered += _not_covered(present, state, asked)
    for url, ask in asked.items():
        known = next((each for each in present if each.witness.url.rstrip("/") == url.rstrip("/")), None)
        difference = _difference(url, known, note, tree, ask)
        found.check("witnesses asked to sign every event", difference or "", holds=difference is None)


def _not_covered(present: Sequence[Witnessed], state: AuditState, asked: Mapping[str, Ask]) -> Iterator[str]:
    for each in present:
        if not each.is_signed:
            yield f"whether {each.witness.name} is a witness of this audit: no text that officers have signed names it"
        if each.signed is not None and each.failing is not None:
            yield f"whether this is the history that {each.witness.name} has signed, since {each.failing[1]}"
        if each.size and each.witness.key is None:
            yield (
                f"whether the locked objects in {each.witness.url} say so: the newest one is to be of the first "
                f"{each.size} events, or of {CHECKPOINT}"
            )
        elif each.size and each.witness.url not in asked:
            yield (
                f"what {each.witness.name} has signed after the first {each.size} events, which are as it signed them: "
                f"ask it by --witness {each.witness.url}"
            )
    if not any(each.size for each in present) and not asked:
        yield NEVER_WITNESSED
    yield from (
        f"the {size} events that a witness had signed of {origin}, which officers gave up"
        for origin, size in state.trees.items()
    )


def _difference(
    url: str, known: Witnessed | None, note: SignedCheckpoint | None, tree: EventTree, ask: Ask
) -> str | None:
    """What a witness contradicts; None: it has signed exactly these events, now."""
    if known is None or known.witness.key is None or not known.is_signed:
        return f"{url} is not a witness that officers have signed for this audit"
    if note is None:
        return f"{url} cannot be asked, as the pack has no good {CHECKPOINT}"
    name = known.witness.name
    try:
        ask(known.witness, note, tree, known.size)
    except WitnessConflictError as error:
        if error.signed > tree.size:
            return (
                f"{name} has signed {error.signed} events of this audit, and the pack has {tree.size}: it is "
                "older, or was cut; have a new one made"
            )
        return f"{name} has signed {error.signed} events that are not the first of this pack: it was rewritten"
    except WitnessError as error:
        return str(error).partition(";")[0]
    return None
