"""The ledger's key versions and pinned roster."""

from keyrotation_pipeline.adapters.postgres.ledger.believed import BelievedRows
from keyrotation_pipeline.adapters.postgres.ledger.rows import jsonb, key_of, roster_of
from keyrotation_pipeline.errors import ApprovalError, KeyStoreError, OutOfOrderError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyReplaced, KeyStateChanged
from keyrotation_pipeline.model.keys import ALLOWED_TRANSITIONS, KeyRecord, KeyState
from keyrotation_pipeline.model.request_events import RosterPinned

_KEYS = "SELECT version, state, fingerprint, created_at FROM keyrotation.key_versions"


class KeyRecords(BelievedRows):
    """What the ledger knows of keys, and of who may approve."""

    def pinned_roster(self) -> Roster | None:
        """See `Ledger.pinned_roster`."""
        newest = "SELECT required, officers, recipients FROM keyrotation.rosters ORDER BY id DESC LIMIT 1"

        def read() -> Roster | None:
            rows = self.query(newest)
            return roster_of(rows[0]) if rows else None

        return self.believed(read, lambda belief: belief.roster, "the newest row of keyrotation.rosters")

    def pin_roster(self, roster: Roster, request: str | None = None) -> None:
        """See `Ledger.pin_roster`; the same roster again is no change."""
        pinned_now = RosterPinned.of(roster)
        with self.change():
            pinned = self.pinned_roster()
            if pinned == roster:
                return
            if pinned is not None and request is None:
                raise ApprovalError(
                    "another roster of officers and recipients is pinned already; restore them in keyrotation.toml, "
                    "or have the change signed with `keyrotation policy --reason TEXT`"
                )
            self.query(
                "INSERT INTO keyrotation.rosters (pinned_at, required, officers, recipients)"
                " SELECT %s, (f->>'required')::integer, f->'officers', f->'recipients' FROM (SELECT %s AS f) facts",
                (self.clock.now(), jsonb(pinned_now.as_json())),
            )
            self.append(pinned_now, request)

    def keys(self) -> tuple[KeyRecord, ...]:
        """See `Ledger.keys`."""
        return self.believed(
            lambda: tuple(key_of(row) for row in self.query(f"{_KEYS} ORDER BY version")),
            lambda belief: tuple(belief.keys[version] for version in sorted(belief.keys)),
            "a row of keyrotation.key_versions",
        )

    def add_key(self, record: KeyRecord, request: str | None) -> None:
        """See `Ledger.add_key`."""
        with self.change():
            if (known := self._key(record.version)) is not None:
                if known.fingerprint == record.fingerprint:
                    return
                raise KeyStoreError(
                    f"{record.version} is registered with the fingerprint {known.fingerprint[:16]}, but the key at hand"
                    f" has {record.fingerprint[:16]}; restore the registered key to the key store"
                )
            self.query(
                "INSERT INTO keyrotation.key_versions (version, state, fingerprint, created_at, state_changed_at)"
                " VALUES (%s, %s, %s, %s, %s)",
                (record.version.number, str(record.state), record.fingerprint, record.created_at, self.clock.now()),
            )
            self.append(KeyRegistered.of(record), request)

    def replace_key(self, version: KeyVersion, fingerprint: str, request: str) -> None:
        """See `Ledger.replace_key`.

        Raises:
            RequestError: the version is not registered.
        """
        with self.change():
            record = self._key(version)
            if record is None:
                raise RequestError(f"key version {version} is not registered; run `keyrotation init`")
            if record.fingerprint == fingerprint:
                return
            self.query(
                "UPDATE keyrotation.key_versions SET fingerprint = %s WHERE version = %s",
                (fingerprint, version.number),
            )
            self.append(KeyReplaced(version, record.fingerprint, fingerprint), request)

    def set_key_state(self, version: KeyVersion, state: KeyState, request: str | None) -> None:
        """See `Ledger.set_key_state`.

        Raises:
            RequestError: the version is not registered.
            OutOfOrderError: the state may not follow the present one, or another version is active.
        """
        with self.change():
            record = self._key(version)
            if record is None:
                raise RequestError(f"key version {version} is not registered; run `keyrotation init`")
            if record.state is state:
                return
            if state not in ALLOWED_TRANSITIONS[record.state]:
                raise OutOfOrderError(
                    f"{version} is {record.state} and cannot become {state}; see `keyrotation status`"
                )
            if state is KeyState.ACTIVE:
                self._require_none_active()
            self.query(
                "UPDATE keyrotation.key_versions SET state = %s, state_changed_at = %s WHERE version = %s",
                (str(state), self.clock.now(), version.number),
            )
            self.append(KeyStateChanged(version, record.state, state, record.fingerprint), request)

    def _key(self, version: KeyVersion) -> KeyRecord | None:
        return next((record for record in self.keys() if record.version == version), None)

    def _require_none_active(self) -> None:
        for record in self.keys():
            if record.state is KeyState.ACTIVE:
                raise OutOfOrderError(f"{record.version} is still active; it must be deactivated first")
