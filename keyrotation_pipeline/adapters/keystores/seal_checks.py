"""What stands against sealing the keys of a store, as its pre-flight says it."""

from collections.abc import Iterable, Iterator

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.seal import Seal
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import not_sealed

_USABLE, _SEALED = "wrapping_key_is_usable", "stored_keys_are_sealed"
_NOWHERE_ELSE = "wrapping_key_is_nowhere_else"


def seal_problems(seal: Seal, unsealed: Iterable[KeyVersion]) -> Iterator[Problem]:
    """Yields what is wrong with the wrapping key, and which keys are not under it.

    Args:
        unsealed: versions that are stored otherwise.
    """
    for message in seal.problems():
        yield Problem(message, fatal=True, check=_USABLE)
    state = seal.state()
    if state is not None and state.origin is not None and state.origin.exposed:
        message = f"{seal.name} is {state.origin.warning}; keep every copy as safe as the keys that it opens"
        yield Problem(message, fatal=False, check=_NOWHERE_ELSE)
    if (sentence := not_sealed(unsealed, seal.name)) is not None:
        yield Problem(sentence, fatal=True, check=_SEALED)
