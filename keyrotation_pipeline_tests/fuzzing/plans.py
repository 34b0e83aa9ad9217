"""What a seed decides: format, tables, what happens around them, and which walks there are."""

from dataclasses import dataclass
from random import Random

from keyrotation_pipeline_tests.fuzzing import formats
from keyrotation_pipeline_tests.fuzzing.disturbances import DISTURBANCES, REWRITING
from keyrotation_pipeline_tests.fuzzing.formats import Format, Native
from keyrotation_pipeline_tests.fuzzing.search_index import SearchIndex
from keyrotation_pipeline_tests.fuzzing.tables import Kind, Table

WALKS = (("rotate",), ("rotate",), ("rotate",), ("rotate", "rotate"), ("rotate", "rollback"), ("half", "rotate"))
ENVIRONMENTS = ((), (), ("subscriber",), ("foreign tables",), ("subscriber", "foreign tables"))


@dataclass(frozen=True)
class Plan:
    """All that a seed decides; what threads make of it differs each time.

    Args:
        disturbances, environment: by their names.
        walks: one after the other, see `Round.walk`.
        kills: how often `rotate` is killed in each.
        shards, workers: as in `[reencryption]`.
        planted: a value that no key opens stops each walk first.
        verified: how often `verify` is typed after each walk while tables are rewritten.
    """

    seed: int
    form: Format
    tables: tuple[Table, ...]
    disturbances: tuple[str, ...]
    walks: tuple[str, ...]
    kills: int
    shards: int = 1
    workers: int = 1
    environment: tuple[str, ...] = ()
    planted: bool = False
    verified: int = 0

    @classmethod
    def of(cls, seed: int, names: tuple[str, ...] = ()) -> "Plan":
        """The plan of a seed.

        Args:
            names: the formats to choose among; default: all.
        """
        chance = Random(seed)
        among = [each for each in formats.ALL if not names or each.name in names]
        form = among[seed % len(among)]  # so that rounds in a row have each
        count = chance.choice((1, 1, 2))
        tables = tuple(_table(chance, form, number) for number in range(count))
        around = tuple(chance.sample(sorted(DISTURBANCES), chance.randint(2, 5)))
        walks = chance.choice(WALKS)
        kills, shards, workers = chance.choice((0, 1, 3)), chance.choice((1, 1, 3)), chance.choice((1, 1, 2))
        environment = chance.choice(ENVIRONMENTS)
        planted = chance.random() < 0.2
        verified = 2 if REWRITING & set(around) else 0
        return cls(seed, form, tables, around, walks, kills, shards, workers, environment, planted, verified)

    def __str__(self) -> str:
        tables = "; ".join(
            f"{each.name} {each.kind.value} of {each.rows}: {', '.join(column.ddl for column in each.columns)}"
            + (" with index" if each.index else "")
            for each in self.tables
        )
        return (
            f"seed {self.seed}: {self.form.name}; {tables}; {', '.join((*self.disturbances, *self.environment))}; "
            f"{' → '.join(self.walks)}, {self.kills} kills{', a damaged value' if self.planted else ''}"
        )


def _table(chance: Random, form: Format, number: int) -> Table:
    kind = chance.choice(tuple(Kind))
    columns = tuple(chance.sample(form.columns, chance.randint(1, min(3, len(form.columns)))))
    texts = [column.name for column in columns if column.type in {"text", "varchar(900)"}]
    index = SearchIndex(texts[0]) if isinstance(form, Native) and texts and chance.random() < 0.6 else None
    return Table(f"clients{number}", kind, columns, chance.choice((40, 120, 400)), index)
