"""Decides what the application's own list of keys holds, where a key store delivers one.

An application with a library of its own reads ``new,old`` under a name of its own: the first key encrypts, or the last,
as the library has it. The list is derived from the store's other entries, so it changes in the same write as they do.
People may have put keys there, too: one that the store does not know stays, farthest from the key that encrypts, since
values may be under it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import BARE_KEYS, KeyNotation
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry, StoredKeys

Live = Mapping[KeyVersion, KeyEntry]


@dataclass(frozen=True, slots=True)
class KeyList:
    """The list under one name.

    Args:
        name: under which the application reads it.
        place: where it is, for messages.
        notation: of the application's library.
        sealed: the store's keys are, so that none is delivered in a list: `keyrotation exec` makes it on the
            application's host. One from before stays until `keyrotation reseal`.
    """

    name: str
    place: str
    notation: KeyNotation = BARE_KEYS
    sealed: bool = False

    def renewed(self, held: str | None, live: Live, primary: KeyVersion | None, before: StoredKeys) -> str | None:
        """Returns the text that the list must have with these live keys; None: whatever it holds stays as it is.

        It stays where nothing names the primary yet, and where a key is damaged.

        Args:
            held: its present text; None: there is none.
            before: the store before the change; keys that only this holds are removed from the list.

        Raises:
            KeyStoreError: what it holds is something else than a list of keys, or a key under the name of one of ours.
        """
        ours = None if self.sealed else in_order(live, primary)
        if ours is None:
            return None
        try:
            foreign = self._others(held, [*before.materials, *ours])
        except InvalidKeyError as error:
            raise KeyStoreError(
                f"{self.place} holds something else than keys, so no list of keys is written over it ({error}); "
                "correct it, or give [format] keys another name"
            ) from None
        if clashing := sorted({each.name for each in ours} & {each.name for each in foreign} - {""}):
            raise KeyStoreError(
                f"{self.place} holds another key than the key store under the name {clashing[0]}; rename it there, or "
                "remove it when no value is under it"
            )
        try:
            return self.notation.text_of([*ours, *foreign])
        except InvalidKeyError as error:
            raise KeyStoreError(f"{self.place} cannot be written: {error}") from None

    def judged(self, held: str | None, stored: StoredKeys) -> StoredKeys:
        """Returns the stored keys with what is wrong with the list."""
        return replace(stored, undelivered=self._problem(held, stored), foreign=self._foreign(held, stored))

    def _problem(self, held: str | None, stored: StoredKeys) -> str | None:
        """Returns why the application does not get the live keys in this list; None: it gets them."""
        try:
            wanted = self.renewed(held, stored.live, stored.primary, stored)
        except KeyStoreError as error:
            return str(error)
        if wanted is None or wanted == held:
            return None
        return (
            f"{self.place} is {'missing' if held is None else 'not the list of the live keys in their order'}; "
            "find out what changed it, and have it leave that entry alone, then deliver it again with "
            "`keyrotation init`"
        )

    def _foreign(self, held: str | None, stored: StoredKeys) -> str | None:
        """Returns that the list holds keys which the store does not know; None: it holds none."""
        try:
            others = [] if stored.primary is None else self._others(held, stored.materials)
        except InvalidKeyError:
            return None
        if not others:
            return None
        return (
            f"{self.place} ends with {counted(len(others), 'key')} that the key store does not have, and values "
            "under such keys stop every rotation; find out whose they are, and remove them when nothing is under "
            "them"
        )

    def exposed(self, held: str | None, live: Live) -> Iterator[KeyVersion]:
        """Yields the versions of a sealed store that are not sealed in the list, all if it cannot be parsed."""
        if not self.sealed or held is None:
            return
        try:
            listed = {key.fingerprint for key in self.keys(held)}
        except InvalidKeyError:
            yield from live
            return
        for version, key in live.items():
            if not isinstance(key, DamagedKey) and key.fingerprint in listed:
                yield version

    def require_removable(self, held: str | None, stored: StoredKeys) -> None:
        """Refuses to lose a key that the list alone holds.

        Raises:
            KeyStoreError: it holds one, or something that is no key.
        """
        try:
            others = self._others(held, stored.materials)
        except InvalidKeyError as error:
            raise KeyStoreError(f"{self.place} holds something else than keys ({error}); correct it") from None
        if others:
            raise KeyStoreError(
                f"{self.place} holds {counted(len(others), 'key')} that the key store does not have, and a seal "
                "delivers no list; remove such keys when nothing is under them, then run `keyrotation reseal`"
            )

    def problems(self, stored: StoredKeys) -> Iterator[Problem]:
        """Yields that the list holds keys which the store does not know."""
        if stored.foreign is not None:
            yield Problem(stored.foreign, fatal=False, check="application_list_holds_the_stored_keys")

    def keys(self, held: str | None) -> tuple[KeyMaterial, ...]:
        """Returns the keys in the list, in its order, each once: a library may read a list that has one twice.

        Raises:
            InvalidKeyError: something in it is not a key.
        """
        if held is None or not held.strip():
            return ()
        return self.notation.keys_in(held, self.place, repeats=True)

    def _others(self, held: str | None, known: Collection[KeyMaterial]) -> list[KeyMaterial]:
        # By their bytes: the store decides by what name a key of its own is listed.
        fingerprints = {key.fingerprint for key in known}
        return [key for key in self.keys(held) if key.fingerprint not in fingerprints]


def in_order(live: Live, primary: KeyVersion | None) -> list[KeyMaterial] | None:
    """Returns the keys of a list: first the primary, then the others, the newest first; None: it cannot be made."""
    if primary is None or primary not in live:
        return None
    entries = [live[each] for each in (primary, *sorted((each for each in live if each != primary), reverse=True))]
    keys = [entry for entry in entries if not isinstance(entry, DamagedKey)]
    return keys if len(keys) == len(entries) else None
