"""Checks whether everything is ready for a rotation: each item of the source procedure's checklist that can be a fact.

A red check names what a request is refused for, what would stop its rotation before anything is done, officers of whom
none may be lost, or a recovery key on this machine that can sign. What could not be checked is amber and says so.

Source: the source procedure, section 3 and appendix A.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from keyrotation_pipeline.audit.divergence import require_consistent
from keyrotation_pipeline.audit.store_owner import require_ours
from keyrotation_pipeline.backups.catalog import BackupContext, kept_sets
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.backups.rehearsal import last_rehearsal
from keyrotation_pipeline.errors import KeyRotationError, SigningRecoveryKeyError, WrongKeyError
from keyrotation_pipeline.fieldcrypto.codecs.format import notation_of
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import PLAINTEXT, KeyVersion
from keyrotation_pipeline.model.audit import counted, utc_minute
from keyrotation_pipeline.model.backups import BACKUP_STALE_AFTER
from keyrotation_pipeline.model.fleet import (
    CHOOSES_ITSELF,
    Confirmation,
    Instance,
    RolloutMode,
    RolloutTarget,
    TargetKind,
)
from keyrotation_pipeline.model.key_trial import KeyTrial
from keyrotation_pipeline.model.pending import pending_rollout
from keyrotation_pipeline.model.requests import RotationType, Walk
from keyrotation_pipeline.model.status import Check, Light, Readiness, amber, green, in_two, red, without_repeats
from keyrotation_pipeline.monitoring import data_readiness
from keyrotation_pipeline.monitoring.backup_status import recovery_tests
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.confirming import confirmation_of, is_to_make_key
from keyrotation_pipeline.requests.inventory import Inventory, take_inventory
from keyrotation_pipeline.requests.policy import changed_hosts
from keyrotation_pipeline.requests.roster import pinned_roster, require_roster
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.key_checks import counted_in, probed, refusal, try_keys
from keyrotation_pipeline.rotation.rotate import ROTATE, next_version, present_key, require_backed_up

# The source procedure prepares in the week before.
REHEARSAL_STALE_AFTER = timedelta(days=7)


OpenedKey = Callable[[], AbstractContextManager[RecoveryKey]]


def readiness(
    site: BackupContext, team: Sequence[str] | None = None, recovery_key: OpenedKey | None = None
) -> Readiness:
    """Checks everything. Nothing is changed but the counts, which `status` then shows.

    While a rotation is open, that one is checked; else the one that `request` would open.

    Args:
        team: who gets alerts, each in a few words; None: not checked.
        recovery_key: the key that stays on this machine; None: there is none, or it is not checked.
    """
    pipeline = site.pipeline
    walk = takeover.current_or_next(pipeline)
    taken, trial, unseen = _looked_at_values(pipeline)
    checks = [*_authority(pipeline, walk), *_keys(pipeline, trial), *unseen, *_backups(site)]
    checks += _looked("rotation_was_rehearsed", lambda: [_rehearsal(pipeline)])
    checks += [] if recovery_key is None else [_recovery_key(recovery_key)]
    checks += [] if team is None else [_people(team)]
    target = walk.target if walk is not None else _target(pipeline, taken)
    checks += _looked("instances_read_the_primary", lambda: _fleet(pipeline, walk, target))
    checks += (refused := list(data_readiness.database(pipeline, target)))
    checks += data_readiness.inventory(taken, trial) if taken is not None else []
    checks += _looked("every_place_opens", lambda: _places(pipeline))
    checks += _looked("surroundings_are_known", lambda: data_readiness.around(pipeline))
    checks += _looked("no_fence_is_left_over", lambda: data_readiness.fences(pipeline))
    counts = taken.counts if taken is not None else ()
    checks += _looked("other_formats_are_known", lambda: data_readiness.other_formats(pipeline, counts))
    checks += _looked("key_usage_below_gcm_limit", lambda: data_readiness.usage(pipeline))
    # The sample runs what the server evaluates for a write, so only after the pre-flight found that harmless.
    if taken is not None and not any(check.light is Light.RED for check in refused):
        checks += _looked("duration_is_known", lambda: [data_readiness.estimated(pipeline, target, taken.counts)])
    return Readiness(tuple(checks))


def _places(pipeline: Pipeline) -> Iterator[Check]:
    """Whether the values of each place open in the declared layout, where only that tells."""
    for each in probed(pipeline, pipeline.keys.read().ring()):
        if each.refusal is not None:
            yield red("every_place_opens", *in_two(each.refusal))
        else:
            yield green(
                "every_place_opens", f"{each.table}.{each.column}: {each.opened:,} of {each.tried:,} values tried"
            )


def _looked_at_values(pipeline: Pipeline) -> tuple[Inventory | None, KeyTrial | None, list[Check]]:
    """The inventory, the key trial on its values, and a check for each of the two that failed."""
    try:
        taken = take_inventory(pipeline)
    except KeyRotationError as error:
        return None, None, [_not_seen("values_are_counted", error)]
    try:
        return taken, try_keys(pipeline, pipeline.keys.read().ring(), counted_in(taken.counts)), []
    except KeyRotationError as error:
        return taken, None, [_not_seen("every_value_is_readable", error)]


def _looked(name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    """The checks of one query; where it fails, one that says that nothing was seen."""
    try:
        return list(look())
    except KeyRotationError as error:
        return [_not_seen(name, error)]


def _not_seen(name: str, error: KeyRotationError) -> Check:
    value, do = in_two(str(error))
    return amber(name, f"not seen: {value}", do)


def _refused(name: str, look: Callable[[], str]) -> Check:
    """A check that `request` makes too: red where it refuses."""
    try:
        return green(name, look())
    except KeyRotationError as error:
        return red(name, *in_two(str(error)))


def _authority(pipeline: Pipeline, walk: Walk | None) -> Iterator[Check]:
    def configured() -> str:
        roster = require_roster(pipeline)
        require_ours(stored := pipeline.keys.read(), pipeline.ledger.replayed())
        named = stored.roster == roster.digest
        known = "as the key store names it" if named else "which the key store names from the next change on"
        return f"{roster.required} of {', '.join(officer.name for officer in roster.officers)} sign, {known}"

    def same() -> str:
        require_consistent(pipeline, pipeline.keys.read())
        return "the newest anchor, the key states and the key store match the audit"

    yield _refused("roster_is_the_pinned_one", configured)
    yield _refused("database_was_not_restored", same)
    yield from _looked("hosts_are_the_signed_ones", lambda: [_hosts_are_signed(pipeline)])
    if walk is None:
        yield green("no_other_rotation_is_open", "none is open")
    else:
        yield _open(pipeline, walk)
    yield from _looked("more_officers_than_required", lambda: [_spare(pipeline, walk)])
    end = walk.finish_by if walk is not None else pipeline.clock.now() + ROTATE.finish_within
    yield from _looked("certificates_outlast_the_rotation", lambda: [_certificates(pipeline.signatures, end)])


def _hosts_are_signed(pipeline: Pipeline) -> Check:
    """Amber: the next request has the present ones signed."""
    for message in changed_hosts(pipeline):
        return amber("hosts_are_the_signed_ones", *in_two(message))
    return green("hosts_are_the_signed_ones", "; ".join(pipeline.hosts) or "the configuration names none")


def _open(pipeline: Pipeline, walk: Walk) -> Check:
    state = f"{walk.action} {walk.id} of {walk.source} to {walk.target} is {walk.status}"
    try:
        reason = runner.next_decision(Situation(pipeline), walk).pending
        waits, do = (reason.why, reason.to_do) if reason is not None else ("", "")
    except KeyRotationError as error:  # of the instances, the key store or the audit
        waits, do = in_two(f"not seen what it waits for: {error}")
    value = f"{state}: {waits}" if waits else state
    return amber(
        "no_other_rotation_is_open", value, do or f"finish it with `keyrotation rotate {walk.id}`, or cancel it"
    )


def _spare(pipeline: Pipeline, walk: Walk | None) -> Check:
    """Red for routine work, which can wait for another officer; amber for an emergency or a rollback."""
    name, roster = "more_officers_than_required", pinned_roster(pipeline)
    value = f"{len(roster.officers)} officers, {roster.required} must sign"
    if len(roster.officers) > roster.required:
        return green(name, value)
    light = red if walk is None or walk.kind == RotationType.ROUTINE else amber
    return light(
        name,
        f"{value}: if one is lost, nothing can be signed, not in an emergency, and not who takes the place",
        "name one more in [approvals], whose key may lie sealed in a safe, then run `keyrotation policy --reason TEXT`",
    )


def _certificates(signatures: SignatureVerifier, end: datetime) -> Check:
    named = signatures.certificates()
    short = [*without_repeats(in_two(each.unusable)[0] for each in named if each.unusable is not None)]
    short += [
        f"{each.label} until {each.ends_at:%Y-%m-%d}"
        for each in named
        if each.unusable is None and each.ends_at is not None and each.ends_at <= end
    ]
    if short:
        return amber(
            "certificates_outlast_the_rotation",
            f"{', '.join(short)}; the rotation may last until {end:%Y-%m-%d}",
            "have their owners extend them and export them again",
        )
    return green("certificates_outlast_the_rotation", f"all {len(named)} are valid beyond {end:%Y-%m-%d}")


def _keys(pipeline: Pipeline, trial: KeyTrial | None) -> Iterator[Check]:
    def intact() -> str:
        record = present_key(pipeline)  # compares the stored key with the registered fingerprint
        value = f"{record.version}, {record.fingerprint[:16]}, as registered"
        if trial is None:
            return f"{value}; not tried on a value"
        if message := refusal(pipeline.keys, pipeline.keys.read(), trial):
            raise WrongKeyError(message)
        tried, opened = trial.of_version(record.version)
        return (
            f"{value}; decrypts {opened:,} of {tried:,} values that were tried"
            if tried
            else f"{value}; no value is under it"
        )

    def backed_up() -> str:
        backup = require_backed_up(pipeline.vault, present_key(pipeline))
        return f"{backup.name} of {utc_minute(backup.made_at)} is there with its hash, in every place"

    if pipeline.keys.read().primary == PLAINTEXT:
        yield green("current_key_is_intact", "there is no key yet: the primary is plaintext")
        return
    yield _refused("current_key_is_intact", intact)
    yield _refused("current_key_is_backed_up", backed_up)


def _backups(site: BackupContext) -> Iterator[Check]:
    pipeline, now = site.pipeline, site.pipeline.clock.now()
    name = "database_backup_is_fresh"
    for place in site.places:
        try:
            yield _fresh(name, place, site.trust, now)
        except KeyRotationError as error:
            yield _not_seen(name, error)
    yield from _looked("recovery_was_tested", lambda: _tested(pipeline.ledger, now))


def _fresh(name: str, place: BackupPlace, trust: ManifestTrust, now: datetime) -> Check:
    """Whether a place has a dump of the last day, with its hash."""
    newest = kept_sets(place, trust).newest
    if newest is None or newest.dump is None:
        return amber(name, f"{place.description} has no dump of the database", "run `keyrotation backup`")
    value = f"{newest.dump.file.name} in {place.description}, {_hours(now - newest.made_at)} old, signed by us"
    if now - newest.made_at > BACKUP_STALE_AFTER:
        return amber(name, value, "run `keyrotation backup`")
    if not all(place.holds(dump.file) for dump in newest.dumps):
        return amber(name, f"{value}, but missing or damaged", "run `keyrotation backup`")
    if lacking := list(trust.lacking(newest)):
        return amber(name, f"{value}, with {'; '.join(lacking)}", "run `keyrotation backup`")
    return green(name, f"{value}, with its hash; only a recovery test shows that it restores")


def _tested(ledger: Ledger, now: datetime) -> Iterator[Check]:
    tests = recovery_tests(ledger, ledger.keys(), now)
    for message in tests.problems:
        yield amber("recovery_was_tested", *in_two(message))
    if tests.passed is None:
        yield amber("recovery_was_tested", "no recovery test has passed yet", "run `keyrotation recovery-test`")
    elif not tests.problems:
        yield green("recovery_was_tested", f"passed {_hours(now - tests.passed)} ago")


def _recovery_key(opened: OpenedKey) -> Check:
    name = "recovery_key_only_decrypts"
    try:
        with opened() as key:
            return green(name, f"nothing in [recovery] secret_key ({key.label}) can sign")
    except SigningRecoveryKeyError as error:
        return red(name, *in_two(str(error)))
    except KeyRotationError as error:
        return _not_seen(name, error)


def _rehearsal(pipeline: Pipeline) -> Check:
    """Item 4 of the preparation: dual-key mode tested elsewhere, which a rehearsal does with a whole rotation."""
    name, again = "rotation_was_rehearsed", "run `keyrotation rehearse ID` for a request that has not begun"
    if pipeline.tables[0].format.is_held_by_server:
        return green(name, "not with keys that a server holds, where it would make a real version")
    last = last_rehearsal(pipeline.ledger, pipeline.keys.read().primary, pipeline.members)
    if last is None:
        return amber(
            name, "no rotation from the present primary was rehearsed", f"run `keyrotation backup`, then {again}"
        )
    age = pipeline.clock.now() - last.at
    value = f"{last.in_words}, {_hours(age)} ago"
    if last.rehearsed.findings:
        return amber(name, value, f"fix that, then {again}")
    if last.without:
        return amber(name, value, f"run `keyrotation backup`, then {again}")
    return green(name, value) if age <= REHEARSAL_STALE_AFTER else amber(name, value, again)


def _people(team: Sequence[str]) -> Check:
    name = "people_can_be_told"
    if not team:
        return amber(name, "neither [alerts] nor [[contacts]] names anybody", "name them, and tell the team the dates")
    return green(name, f"configured: {', '.join(team)}; whether it arrives, and who knows the dates, is not seen here")


def _hours(age: timedelta) -> str:
    return f"{age / timedelta(hours=1):,.1f} h"


def _fleet(pipeline: Pipeline, walk: Walk | None, target: KeyVersion) -> Iterator[Check]:
    name, mode, primary = "instances_read_the_primary", pipeline.rollout.mode, pipeline.keys.read().primary
    instances = pipeline.rollout.instances()
    named = ", ".join(f"{each.name} reads {', '.join(map(str, each.reads)) or 'unknown'}" for each in instances[:10])
    value = f"mode {mode}; {counted(len(instances), 'instance')}{f': {named}' if named else ''}"
    unseen = [each.name for each in instances if each.silent or primary not in each.reads]
    if not instances and mode is RolloutMode.CONFIRM:
        yield amber(name, f"{value}; nothing is seen, officers sign that a rollout is done", "check the fleet yourself")
    elif mode is RolloutMode.NONE:
        yield amber(name, f"{value}: nothing is checked, as the signed text says", "check it yourself before you sign")
    elif mode is RolloutMode.SERVER:
        yield green(name, f"{value}; the server reads {primary} for every one")
    elif not instances:
        yield amber(name, f"{value}: without one nothing shows that the new key is read", "see `keyrotation rollout`")
    elif unseen:
        yield amber(name, f"{value}; not seen to read {primary}: {', '.join(unseen)}", "see `keyrotation rollout`")
    else:
        yield green(name, value)
    if (
        primary is not None
        and mode is not RolloutMode.SERVER
        and (walk is None or is_to_make_key(pipeline.ledger, walk))
    ):
        yield _naming(pipeline, walk, RolloutTarget(TargetKind.NAMES, (primary,)), target, instances)


def _naming(
    pipeline: Pipeline, walk: Walk | None, wanted: RolloutTarget, target: KeyVersion, instances: Sequence[Instance]
) -> Check:
    """Whether applications write under a new key only once it is named as the primary."""
    name, mode = "applications_name_their_primary", pipeline.rollout.mode
    confirmation = confirmation_of(pipeline, walk, wanted) if walk is not None else Confirmation()
    request = "ID" if walk is None else walk.id
    reason = pending_rollout(wanted, RolloutMode.ATTEST, instances, confirmation, request)
    if reason is None and confirmation.officers:
        return green(name, f"confirmed by {', '.join(confirmation.officers)}")
    if reason is None:
        return green(name, "every instance that reports does; one that does not report is not seen")
    if mode is RolloutMode.ATTEST:
        return red(name, reason.why, reason.to_do)
    then = (
        f'the rotation then stops with "{target} value seen before promotion", and only a rollback helps, which an '
        "emergency does not have"
    )
    if (declared := pipeline.tables[0].format).name != NATIVE.name:
        place = notation_of(declared).encrypts
        return amber(
            name,
            f"mode {mode}: not seen; an application that encrypts with another key than the {place} writes under the "
            f"new key at once: {then}",
            f"have every application encrypt with the {place} key of its list; see `keyrotation docs "
            f"{declared.spec.guide}`",
        )
    return amber(
        name,
        f"mode {mode}: not seen; {CHOOSES_ITSELF}: {then}",
        "have every application use keyrotation_pipeline.encrypted_type, and report by attest(engine, key_ring); see "
        "`keyrotation docs source-procedure`",
    )


def _target(pipeline: Pipeline, taken: Inventory | None) -> KeyVersion:
    try:
        return next_version(pipeline, taken.counts if taken is not None else ())
    except (KeyRotationError, ValueError):
        return KeyVersion(1)  # nothing is registered, which is already red
