"""Says what a CHECK refuses of values that name their key by another library's marker."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import NoReturn

from keyrotation_pipeline.errors import PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion


class RefusalsByMarker(ABC):
    """`Refusals` of values that name their key by a marker."""

    def __init__(self, markers: Mapping[KeyVersion, str]) -> None:
        self._markers = markers

    def refusal(self, text: str, versions: Iterable[KeyVersion], *, twins: bool = False) -> str:  # noqa: ARG002
        """See `Refusals.refusal`; a value that names no key is refused, too, since it may be under a retired one."""
        cases = [self._case(text, self._names(text, each), f"key version {each} is retired") for each in versions]
        cases += [self._case(text, condition, "a value must name its key") for condition in self.names_none(text)]
        return f"\nCASE\n{''.join(cases)}    ELSE true\nEND"

    def refusal_in_array(self, array: str, versions: Iterable[KeyVersion]) -> NoReturn:  # noqa: ARG002
        """See `Refusals.refusal_in_array`: the settings let no such place through."""
        raise PreflightError(f"values of this format in elements of the array {array} cannot be fenced; leave it out")

    def versions_refused(self, constraint: str) -> tuple[KeyVersion, ...]:
        """See `Refusals.versions_refused`."""
        named = re.findall(rf"'keyrotation: key version ({VERSION_PATTERN}) is retired'", constraint)
        return tuple(sorted({KeyVersion.parse(each) for each in named}))

    def knows(self, versions: Iterable[KeyVersion]) -> bool:
        """See `Refusals.knows`."""
        return all(version in self._markers for version in versions)

    def names_none(self, text: str) -> list[str]:  # noqa: ARG002
        """Returns whether a value names no key, where some do not."""
        return []

    @abstractmethod
    def names(self, text: str, marker: str) -> str:
        """Returns whether a value names a key."""

    def empty(self, text: str) -> str:
        """Returns a text without characters that depends on the row."""
        return f'"left"({text}, 0)'

    def _names(self, text: str, version: KeyVersion) -> str:
        if version not in self._markers:
            raise ProofError(
                f"the text by which values name the key {version} is not known here; run this step where the key store "
                "is configured"
            )
        return self.names(text, self._markers[version])

    def _case(self, text: str, condition: str, sentence: str) -> str:
        # It must depend on the row: a constant would be cast, and fail, during planning.
        failing = f"(('keyrotation: {sentence}'::text || {self.empty(text)}))::boolean"
        return f"    WHEN {condition} THEN {failing}\n"
