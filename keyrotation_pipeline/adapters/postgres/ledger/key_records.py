"""The ledger's key versions and pinned roster."""

from collections.abc import Sequence

from keyrotation_pipeline.adapters.postgres.ledger.chain import AuditChain
from keyrotation_pipeline.errors import ApprovalError, KeyStoreError, OutOfOrderError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster, RosterChange
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyReplaced, KeyStateChanged
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, KeyRecord, KeyState, other_generation
from keyrotation_pipeline.model.request_events import RosterPinned


class KeyRecords(AuditChain):
    """The part of the ledger on keys, and on who may approve."""

    def pinned_roster(self) -> Roster | None:
        """See `Ledger.pinned_roster`."""
        return self.replayed().roster

    def pin_roster(self, roster: Roster, request: str | None = None, changes: Sequence[RosterChange] = ()) -> None:
        """See `Ledger.pin_roster`; pinning the same roster again changes nothing."""
        with self.change():
            pinned = self.pinned_roster()
            if pinned == roster:
                return
            if pinned is not None and request is None:
                raise ApprovalError(
                    "another roster of officers and recipients is pinned already; restore them in keyrotation.toml, "
                    "or have the change signed with `keyrotation policy --reason TEXT`"
                )
            self.append(RosterPinned.of(roster, changes), request)

    def keys(self) -> tuple[KeyRecord, ...]:
        """See `Ledger.keys`."""
        return tuple(record for _, record in sorted(self.replayed().keys.items()))

    def add_key(self, record: KeyRecord, request: str | None) -> None:
        """See `Ledger.add_key`."""
        with self.change():
            known = self.replayed().keys.get(record.version)
            if known is None:
                self._require_one_generation(record.version, record.fingerprint)
                self.append(KeyRegistered.of(record), request)
            elif known.fingerprint != record.fingerprint:
                raise KeyStoreError(
                    f"{record.version} is registered with the fingerprint {known.fingerprint[:16]}, but this key"
                    f" has {record.fingerprint[:16]}; restore the registered key to the key store"
                )

    def replace_key(self, version: KeyVersion, fingerprint: str, request: str) -> None:
        """See `Ledger.replace_key`.

        Raises:
            RequestError: the version is not registered.
        """
        with self.change():
            record = self._key(version)
            if record.fingerprint != fingerprint:
                self._require_one_generation(version, fingerprint)
                self.append(KeyReplaced(version, record.fingerprint, fingerprint), request)

    def set_key_state(self, version: KeyVersion, state: KeyState, request: str | None) -> None:
        """See `Ledger.set_key_state`.

        Raises:
            RequestError: the version is not registered.
            OutOfOrderError: the state may not follow the present one, or another version is active.
        """
        with self.change():
            record = self._key(version)
            if record.state is state:
                return
            if state not in ALLOWED_TRANSITIONS[record.state]:
                raise OutOfOrderError(
                    f"{version} is {record.state} and cannot become {state}; see `keyrotation status`"
                )
            if state is KeyState.ACTIVE:
                self._require_none_active()
            self.append(KeyStateChanged(version, record.state, state, record.fingerprint), request)

    def _key(self, version: KeyVersion) -> KeyRecord:
        record = self.replayed().keys.get(version)
        if record is None:
            raise RequestError(f"key version {version} is not registered; run `keyrotation init`")
        return record

    def _require_one_generation(self, version: KeyVersion, fingerprint: str) -> None:
        if other := other_generation(version, fingerprint, self.keys()):
            raise KeyStoreError(
                f"{version} has the number or the key of {other}, and one key never serves both generations of the "
                f"format; leave {version} out, and let a rotation make a new key"
            )

    def _require_none_active(self) -> None:
        for record in self.keys():
            if record.state is KeyState.ACTIVE:
                raise OutOfOrderError(f"{record.version} is still active; it must be deactivated first")
