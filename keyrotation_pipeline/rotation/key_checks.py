"""Checks keys before anything relies on them: that they open the values, and how many they may still encrypt.

Keys are tried on the values by `init`, `request`, a backup and a promotion. The bound of a key's cipher is never
crossed.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from keyrotation_pipeline.errors import MemberUnavailableError, RequestError, WrongKeyError
from keyrotation_pipeline.fieldcrypto.blind_index import takes_turns
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import MAX_VERSION_NUMBER, PLAINTEXT, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import SourceKey
from keyrotation_pipeline.model.key_trial import ColumnTrial, KeyTrial, PlaceProbe
from keyrotation_pipeline.model.keys import KeyUsage, StoredKeys
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableCount, of_member
from keyrotation_pipeline.ports.keys import OwnedKeys
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.rotation.keys import has_blind_indexes
from keyrotation_pipeline.scan.report import Finding, share_of

# How long an emergency waits for the trial, however many tables there are.
EMERGENCY_TRIES = timedelta(seconds=3)
# Versions named in one sentence: whoever may write a row can write values of any number of versions.
MOST_NAMED = 5
# Values tried of each column under each version; all of them where there are no more.
SAMPLE_VALUES = 200
# Fewer of a place's values decide nothing about its format.
_MOSTLY = 0.5


# Versions that have values, by table and column.
Wanted = Mapping[str, Mapping[str, Collection[KeyVersion]]]


def counted_in(counts: Sequence[TableCount]) -> Wanted:
    """Every version in every column that was counted."""
    return {str(each.table.name): each.by_column for each in counts}


def try_keys(
    pipeline: Pipeline,
    ring: KeyRing,
    wanted: Wanted,
    within: timedelta | None = None,
    *,
    answering: bool = False,
) -> KeyTrial:
    """Decrypts a sample of every declared column, and at least one value of each version in `wanted`.

    Args:
        within: no further table is started after this time; None: all are tried.
        answering: leave out the tables of members of a fleet that do not answer, and name them.

    Raises:
        PreflightError, BlockedError: a table cannot be read.
        MemberUnavailableError: the member that one is in does not answer, or none does.
    """
    columns, untried = list[ColumnTrial](), dict[str, MemberUnavailableError]()
    until = None if within is None else pipeline.clock.now() + within
    for table in pipeline.tables:
        if until is not None and pipeline.clock.now() > until:
            break
        try:
            trial = pipeline.inventory.decrypt_sample(table, ring, SAMPLE_VALUES, wanted.get(str(table.name), {}))
        except MemberUnavailableError as error:
            if not answering:
                raise
            untried[str(table.name)] = error
        else:
            columns += trial.columns
    if within is None and untried and len(untried) == len(pipeline.tables):
        raise next(iter(untried.values()))
    return KeyTrial(ring.versions, tuple(columns), tuple(untried))


def require_keys_open(pipeline: Pipeline, stored: StoredKeys, wanted: Wanted, *, emergency: bool = False) -> KeyTrial:
    """Refuses to continue with keys that do not decrypt the values stored under their versions.

    Values of a member of a fleet that does not answer are not tried: what does not open there is quarantined when its
    rows are due, and keeps the old key live. So is what an emergency does not try.

    Args:
        stored: the key store as read for the action that follows.
        emergency: of many tables only the first are tried, and only a primary that decrypts no value at all is
            refused. Damaged or foreign values must not keep the rest under a compromised key: under another version
            one of them may be all that is left. They are quarantined, and the old key stays until they are gone.

    Raises:
        WrongKeyError: names each such version, what was tried, and where its key belongs; or a place that does not
            open at all.
        KeyStoreDamagedError: the key store gives no key ring.
        PreflightError, BlockedError: a table cannot be read.
    """
    ring = stored.ring()
    misfits = [] if emergency else [each.refusal for each in probed(pipeline, ring) if each.refusal]
    misfits += [] if emergency else undetermined_turns(pipeline.tables, ring)
    if misfits:
        raise WrongKeyError("; ".join(misfits[:MOST_NAMED]))
    trial = try_keys(pipeline, ring, wanted, EMERGENCY_TRIES if emergency else None, answering=True)
    if emergency and not _opens_nothing(trial, stored.primary):
        return trial
    if message := refusal(pipeline.keys, stored, trial):
        raise WrongKeyError(message)
    return trial


def _opens_nothing(trial: KeyTrial, primary: KeyVersion | None) -> bool:
    """Whether values under the primary were tried, and none opened; without a primary, those under any version."""
    versions = trial.versions if primary is None else [primary]
    return any(tried and not opened for tried, opened in map(trial.of_version, versions))


def with_sources(ring: KeyRing, sources: Mapping[str, SourceKey]) -> KeyRing:
    """The same ring with keys of other libraries, which have no number yet."""
    keys = {version: ring.material(version) for version in ring.versions} | dict(ring.sources.values())
    # Under numbers that no key gets.
    more = {KeyVersion(MAX_VERSION_NUMBER - place): key for place, key in enumerate(sources.values())}
    return KeyRing(keys | more, ring.primary)


def undetermined_turns(tables: Sequence[EncryptedTable], ring: KeyRing) -> tuple[str, ...]:
    """Why an application could not tell which of its keys search indexes in a column are under; (): it can."""
    if not has_blind_indexes(tables):
        return ()
    keys = {version: ring.material(version) for version in ring.versions}
    first, *others = keys
    if takes_turns(first, keys[first], {each: keys[each] for each in others}):
        return ()
    message = (
        f"the last digits of the master keys {', '.join(map(str, keys))} do not alternate between odd and even, "
        "so search indexes share a column; import one key alone, or rotate without indexes, with "
        "BLIND_INDEX_MASTER_KEY set, until one is left"
    )
    return (message,)


def probed(pipeline: Pipeline, ring: KeyRing, *, derived: bool = False) -> tuple[PlaceProbe, ...]:
    """Whether the values of each place open in the declared layout, for tables where only decryption tells that.

    Args:
        derived: whether to try those, too, whose keys may be derived in another way.

    Raises:
        PreflightError, BlockedError: a table cannot be read.
    """
    tables = (
        table
        for table in pipeline.tables
        if not table.format.identified_by.is_searchable
        or (derived and table.format.spec.other_derivations)
        or any(place.form for place in table.places)
    )
    return tuple(each for table in tables for each in pipeline.inventory.probe(table, ring, SAMPLE_VALUES))


def misdeclared(pipeline: Pipeline, counts: Sequence[TableCount], trial: KeyTrial | None = None) -> tuple[str, ...]:
    """Why each place is declared in the wrong format: none of its values is in that one, and most are in another.

    The database is sampled for that, but only where a place has values, and none in its format.

    Args:
        counts: of the tables; others are not looked at, unless a trial was made.
        trial: of the keys: a place of an uncounted table in which no value was tried is looked at.

    Raises:
        BlockedError: a table is locked.
    """
    counted = {count.table: count for count in counts}
    tried = {(each.table, each.column) for each in trial.columns} if trial is not None else None
    suspects = [
        (table, name)
        for table in pipeline.tables
        for name in table.columns
        if not table.place(name).source
        and (
            count.unencrypted_by_column.get(name) and not count.by_column.get(name)
            if (count := counted.get(table)) is not None
            else tried is not None and (str(table.name), name) not in tried
        )
    ]
    found = [each for each in pipeline.inventory.other_formats() if each.share > _MOSTLY] if suspects else []
    return tuple(
        f"{table.name}.{name} is declared as {table.format.name}, but {share_of(other)} values looked at are "
        f"{other.format}, and none is {table.format.name}; correct [format], or leave the column out (see "
        "`keyrotation scan`)"
        for table, name in suspects
        for other in found
        if _is_at(other, table, table.place(name))
    )


def _is_at(finding: Finding, table: EncryptedTable, place: Place) -> bool:
    """Whether a finding, which names its table as PostgreSQL quotes it, is about a declared place."""
    name = table.name
    plain = finding.place.table.replace('"', "")
    declared = of_member(name.database, f"{name.schema}.{name.table}".replace('"', ""))
    found = (finding.place.column, finding.place.path or (), finding.place.elements)
    return plain == declared and found == (place.column, place.path, place.elements)


def refusal(keys: OwnedKeys, stored: StoredKeys, trial: KeyTrial) -> str | None:
    """What is wrong with the keys that this home imported, and how to fix it; None: they decrypt the values."""
    messages = [
        f"{trial.wrong_key(version, keys.place_of)}: {_remedy(stored, version)}"
        for version in trial.wrong_versions[:MOST_NAMED]
    ]
    more = len(trial.wrong_versions) - MOST_NAMED
    return "; ".join([*messages, *([f"and {more} more versions"] if more > 0 else [])]) or None


def _remedy(stored: StoredKeys, version: KeyVersion) -> str:
    if version in stored.live:
        return f"replace an imported key with `keyrotation replace-key {version} --reason TEXT`"
    if version in stored.archived:
        return f"{version} is archived, and `keyrotation reconcile` makes it readable again"
    return "import it with `keyrotation init`"


_SECOND = (
    "write generation = 2 under [format] of keyrotation.toml, whose keys allow 2^80 (`keyrotation docs "
    "second-generation`)"
)
_DIVIDE = (
    "give some of the tables a key of their own, in a home with another [database] schema (`keyrotation docs "
    "prepare-database`)"
)


def usage_of_primary(pipeline: Pipeline, among: Sequence[EncryptedTable] | None = None) -> KeyUsage | None:
    """The upper bound for the primary: all writes that the server counted, and the rotation to it.

    Args:
        among: the tables; None: all.
    """
    primary, tables = pipeline.keys.read().primary, pipeline.tables if among is None else among
    if primary is None or primary == PLAINTEXT:
        return None
    columns = {str(table.name): len(table.columns) for table in tables}
    written = pipeline.inventory.written_rows(tables)
    rewritten = sum(
        walked.rows * columns.get(walked.table, 1)
        for rotation in pipeline.ledger.requests()
        if rotation.target == primary
        for walked in pipeline.ledger.shard_progress(rotation.id)
    )
    return KeyUsage(primary, sum(rows * columns[table] for table, rows in written.items()), rewritten)


def require_room(pipeline: Pipeline, target: KeyVersion, counts: Sequence[TableCount]) -> None:
    """Refuses a rotation by which more than half of the values that the new key may encrypt would be used up.

    That is: every value that is there, once, and as many writes of applications until the rotation after it as the
    server's statistics hold so far, without the pipeline's own. A reset or a crash of the server empties these, and
    nothing replaces them: then the values that are there decide alone.

    Args:
        counts: of all tables; those of a member that did not answer are left out.

    Raises:
        RequestError: says by how much, and what leads out.
    """
    declared = pipeline.tables[0].format
    if not declared.encrypts_by_gcm:
        return
    values = sum(sum(count.values_by_version.values()) + count.plaintext for count in counts)
    used = usage_of_primary(pipeline, [count.table for count in counts])
    writes = 0 if used is None else max(0, used.by_applications - used.by_rotations)
    expected = KeyUsage(target, writes, values)
    if not expected.half_used:
        return
    raise RequestError(
        f"{target} would encrypt about {expected.encryptions:,} values by the next rotation ({values:,} there, "
        f"{writes:,} to come), {expected.share:.0%} of the {expected.limit_name} that AES-GCM allows; "
        f"{_SECOND if declared.name == NATIVE.name else _DIVIDE}"
    )
