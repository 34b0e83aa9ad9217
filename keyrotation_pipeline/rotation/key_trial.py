"""Keys are tried on the values before anything rests on them: `init`, `request`, a backup, a promotion."""

from collections.abc import Collection, Mapping, Sequence

from keyrotation_pipeline.errors import WrongKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.columns import TableCount
from keyrotation_pipeline.model.key_trial import KeyTrial
from keyrotation_pipeline.model.stored_keys import StoredKeys
from keyrotation_pipeline.ports.pipeline import Pipeline

# Of each column under each version; all of them where there are no more.
SAMPLE_VALUES = 200


# Versions of which there are values, by table and column.
Wanted = Mapping[str, Mapping[str, Collection[KeyVersion]]]


def counted_in(counts: Sequence[TableCount]) -> Wanted:
    """Every version in every column that was counted."""
    return {str(each.table.name): each.by_column for each in counts}


def try_keys(pipeline: Pipeline, ring: KeyRing, wanted: Wanted) -> KeyTrial:
    """Decrypt a sample of every declared column, and at least one value of each version in `wanted`.

    Raises:
        PreflightError, BlockedError: a table cannot be read.
    """
    trials = [
        pipeline.database.decrypt_sample(table, ring, SAMPLE_VALUES, wanted.get(str(table.name), {}))
        for table in pipeline.tables
    ]
    return KeyTrial(ring.versions, tuple(column for trial in trials for column in trial.columns))


def require_keys_open(pipeline: Pipeline, stored: StoredKeys, wanted: Wanted, *, emergency: bool = False) -> KeyTrial:
    """Refuse what rests on keys that do not open the values stored under their versions.

    Args:
        stored: the key store as whatever is about to be done has read it.
        emergency: only a version of which no value at all opens is refused. A column of somebody else must not keep
            the others under a compromised key; its values are quarantined, and the old key stays until they are gone.

    Raises:
        WrongKeyError: names each such version, what was tried, and where its key belongs.
        KeyStoreDamagedError: the key store gives no key ring.
        PreflightError, BlockedError: a table cannot be read.
    """
    trial = try_keys(pipeline, stored.ring(), wanted)
    if emergency and all(trial.of_version(version)[1] for version in {each.version for each in trial.columns}):
        return trial
    if wrong := trial.wrong_keys(pipeline.keys.place_of):
        raise WrongKeyError(refusal(wrong))
    return trial


def refusal(wrong: Sequence[str]) -> str:
    """The sentence about wrong keys in a home that has taken them."""
    return f"{'; '.join(wrong)}; an imported key is replaced with `keyrotation replace-key VERSION --reason TEXT`"
