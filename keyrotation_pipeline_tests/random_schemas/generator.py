"""Makes random databases: much of what PostgreSQL can hold, under names that are hard to quote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from keyrotation_pipeline_tests.random_schemas import objects, tables
from keyrotation_pipeline_tests.random_schemas.maker import Features, Maker


@dataclass(frozen=True)
class RandomDatabase:
    """What to run, as a superuser.

    Args:
        options: of CREATE DATABASE, after the name.
        roles: statements that make the roles, which belong to the whole server.
        statements: in the new database; those of the last part name it as `{database}`.
    """

    seed: int
    options: str
    roles: tuple[str, ...]
    statements: tuple[str, ...]


def generate(
    seed: int, features: Features, *, parts: Sequence[Callable[[Maker], None]] | None = None
) -> RandomDatabase:
    """The database of a seed.

    Args:
        features: what the server can do.
        parts: only these; by default most of them, chosen by the seed.
    """
    rng = Random(seed)
    options, encoding = _options(rng, features)
    maker = Maker(rng, features, encoding, prefix=f"r{seed}")
    roles = tuple(f"CREATE ROLE {role} {rng.choice(('NOLOGIN', 'LOGIN'))}" for role in maker.roles)
    chosen = parts if parts is not None else [part for part in PARTS if rng.random() < 0.8]
    objects.schemas(maker)
    for part in chosen:
        part(maker)
    objects.comments(maker)
    objects.of_database(maker)
    return RandomDatabase(seed, options, roles, tuple(maker.statements))


def _options(rng: Random, features: Features) -> tuple[str, str]:
    choices = [
        ("ENCODING 'UTF8' LOCALE 'C'", "UTF8"),
        ("ENCODING 'UTF8' LOCALE 'C.UTF-8'", "UTF8"),
        ("ENCODING 'SQL_ASCII' LOCALE 'C'", "SQL_ASCII"),
        ("ENCODING 'LATIN1' LOCALE 'C'", "LATIN1"),
    ]
    if features.icu:
        choices += [
            ("ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE' LOCALE 'C.UTF-8'", "UTF8"),
            ("ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk' LC_COLLATE 'C' LC_CTYPE 'C'", "UTF8"),
            ("ENCODING 'LATIN1' LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE' LOCALE 'C'", "LATIN1"),
        ]
    if features.major >= 17:
        choices += [("ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'", "UTF8")]
    return rng.choice(choices)


PARTS: tuple[Callable[[Maker], None], ...] = (
    objects.default_privileges,
    objects.extensions,
    objects.collations,
    objects.types,
    objects.sequences,
    tables.ordinary,
    tables.checked,
    tables.partitioned,
    tables.partitioned_by_name,
    tables.inherited,
    tables.referencing,
    tables.unlogged,
    tables.extension_columns,
    objects.functions,
    objects.row_types,
    objects.aggregates_and_operators,
    objects.views,
    objects.text_search,
    tables.policies,
    tables.triggers,
    tables.rules,
    objects.statistics,
    objects.large_objects,
    objects.needing_a_superuser,
    objects.foreign,
    objects.publications,
    objects.event_triggers,
)
