"""Opens the members of a fleet, each of them only where officers have signed it to be."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.fleet.environment import FleetEnvironment
from keyrotation_pipeline.adapters.fleet.inventory import FleetInventory
from keyrotation_pipeline.adapters.fleet.members import Members, OwnTables, naming
from keyrotation_pipeline.adapters.fleet.retirement import FleetEvidence, FleetFencing
from keyrotation_pipeline.adapters.fleet.rewriting import FleetRewriting
from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, WorkerSettings
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.inventory.relations import require_declared
from keyrotation_pipeline.adapters.postgres.ledger.mirror import Mirror, adopt
from keyrotation_pipeline.adapters.postgres.ledger.schema import require_migrated
from keyrotation_pipeline.adapters.postgres.member import PostgresMember, connect_at, environment_of
from keyrotation_pipeline.adapters.postgres.preflight.postgres_environment import PostgresEnvironment
from keyrotation_pipeline.adapters.postgres.retirement.postgres_retirement import PostgresEvidence, PostgresFencing
from keyrotation_pipeline.adapters.postgres.retirement.replicas import Replicas
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect, display_name, opening
from keyrotation_pipeline.audit.event_signatures import VouchedEvents
from keyrotation_pipeline.errors import (
    ApprovalError,
    DatabaseUnavailableError,
    KeyRotationError,
    MemberUnavailableError,
    PreflightError,
)
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.model.environment import DatabaseServer
from keyrotation_pipeline.model.members import (
    MemberRule,
    member_line,
    members_among,
    not_examined,
    place_by_rule,
    rules_among,
    same_database,
)
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.database import DatabasePorts
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.settings import MemberSettings, Settings
from keyrotation_pipeline.settings.loading import postgres_options
from keyrotation_pipeline.settings.recovered import FORMER_AUDIT


@dataclass(frozen=True)
class Parts:
    """What the ports of each database are made of.

    Args:
        ring: reads every key of the key store.
        vouched: says by whose signatures events count now.
    """

    settings: Settings
    limits: Limits
    workers: WorkerSettings
    ring: Callable[[], KeyRing]
    vouched: Callable[[], VouchedEvents]

    def ports(
        self, further: Callable[[], Connection], connection: Connection, environment: PostgresEnvironment, member: str
    ) -> DatabasePorts:
        """The ports of one database, behind a connection to it; `further` opens more, also in other processes."""
        keys, tables = CurrentKeys(further, self.ring, self.limits), tables_of(self.settings, member)
        return DatabasePorts(
            inventory=PostgresInventory(connection, self.limits.duty_cycle, keys, tables),
            rewriting=PostgresRewriting(connection, further, self.limits, self.workers, self.vouched),
            fencing=PostgresFencing(connection, keys),
            evidence=PostgresEvidence(connection, environment.replicas, keys),
            environment=environment,
        )


def tables_of(settings: Settings, member: str = "") -> tuple[EncryptedTable, ...]:
    """The declared tables of one database; without a name, of the home's own."""
    return tuple(each for each in settings.tables_in([member], own=not member) if each.name.database == member)


def members_of(settings: Settings, hosts: Collection[str] | None) -> tuple[str, ...]:
    """The members that a configuration names, and those that joined by one of its rules, in order of name.

    Args:
        hosts: as officers signed them last, or a rule since.
    """
    joined = (name for name in members_among(tuple(hosts or ())) if is_by_rule(settings, name))
    return tuple(sorted({*settings.named_members, *joined}))


def is_by_rule(settings: Settings, member: str) -> bool:
    """Whether a database has no entry of its own in `[[databases]]`, but a rule that covers it."""
    entry = settings.entry_of(member)
    return entry is not None and entry.rule is not None


def over_members(lead: DatabasePorts, members: Members, own: OwnTables) -> DatabasePorts:
    """The ports of all databases as those of one."""
    return (
        DatabasePorts(
            inventory=FleetInventory(members),
            rewriting=FleetRewriting(members),
            fencing=FleetFencing(members),
            evidence=FleetEvidence(members, own),
            environment=FleetEnvironment(members),
        )
        if members.open
        else lead
    )


# Of a member that officers have not signed yet, where it does not answer.
UNKNOWN_PLACE = "an unknown place"


@dataclass(frozen=True)
class SignedPlaces:
    """Where the members are that a configuration names, and where officers have signed them to be."""

    settings: Settings
    ledger: Ledger

    def lines(self, own: str, *, asked: bool) -> Sequence[str]:
        """The members among the hosts: where each is, or as signed, where it is not asked or does not answer.

        Args:
            own: the place of the home's own database.

        Raises:
            KeyRotationError: a new one does not answer, or cannot be used, or is another one by a second name, whose
                place is to be signed or pinned now.
        """
        signed = self._signed() if self.settings.databases else {}
        failed, found = dict[str, KeyRotationError](), list[str]()
        for each in self.settings.databases:
            try:
                found += self._lines_of(each, signed or {}, asked=asked)
            except KeyRotationError as error:
                failed[each.name] = error
                found.append(member_line(each.name, UNKNOWN_PLACE))
        if asked or signed is None:
            require_all(failed)
            if (sentence := same_database(own, found, signed or {})) is not None:
                raise PreflightError(sentence)
        return found

    def _lines_of(self, entry: MemberSettings, signed: Mapping[str, str], *, asked: bool) -> Iterator[str]:
        name = entry.name
        if entry.rule is not None:
            yield from self._lines_of_rule(entry, entry.rule, asked=asked)
        elif not asked and name in signed:
            yield member_line(name, signed[name])
        else:
            try:
                with naming(name), closing(connect(url := self.url(name))) as connection:
                    place = self.place(name, url, connection)
            except DatabaseUnavailableError:
                if name not in signed:
                    raise
                place = signed[name]
            yield member_line(name, place)

    def _lines_of_rule(self, entry: MemberSettings, rule: MemberRule, *, asked: bool) -> Iterator[str]:
        """A rule on the server where it was signed to be, or is; and each member by it, which is on the same."""
        known = rules_among(self.ledger.replayed().hosts or ()).get(entry.name)
        try:
            place = known if known is not None and not asked else self._anywhere(entry)
        except DatabaseUnavailableError:
            if known is None:
                raise
            place = known
        yield member_line(entry.name, by_rule := rule.place(place))
        for name in members_of(self.settings, self.ledger.replayed().hosts):
            if self.settings.entry_of(name) is entry and (own := place_by_rule(name, by_rule)) is not None:
                yield member_line(name, own)

    def _anywhere(self, entry: MemberSettings) -> str:
        """The place of any database of a rule's server."""
        url = self._with_schema(entry.url.get_secret_value())
        with naming(entry.name), closing(connect(url)) as connection:
            return self.place(entry.name, url, connection)

    def url(self, name: str) -> str:
        """The connection string of a member, with the schema of the home; a rule's leads to another database."""
        entry = self.settings.entry_of(name)
        if entry is None:
            raise PreflightError(f"[[databases]] has no {name}; add it, or have it signed away by a policy")
        url = entry.url.get_secret_value()
        if entry.rule is not None:
            display_name(url, f"[[databases]] {entry.name} url")
            url = make_conninfo(url, dbname=name)
        return self._with_schema(url)

    def _with_schema(self, url: str) -> str:
        return with_schema(url, self.settings.database.schema_name, postgres_options())

    def environment(self, name: str, url: str, connection: Connection) -> PostgresEnvironment:
        """The server around a member."""
        replicas = Replicas((), self.settings.database.gone_replicas, name)
        return environment_of(url, connection, replicas, self.settings.format.value_format)

    def place(self, name: str, url: str, connection: Connection) -> str:
        """Where a connection leads."""
        place = self.environment(name, url, connection).identity().place
        if ";" in place:
            raise PreflightError(f"{place!r} has a semicolon, which no signed text could name; rename that database")
        return place

    def require_signed(self, name: str, url: str, connection: Connection) -> None:
        """Refuses a member that is not where officers have signed it to be; before `init` has pinned any, none is."""
        signed, place = self._signed(), self.place(name, url, connection)
        if signed is None or signed.get(name) == place:
            return
        known = f"officers have signed {signed[name]}" if name in signed else "no officers have signed that it is one"
        raise ApprovalError(
            f"[[databases]] {name} is {place}, and {known}, so nothing is read or written there; correct its url, "
            "or sign `keyrotation policy --reason TEXT`, then run `keyrotation init`"
        )

    def require_covered(self, name: str, url: str, connection: Connection) -> str:
        """Refuses a database that no rule covers which officers have signed; returns its place."""
        rules, place = rules_among(self.ledger.replayed().hosts or ()), self.place(name, url, connection)
        if not any(place_by_rule(name, each) == place for each in rules.values()):
            raise ApprovalError(
                f"it is {place}, which no rule covers that officers have signed, so nothing is read or written there; "
                "correct [[databases]], or have it signed with `keyrotation policy --reason TEXT`"
            )
        return place

    def require_unmoved(self, name: str, server: DatabaseServer) -> None:
        """Refuses a member that runs elsewhere than when the walk that is under way was requested."""
        if (known := self.ledger.replayed().left(name)) not in {None, server}:
            raise PreflightError(
                f"it runs on {server}, and the walk under way was requested on {known}, so this is a failover or "
                "a copy; run `keyrotation reconcile`"
            )

    def _signed(self) -> Mapping[str, str] | None:
        hosts = self.ledger.replayed().hosts
        return None if hosts is None else members_among(hosts)


def adopt_members(
    settings: Settings, pipeline: Pipeline, migrate: Callable[[str], None], *, tries_keys: bool
) -> Mapping[str, KeyRotationError]:
    """Makes the schema in each member, which says from then on whose it is; repeating it changes nothing.

    Args:
        tries_keys: keys may be tried on the values of each, so that none may be missing: raises why.

    Returns:
        Why it could not, by name, while it did in the others: officers have not signed the place, it does not answer,
        is another home's member, or a home itself, or has none of its declared tables.
    """
    places, home = SignedPlaces(settings, pipeline.ledger), pipeline.ledger.replayed().home
    failed = dict[str, KeyRotationError]()
    for name in pipeline.members:
        try:
            with naming(name), closing(connect(url := places.url(name))) as connection:
                places.require_signed(name, url, connection)
                require_declared(connection, tables_of(settings, name))
                migrate(url)
                adopt(connection, known_home(home), name, pipeline.environment.identity().name)
        except KeyRotationError as error:
            failed[name] = error
    if tries_keys:
        require_all(failed)
    return failed


def require_all(failed: Mapping[str, KeyRotationError]) -> None:
    """Raises what kept databases from being examined; of several, MemberUnavailableError that names them."""
    if len(failed) > 1:
        raise MemberUnavailableError(not_examined({name: str(error) for name, error in failed.items()}))
    for error in failed.values():
        raise error


@dataclass(frozen=True)
class MemberOpener:
    """The members that a configuration names, to be opened.

    Args:
        url: of the home's own database, where requests are paused and paced.
        connection: to it.
        compared: see `Mirror`; it outlives connections to members.
    """

    parts: Parts
    url: str
    connection: Connection
    places: SignedPlaces
    compared: dict[str, AuditHead] = field(default_factory=dict)

    def members(self, lead: DatabasePorts, names: Sequence[str]) -> Members:
        """Each of these, to be opened when it is needed."""
        return Members(lead, {name: partial(self._opened, name) for name in names})

    def _opened(self, name: str) -> PostgresMember:
        url = self.places.url(name)
        with opening(url) as connection:
            self.places.require_signed(name, url, connection)
            require_migrated(connection)
            parts = replace(self.parts, limits=replace(self.parts.limits, ledger=partial(connect, self.url)))
            environment = self.places.environment(name, url, connection)
            further = partial(connect_at, environment.identity().place, url)
            ports = parts.ports(further, connection, environment, name)
            ledger, kept = self.places.ledger, BackupDirectory(self.parts.settings.home / FORMER_AUDIT)
            home = known_home(ledger.replayed().home)
            left = partial(_left, ledger, name)
            mirror = Mirror(connection, self.connection, home, name, left, kept.write, self.compared)
            return PostgresMember(connection, ports, mirror, partial(self.places.require_unmoved, name))


def _left(ledger: Ledger, member: str) -> Collection[AuditHead]:
    return ledger.replayed().set_aside.get(member, ())


def known_home(home: str | None) -> str:
    """Refuses a home without an id, by PreflightError."""
    if home is None:
        raise PreflightError("this home has no id yet, and so no members; run `keyrotation init`")
    return home
