"""From settings to the ports of a rotation, opened; and the actions that a request may ask for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from keyrotation_pipeline.adapters.backups.anchors import ROSTER, FileAnchors, advance_head, kept_heads, stored_head
from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.locked_checkpoints import LockedCheckpoints
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey, verifies
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.fleet.answers import FleetQuestions
from keyrotation_pipeline.adapters.home_files import FileCheckpoints
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, WorkerSettings
from keyrotation_pipeline.adapters.postgres.inventory.relations import require_declared
from keyrotation_pipeline.adapters.postgres.ledger.mirror import require_no_mirror
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.ledger.schema import (
    REVISIONS,
    other_schema_of,
    require_migrated,
    revision_of,
)
from keyrotation_pipeline.adapters.postgres.member import PostgresOwnTables
from keyrotation_pipeline.adapters.postgres.preflight.postgres_environment import PostgresEnvironment
from keyrotation_pipeline.adapters.postgres.retirement.replicas import Replicas
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect, opening, require_same_time
from keyrotation_pipeline.adapters.process import harden_process
from keyrotation_pipeline.adapters.rfc3161 import Rfc3161Authority
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.adapters.rollouts.templates import Fleet, Workload
from keyrotation_pipeline.adapters.witness_http import TlogWitness
from keyrotation_pipeline.assembly.fleet import (
    MemberOpener,
    Parts,
    SignedPlaces,
    adopt_members,
    members_of,
    over_members,
    require_all,
    tables_of,
)
from keyrotation_pipeline.assembly.home import EMBEDDED, create_home, database_url, heartbeat_store, require_home
from keyrotation_pipeline.assembly.keystores import (
    backup_vault,
    convert_key_store,
    create_key_store,
    every_key,
    open_key_store,
    opened_bucket,
    signing_key,
    wipe_leftovers,
    withhold_modules,
)
from keyrotation_pipeline.assembly.listed_members import join_listed, listing
from keyrotation_pipeline.audit.divergence import divergence
from keyrotation_pipeline.audit.event_signatures import VouchedEvents
from keyrotation_pipeline.audit.store_owner import OwnedKeyStore, require_not_of_others
from keyrotation_pipeline.audit.verify import require_verified
from keyrotation_pipeline.backups.destruction import DESTROY
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import AuditError, HomeError, KeyRotationError, WrongKeyError
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.server import server_at
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.model.key_trial import KeyTrial, PlaceOf
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.page_reading import Verification
from keyrotation_pipeline.model.progress import Pace
from keyrotation_pipeline.model.requests import RequestAction
from keyrotation_pipeline.model.witnesses import Witness
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.pipeline import Action, Pipeline
from keyrotation_pipeline.ports.rollout import Rollout
from keyrotation_pipeline.ports.witnesses import CheckpointWitness
from keyrotation_pipeline.requests.canary import offer_canary
from keyrotation_pipeline.requests.inventory import count_if_small
from keyrotation_pipeline.requests.opening import note_server
from keyrotation_pipeline.requests.policy import (
    POLICY,
    pin_hosts,
    require_signed_key_store,
    signed_hosts,
    unsigned_key_store,
)
from keyrotation_pipeline.requests.roster import (
    claim_store,
    name_home,
    pinned_roster,
    require_known_to_store,
    require_usable,
)
from keyrotation_pipeline.rotation import keys
from keyrotation_pipeline.rotation.key_checks import (
    MOST_NAMED,
    counted_in,
    misdeclared,
    probed,
    refusal,
    try_keys,
    undetermined_turns,
    with_sources,
)
from keyrotation_pipeline.rotation.reconcile import RECONCILE
from keyrotation_pipeline.rotation.replace_key import REPLACE_KEY
from keyrotation_pipeline.rotation.rollback import DECRYPT, ROLLBACK
from keyrotation_pipeline.rotation.rotate import ROTATE
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.hosts import checkpoints_in, hosts_of, secrets_of, transit_line, witnesses_of
from keyrotation_pipeline.settings.loading import bare_environment
from keyrotation_pipeline.settings.secrets import require_no_keys

ACTIONS: Mapping[RequestAction, Action[Pipeline]] = {
    each.name: each for each in (ROTATE, ROLLBACK, DECRYPT, RECONCILE, DESTROY, POLICY, REPLACE_KEY)
}


def open_rollout(settings: Settings, connection: Connection, keys: KeyStore, clock: Clock) -> Rollout:
    """Returns the rollout of `[rollout]`; connects to no cluster yet."""
    declared, secret = settings.rollout, settings.keys.kubernetes
    reported = ReportedInstances(
        connection, keys, declared.mode, declared.instance_ttl_seconds, declared.timeout_seconds, clock
    )
    if not declared.workloads or secret is None:
        return reported
    from keyrotation_pipeline.adapters.cluster import Access, Cluster  # noqa: PLC0415  takes a second to import
    from keyrotation_pipeline.adapters.rollouts.kubernetes import KubernetesRollout  # noqa: PLC0415

    workloads = tuple(Workload(each.kind, each.name, each.container) for each in declared.workloads)
    fleet = Fleet(secret.namespace, secret.name, workloads, settings.delivered_variable)
    cluster = Cluster(Access(secret.kubeconfig, secret.context), clock)
    return KubernetesRollout(cluster, fleet, keys, reported, declared.timeout_seconds, clock)


@contextmanager
def open_pipeline(settings: Settings, *, actor: str, asks_members: bool = False) -> Iterator[Pipeline]:
    """Yields every port, opened on the configured database; members of a fleet are opened when they are needed.

    Args:
        actor: the name of whoever acts, for the audit.
        asks_members: whether each member is asked at once where it is, since that is to be signed.

    Raises:
        HomeError: there is no home yet.
        DatabaseUnavailableError: the database does not answer.
        PreflightError: none of the declared tables is there, or the schema `keyrotation` is missing or of another
            version.
        ConfigurationError: a setting holds a key.
    """
    harden_process()
    require_home(settings.home)
    wipe_leftovers(settings)
    with database_url(settings) as url, ExitStack() as opened:
        with opening(url) as connection:
            _require_declared(settings, connection)
            require_migrated(connection)
            require_no_mirror(connection)
            require_same_time(connection, SystemClock())
            pipeline = _assemble(settings, url, connection, actor, opened, asks_members=asks_members)
            registered = pipeline.ledger.keys()
            require_no_keys(settings, {each.fingerprint for each in registered})
            _withhold_token(settings, pipeline)
            # As this audit says, also where it is behind, or another's: to reconcile it, keys must open.
            withhold_modules(settings, pipeline.ledger.replayed().hosts)
        with closing(connection):
            yield pipeline


def _withhold_token(settings: Settings, pipeline: Pipeline) -> None:
    """Has nothing sent to a transit engine, with its token, on a host that officers have not signed."""
    if settings.format.held_at is None:
        return
    signed, line = signed_hosts(pipeline), transit_line(settings.format.held_at)
    server_at(settings.format.held_at).withheld = (
        None
        if signed is None or line in signed
        else (
            f"officers have not signed {line}, so nothing is sent to it; restore [format] transit in "
            "keyrotation.toml, or have the change signed with `keyrotation policy --reason TEXT`"
        )
    )


def withhold_unsigned(settings: Settings, *, actor: str) -> None:
    """Has `init` use no transit engine and no module that officers have not signed, if the home knows any officers."""
    seal = settings.keys.seal
    is_asked = settings.format.held_at is not None or (seal is not None and seal.module is not None)
    if is_asked and (settings.home / "anchors" / ROSTER).is_file():
        with open_pipeline(settings, actor=actor):
            pass


def initialise(
    settings: Settings,
    ring: KeyRing | None,
    *,
    actor: str,
    place_of: PlaceOf | None = None,
    convert: bool = False,
    sources: Mapping[str, SourceKey] | None = None,
) -> KeyTrial | None:
    """Creates what a home and a database need before the first rotation; repeating it changes nothing.

    In this order: home, key store, the schema `keyrotation`, the pinned roster, the home's id, the key store's owner,
    the existing keys, and the hosts. A schema of an
    earlier release is upgraded once everything that its audit records was read and verified. A key is imported only
    when its backup can be encrypted to known recipients, and when it decrypts the values under its version.

    Args:
        ring: the keys in use today; None imports none.
        place_of: names the place where the key of a version was given; None: the key store.
        convert: convert one plain key in AWS to the versioned form.
        sources: the one key of each library that columns come from, by the name of its variable.

    Returns:
        The result of trying the keys; None where there are none.

    Raises:
        ApprovalError: the configured roster is wrong, or differs from the pinned one; or the keys would go to a host
            that officers have not signed.
        WrongKeyError: values cannot be decrypted with the key of their version, or it is missing; no key was imported.
        KeyStoreError: another key is registered or stored under one of the versions; or the key store is another
            home's.
        PreflightError, BlockedError: a declared table does not exist, or cannot be read; nothing was created where
            none of them exists. Or the schema is of a version that this one does not continue.
        AuditError: the audit of an earlier release does not verify; nothing was changed.
        HomeError: the records of this home are in another schema; nothing was changed.
        KeyRotationError: a member of a fleet could not be examined; everything else was done, unless keys are given.
    """
    # Alembic and SQLAlchemy take as long to import as everything else together, and no other command needs them.
    from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate  # noqa: PLC0415

    if ring is not None:  # before any of them is registered
        require_no_keys(settings, {ring.material(version).fingerprint for version in ring.versions})
    _require_restored(settings)
    _require_same_schema(settings)
    _is_of_earlier_release(settings, actor)  # raises where it cannot be continued
    create_home(settings.home)
    create_key_store(settings)
    signing_key(settings).create()
    with database_url(settings) as url:
        migrate(url)
        with open_pipeline(settings, actor=actor) as pipeline:
            if pipeline.ledger.pinned_roster() is None:
                require_known_to_store(pipeline.keys, pipeline.signatures.roster())
                require_usable(pipeline.signatures, pipeline.signatures.roster())
            pipeline.ledger.pin_roster(pipeline.signatures.roster())
            name_home(pipeline)
            failed = adopt_members(settings, pipeline, migrate, tries_keys=ring is not None or bool(sources))
            ManifestTrust(signing_key(settings), pipeline.ledger, pipeline.signatures, pipeline.clock).pin()
            pinned_roster(pipeline)  # which also stores it in the home
            require_not_of_others(stored := pipeline.keys.read(), pipeline.ledger.replayed())
            trial = None
            if ring is None:
                stored = claim_store(pipeline, stored, tried=not stored.versions)
                begins = _begins_without_key(pipeline, stored)
                if begins or (sources and stored.primary == PLAINTEXT):
                    require_signed_key_store(pipeline)
                    _require_sources_open(pipeline, stored, sources or {})
                    if begins:
                        pipeline.keys.set_primary(PLAINTEXT, stored.revision)
                    keys.import_sources(pipeline, sources or {})
                    pin_hosts(pipeline)
            else:
                require_signed_key_store(pipeline)
                trial = _tried(pipeline, ring, sources or {}, place_of or pipeline.keys.place_of)
                if convert:
                    convert_key_store(settings, ring)
                claim_store(pipeline, keys.require_importable(pipeline, ring), tried=True)
                keys.import_keys(pipeline, ring)
                keys.import_sources(pipeline, sources or {})
                # Not before: what a failing `init` would pin takes two signatures to correct.
                pin_hosts(pipeline)
            if pipeline.members:
                note_server(pipeline)
            if unsigned_key_store(pipeline) is None:
                offer_canary(pipeline.keys, pipeline.keys.read())
            if settings.activated_at is not None:
                keys.declare_activation(pipeline, settings.activated_at)
        require_all({**failed, **_join_listed(settings, actor, migrate)})
    return trial


def _join_listed(settings: Settings, actor: str, migrate: Callable[[str], None]) -> Mapping[str, KeyRotationError]:
    """Not before the rules are pinned that cover them; the pipeline of before lacks their tables."""
    if not settings.rules:
        return {}
    with open_pipeline(settings, actor=actor) as pipeline:
        return join_listed(settings, pipeline, migrate)


def _begins_without_key(pipeline: Pipeline, stored: StoredKeys) -> bool:
    """Returns whether there has never been a key, and every column holds plaintext or comes from a library."""
    begun = all(set(table.columns) == set(table.begun) for table in pipeline.tables)
    known = stored.versions or pipeline.ledger.keys()
    return begun and bool(pipeline.tables) and not known and stored.primary in {None, PLAINTEXT}


def _require_sources_open(pipeline: Pipeline, stored: StoredKeys, sources: Mapping[str, SourceKey]) -> None:
    """Refuses columns of a library whose values no imported key opens, and none of these, in a home without a key."""
    ring = with_sources(KeyRing(dict(stored.sources.values()), PLAINTEXT), sources)
    if misfits := [each.refusal for each in probed(pipeline, ring) if each.refusal]:
        raise WrongKeyError(
            f"{'; '.join(misfits[:MOST_NAMED])}; nothing was imported: then run `keyrotation init` again"
        )


def upgrade_restored(settings: Settings, *, actor: str) -> None:
    """Upgrades the schema in a database that was restored from a backup of an earlier release, as `initialise` does.

    Raises:
        As `initialise` does where it does not continue that schema.
    """
    if _is_of_earlier_release(settings, actor):
        from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate  # noqa: PLC0415

        with database_url(settings) as url:
            migrate(url)


def _require_restored(settings: Settings) -> None:
    """Refuses to set anything up over a database that was lost."""
    if settings.is_demo:
        return
    if settings.database.url is None and not settings.home.is_dir():
        raise HomeError(
            f"there is no home {settings.home}, and so no embedded PostgreSQL with the declared tables; begin with "
            "`keyrotation up`, or restore a backup: `keyrotation recover`"
        )
    with database_url(settings) as url, closing(connect(url)) as connection:
        _require_declared(settings, connection)


def _require_same_schema(settings: Settings) -> None:
    """Refuses to begin again in another schema, with the keys of a home whose records are in this database."""
    head = stored_head(settings.home / "anchors") if settings.home.is_dir() else None
    if head is None:
        return
    with database_url(settings) as url, closing(connect(url)) as connection:
        if revision_of(connection) is None and (other := other_schema_of(connection, head)) is not None:
            raise HomeError(
                f'the records of this home are in the schema {other}; write [database] schema = "{other}" '
                "again, or use another folder for another home"
            )


def _is_of_earlier_release(settings: Settings, actor: str) -> bool:
    """Whether the schema is to be upgraded; then all that it says is read and verified first.

    A database that was restored, or renamed, is upgraded, too: only then can it be reconciled.
    """
    if settings.is_demo and not settings.home.is_dir():
        return False  # nor a server yet
    with database_url(settings) as url, closing(connect(url)) as connection, ExitStack() as opened:
        if revision_of(connection) in {None, REVISIONS[-1]}:
            return False
        create_home(settings.home)
        pipeline = _assemble(settings, url, connection, actor, opened)
        try:
            restored = divergence(pipeline, pipeline.keys.read()).unknown
            require_verified(pipeline, afresh=True, but=restored, reconciling=True)
        except AuditError as error:
            raise AuditError(f"the schema was not upgraded, so use the version before: {error}") from None
    return True


def _require_declared(settings: Settings, connection: Connection) -> None:
    if not settings.is_demo:  # which makes its tables later
        require_declared(connection, tables_of(settings))


def _tried(pipeline: Pipeline, ring: KeyRing, sources: Mapping[str, SourceKey], place_of: PlaceOf) -> KeyTrial:
    """Tries the given keys, and those that the store holds in addition, on the values.

    Raises:
        WrongKeyError: names what is wrong with which key, and how to provide it.
    """
    keys.require_as_registered(pipeline.ledger, ring)
    stored = pipeline.keys.read()
    live = {each: key for each, key in stored.live.items() if isinstance(key, KeyMaterial)}
    others = {version: key for version, key in live.items() if version not in ring.versions}
    known = others | {version: ring.material(version) for version in ring.versions}
    known |= dict(stored.sources.values())
    probes = probed(pipeline, with_sources(KeyRing(known, ring.primary), sources), derived=True)
    misfits = [each.refusal for each in probes if each.refusal]
    if misfits := [*misfits, *undetermined_turns(pipeline.tables, KeyRing(known, ring.primary))]:
        raise WrongKeyError(
            f"{'; '.join(misfits[:MOST_NAMED])}; nothing was imported: then run `keyrotation init` again"
        )
    counts = count_if_small(pipeline)
    trial = try_keys(pipeline, KeyRing(known, ring.primary), counted_in(counts))
    if pipeline.ledger.keys() and (message := refusal(pipeline.keys, stored, trial)):
        raise WrongKeyError(message)
    if wrong := trial.wrong_versions:
        places = {each: pipeline.keys.place_of if each in others else place_of for each in wrong[:MOST_NAMED]}
        given = [trial.wrong_key(each, place) for each, place in places.items()]
        raise WrongKeyError(f"{'; '.join(given)}; no key was imported: correct that, then run `keyrotation init` again")
    # Keys that were imported long ago need no refusal here: the pre-flight and each request say it.
    if not pipeline.ledger.keys() and (messages := misdeclared(pipeline, counts, trial)):
        raise WrongKeyError(
            f"{'; '.join(messages[:MOST_NAMED])}; no key was imported: then run `keyrotation init` again"
        )
    return trial


def _vouched(ledger: PostgresLedger) -> VouchedEvents:
    """Returns by whose signatures events count now."""
    state = ledger.replayed()
    return VouchedEvents(state.signed_from, frozenset(state.signers), verifies)


def _authority(settings: Settings, ledger: PostgresLedger) -> Rfc3161Authority | None:
    """Returns the authority; it is not asked while its address is in a place that officers have not signed."""
    audit, places = settings.audit, secrets_of(settings, "audit.timestamp_url ")
    if not audit.timestamp_certificates:
        return None
    asked = audit.timestamp_url is not None and (not places or set(places) <= set(ledger.replayed().hosts or ()))
    url = audit.timestamp_url.get_secret_value() if asked and audit.timestamp_url is not None else None
    return Rfc3161Authority(url, audit.timestamp_certificates)


def _witness(settings: Settings, named: Witness, ledger: PostgresLedger, own: SigningKey) -> CheckpointWitness:
    clock, s3 = SystemClock(), settings.backup.s3
    if named.key is not None or s3 is None:
        return TlogWitness(named, clock.now, verifies)
    folder = s3.model_copy(update={"prefix": checkpoints_in(s3)})
    signers, public = (lambda: ledger.replayed().signers), (lambda: own.public)
    return LockedCheckpoints(named, lambda: opened_bucket(folder, clock), signers, public, verifies)


def _assemble(
    settings: Settings, url: str, connection: Connection, actor: str, opened: ExitStack, *, asks_members: bool = False
) -> Pipeline:
    clock = SystemClock()
    gpg = GnuPG(settings.home / "gnupg", clock)
    speed = settings.reencryption
    limits = Limits(
        workers=speed.workers,
        max_rows_per_second=speed.max_rows_per_second,
        max_replica_lag_seconds=speed.max_replica_lag_seconds,
        delayed_standbys=settings.database.delayed_standbys,
        duty_cycle=speed.duty_cycle,
        hours=settings.allowed_hours,
    )
    ledger: PostgresLedger
    store = open_key_store(settings, lambda: ledger.replayed().home)
    # Workers read the keys themselves; a kubeconfig may call `aws` for its token.
    remote = settings.keys.store != "file" or settings.keys.seal is not None
    held = settings.format.held_at is not None
    variables = bare_environment(settings.path, aws=remote, vault=held)
    workers = WorkerSettings(store, variables)
    standbys = tuple(url.get_secret_value() for url in settings.database.standbys)
    replicas = Replicas(standbys, settings.database.gone_replicas)
    own_server = settings.home / EMBEDDED if settings.database.url is None else None
    declared, has_tables = settings.format.value_format, bool(tables_of(settings))
    environment = PostgresEnvironment(url, connection, replicas, declared, own_server, has_tables)
    officers = [OfficerFiles(each.name, each.certificate, each.ssh_key) for each in settings.approvals.officers]
    identity = str(environment.identity())
    checkpoints = FileCheckpoints(settings.home / "audit-checkpoint", clock)
    signatures = OfficerSignatures(
        gpg,
        officers,
        settings.approvals.required,
        settings.recipients,
        lone_officer_allowed=settings.is_demo,
        verified=settings.home / "verified-signatures.json",
    )
    anchors = settings.home / "anchors"
    verify, advance = signatures.verify_as_of, partial(advance_head, anchors)
    own = signing_key(settings)
    kept = partial(kept_heads, BackupDirectory(anchors), BackupDirectory(settings.backup_directory))
    ledger = PostgresLedger(connection, clock, actor, identity, verify, checkpoints, advance, own, kept)
    trust = ManifestTrust(own, ledger, signatures, clock)
    parts = Parts(settings, limits, workers, partial(every_key, store), partial(_vouched, ledger))
    places = SignedPlaces(settings, ledger)
    opener = MemberOpener(parts, url, connection, places)
    lead = parts.ports(partial(connect, url), connection, environment, "")
    names = members_of(settings, ledger.replayed().hosts if settings.rules else None)
    members = opener.members(lead, names)
    opened.callback(members.close)
    ports = over_members(lead, members, PostgresOwnTables(connection, environment))
    return Pipeline(
        tables=settings.tables_in(names),
        shards=speed.shards,
        parallel_shards=speed.parallel_shards,
        run_minutes=speed.run_minutes,
        listed=partial(listing, settings, ledger, connection),
        ledger=ledger,
        inventory=ports.inventory,
        rewriting=ports.rewriting,
        fencing=ports.fencing,
        evidence=ports.evidence,
        environment=ports.environment,
        keys=OwnedKeyStore(store, ledger, recovery_key_named=settings.recovery.names_a_key),
        vault=backup_vault(settings, ledger, identity, clock, trust),
        rollout=open_rollout(settings, connection, store, clock),
        signatures=signatures,
        clock=clock,
        anchors=FileAnchors(anchors, settings.backup_directory, trust),
        actions=ACTIONS,
        heartbeats=heartbeat_store(settings),
        timestamps=_authority(settings, ledger),
        witnesses=tuple(_witness(settings, each, ledger, own) for each in witnesses_of(settings)),
        sign=own.signed,
        hosts=(*hosts_of(settings), *places.lines(environment.identity().place, asked=asks_members)),
        secrets=settings.secrets,
        backup_signer=trust.own_signer,
        pace=Pace(speed.max_rows_per_second, speed.duty_cycle, settings.allowed_hours),
        verification=Verification(settings.verification.every_days, settings.allowed_hours),
        ask_member=FleetQuestions(members, ledger, clock) if members.open else None,
    )
