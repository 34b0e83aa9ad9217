"""Readiness checks of the database: the pre-flight, its values, disk and standbys."""

import math
from collections.abc import Iterable, Iterator, Sequence

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.codecs.format import new_key
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.environment import DISK_IS_LARGE_ENOUGH, TABLES_ARE_READABLE, Environment, UnseenDisk
from keyrotation_pipeline.model.key_trial import KeyTrial
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.status import Check, amber, green, in_two, of_problem, red
from keyrotation_pipeline.model.tables import TableCount
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.canary import unopened
from keyrotation_pipeline.requests.inventory import Inventory
from keyrotation_pipeline.rotation.fences import fences as look_at_fences
from keyrotation_pipeline.rotation.key_checks import misdeclared, usage_of_primary
from keyrotation_pipeline.scan.report import name_of

LATE_SECONDS = 60
# Each new WAL file stops every commit for about 0.25 s (benchmarks/README.md); so many are met in a busy hour.
MANY_WAL_FILES = 16
# Fills files that min_wal_size then keeps, a mebibyte a row.
_FILL = "SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 1048576))) FROM generate_series(1, {})"
_IN_USE = frozenset({KeyState.PRE_ACTIVATION, KeyState.ACTIVE})


def database(pipeline: Pipeline, target: KeyVersion) -> Iterator[Check]:
    """Every problem of the pre-flight, and green for each of its checks without one."""
    try:
        yield from map(of_problem, pipeline.rollout.preflight(target))
    except KeyRotationError as error:
        yield red("rollout_can_be_made", *in_two(str(error)))
    try:
        yield from map(of_problem, pipeline.keys.preflight())
        yield from map(of_problem, unopened(pipeline))
    except KeyRotationError as error:
        yield red("keys_can_be_archived", *in_two(str(error)))
    problems = pipeline.environment.preflight(pipeline.tables, target)
    yield from map(of_problem, problems)
    found, names = {problem.check for problem in problems}, pipeline.environment.check_names()
    for name in names.server:
        if name not in found:
            yield green(name, "checked")
    for name in names.tables:
        if name not in found and TABLES_ARE_READABLE not in found:
            yield green(name, f"checked for {', '.join(str(table.name) for table in pipeline.tables)}")
        elif name not in found:
            yield amber(name, "not checked for every table", "make every declared table readable first")


def inventory(taken: Inventory, trial: KeyTrial | None) -> Iterator[Check]:
    """The counts, and what blocks retirement.

    Args:
        trial: of the stored keys on a sample; None: not made.
    """
    for count in taken.counts:
        values = ", ".join(f"{number:,} under {version}" for version, number in sorted(count.values_by_version.items()))
        yield green(
            "values_are_counted",
            f"{count.table.name}: {count.rows:,} rows; {values or 'no values'}; counted now, "
            f"{utc_minute(count.counted_at)}",
        )
    yield from _blocking(taken)
    if trial is not None:
        yield from _readable(taken, trial)


def _readable(taken: Inventory, trial: KeyTrial) -> Iterator[Check]:
    name, show = "every_value_is_readable", "run `keyrotation verify`, which decrypts every value and names each"
    found = [*trial.damaged(), *([f"{len(taken.quarantine):,} in quarantine"] if taken.quarantine else [])]
    if found or trial.encrypted_twice():
        wrong = {"do not decrypt": found, "are encrypted twice": trial.encrypted_twice()}
        value = "; ".join(f"{what}: {', '.join(each)}" for what, each in wrong.items() if each)
        yield amber(name, f"{value}; this blocks the retirement of the old key", show)
    elif not trial.failed:
        yield green(
            name,
            f"all {trial.tried:,} values of a sample decrypt, of every column and version; `keyrotation verify` "
            "decrypts every one",
        )


def _blocking(taken: Inventory) -> Iterator[Check]:
    """What blocks retirement, but not a request."""
    show = "run `keyrotation inventory`, which names each"
    unencrypted = {
        str(count.table.name): number for count in taken.counts if (number := count.unencrypted - count.plaintext)
    }
    undeclared = [f"{each.relation}.{each.column} ({each.values:,})" for each in taken.findings]
    for name, wrong, value in (
        ("every_value_is_encrypted", unencrypted, ", ".join(f"{number:,} in {t}" for t, number in unencrypted.items())),
        ("no_undeclared_ciphertext", undeclared, ", ".join(undeclared)),
    ):
        if wrong:
            yield amber(name, f"{value}; this blocks the retirement of the old key", show)
        else:
            yield green(name, "none found")


def around(pipeline: Pipeline) -> Iterator[Check]:
    """Room, WAL, standbys and the server's log."""
    seen = pipeline.environment.measure(pipeline.own_tables)
    yield from _room(seen)
    late = [
        f"{each.name} {each.late_seconds:.0f} s" for each in seen.standbys if (each.late_seconds or 0) > LATE_SECONDS
    ]
    if late:
        yield amber("standbys_keep_up", f"late: {', '.join(late)}", "wait until they have caught up")
    else:
        yield green("standbys_keep_up", f"{len(seen.standbys)} connected now, none later than {LATE_SECONDS} s")
    if seen.prints_rows:
        yield amber(
            "log_shows_no_rows",
            "log_error_verbosity lets the server's log show a whole row that a constraint refuses",
            "ALTER SYSTEM SET log_error_verbosity = 'terse'; SELECT pg_reload_conf()",
        )
    else:
        yield green("log_shows_no_rows", "log_error_verbosity is terse")


def _room(seen: Environment) -> Iterator[Check]:
    growth, wal = _mebibytes(seen.growth_bytes), _mebibytes(seen.wal_bytes)
    need = f"the tables ({_mebibytes(seen.table_bytes)}) grow by about {growth}; about {wal} of WAL is written"
    if isinstance(seen.disk, UnseenDisk):
        yield amber(DISK_IS_LARGE_ENOUGH, f"not seen: {seen.disk.why}; {need}", seen.disk.do)
    elif seen.disk.free_bytes < seen.growth_bytes:
        pass  # which the pre-flight refuses
    elif seen.disk.free_bytes < seen.needed_bytes:
        free = _mebibytes(seen.disk.free_bytes)
        yield amber(DISK_IS_LARGE_ENOUGH, f"{free} free, {need}", "make room, or free what keeps WAL")
    else:
        yield green(DISK_IS_LARGE_ENOUGH, f"{_mebibytes(seen.disk.free_bytes)} free; {need}")
    if seen.wal.kept_by:
        yield amber("wal_is_let_go", f"kept by {', '.join(seen.wal.kept_by)}", "fix or drop that, or the disk fills")
    else:
        yield green("wal_is_let_go", f"about {_mebibytes(seen.wal.max_bytes)} are kept at a time")
    yield _wal_files(seen)


def _wal_files(seen: Environment) -> Check:
    """Whether the WAL of the rotation fits into files that exist."""
    name, new = "wal_files_exist", seen.new_wal_files
    if new <= MANY_WAL_FILES:
        return green(name, f"about {new:,} more are created" if new else "those that are kept are enough")
    size = math.ceil(seen.reused_bytes / 2**20)
    return amber(
        name,
        f"up to {new:,} more are created, each stopping every commit for some 0.25 s",
        f"in a quiet hour ALTER SYSTEM SET min_wal_size = '{size}MB'; SELECT pg_reload_conf(); {_FILL.format(size)}",
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def fences(pipeline: Pipeline) -> Iterator[Check]:
    """Checks that no fence refuses a version in use, and that each table still refuses what was retired in it."""
    records = pipeline.ledger.keys()
    in_use = {record.version for record in records if record.state in _IN_USE}
    seen = look_at_fences(pipeline)
    left = [f"{name} refuses {each}" for name, fenced in seen.by_table.items() for each in fenced if each in in_use]
    if left:
        yield amber(
            "no_fence_is_left_over", ", ".join(left), "finish the rollback that left it, or drop the constraint"
        )
    else:
        refused = [f"{name} refuses {', '.join(map(str, fenced))}" for name, fenced in seen.by_table.items() if fenced]
        yield green("no_fence_is_left_over", "; ".join(refused) or "there is none")
    problems = [in_two(message) for message in (*seen.attention(), *seen.warnings())]
    for value, do in problems:
        yield amber("retired_versions_are_refused", value, do)
    if not problems:
        refusals = [f"{name} refuses {', '.join(map(str, versions))}" for name, versions in seen.retired.items()]
        yield green("retired_versions_are_refused", "; ".join(refusals) or "none was retired")


def other_formats(pipeline: Pipeline, counts: Sequence[TableCount]) -> Iterator[Check]:
    """Columns in other formats: red where they are declared; a rotation has nothing to do with others."""
    if wrong := misdeclared(pipeline, counts):
        yield from (red("other_formats_are_known", *in_two(message)) for message in wrong)
        return
    named = ", ".join(f"{name_of(each.place)} ({each.format})" for each in pipeline.inventory.other_formats())
    yield green("other_formats_are_known", f"left as they are: {named}" if named else "none found in a sample")


def usage(pipeline: Pipeline) -> Iterator[Check]:
    """How many encryptions the primary may have done."""
    declared = pipeline.tables[0].format
    if not declared.encrypts_by_gcm:
        yield green("key_usage_below_gcm_limit", f"a key of the format {declared.name} has no such limit")
        return
    used = usage_of_primary(pipeline)
    if used is None:
        return  # already red elsewhere
    if used.half_used:
        yield amber("key_usage_below_gcm_limit", used.message, "rotate now")
    else:
        yield green("key_usage_below_gcm_limit", used.message)


def estimated(pipeline: Pipeline, target: KeyVersion, counts: Iterable[TableCount]) -> Check:
    """The estimated time for the rows, from a sample rewritten just now."""
    stored, declared = pipeline.keys.read(), pipeline.tables[0].format
    if declared.is_held_by_server:
        return green("duration_is_known", "not measured: the server makes the new key only when the rotation begins")
    taken = pipeline.inventory.key_markers(pipeline.tables)
    keys = {version: stored.material(version) for version in stored.live} | dict(stored.sources.values())
    ring = KeyRing({**keys, target: new_key(declared, taken.values(), stored.present, stored.materials)}, target)
    speeds = {each.table: each for each in pipeline.rewriting.speed(pipeline.tables, ring, target)}
    rows = {str(count.table.name): count.rows for count in counts}
    seconds = sum(rows[name] / each.rows_per_second for name, each in speeds.items() if each.rows_per_second)
    sampled = sum(each.sampled_rows for each in speeds.values())
    if failed := sum(each.failed_values for each in speeds.values()):
        return amber(
            "duration_is_known",
            f"not known: {failed:,} values of {sampled:,} sampled rows do not decrypt, so none of them was rewritten",
            "run `keyrotation verify`, which names each",
        )
    return green(
        "duration_is_known",
        f"about {max(1, round(seconds)):,} s for {sum(rows.values()):,} rows by one worker within the configured "
        f"limits, by {sampled:,} rows of this database rewritten and rolled back; proof, rollouts and signatures "
        "come in addition",
    )
