"""Where the wrapping key comes from, as its KMS or token said it whenever a pre-flight asked."""

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.fieldcrypto.wrapping_keys import Origin, WrappingKeyState
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.key_events import WrappingKeyDescribed
from keyrotation_pipeline.model.keys import WrappingKeyOrigin
from keyrotation_pipeline.ports.pipeline import Pipeline


def record_origin(pipeline: Pipeline) -> None:
    """Records the origin of the wrapping key, as it was told within the last minute; nothing where it was not."""
    state = pipeline.keys.wrapping_key()
    if state is not None and (origin := state.origin) is not None:
        pipeline.ledger.append(WrappingKeyDescribed(pipeline.keys.sealed_by, origin.said, origin.exposed))


def origin_of(pipeline: Pipeline, state: WrappingKeyState | None) -> WrappingKeyOrigin | None:
    """Returns the origin of the wrapping key, as it says now, else as it was recorded last; None: nothing is known.

    Args:
        state: as it was found now; None: there is no such key.
    """
    if state is None:
        return None
    name = pipeline.keys.sealed_by
    if state.origin is not None:
        return WrappingKeyOrigin(name, state.origin, pipeline.clock.now())
    for entry in reversed(list(entries(pipeline.ledger, EventKind.WRAPPING_KEY_DESCRIBED))):
        fact = entry.fact()
        if isinstance(fact, WrappingKeyDescribed) and fact.wrapping_key == name:
            return WrappingKeyOrigin(name, Origin(fact.origin, fact.exposed), entry.at)
    return None
