"""Has databases join a fleet that a rule of `[[databases]]` lists, and compares its listing with the members."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from keyrotation_pipeline.adapters.fleet.members import naming
from keyrotation_pipeline.adapters.postgres.inventory.listing import listed
from keyrotation_pipeline.adapters.postgres.inventory.relations import require_declared
from keyrotation_pipeline.adapters.postgres.ledger.mirror import adopt
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.assembly.fleet import SignedPlaces, is_by_rule, known_home, members_of, tables_of
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.members import Listed, MemberRule
from keyrotation_pipeline.model.request_events import MemberJoined
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.regular_files import read_text
from keyrotation_pipeline.settings import Settings


def join_listed(
    settings: Settings, pipeline: Pipeline, migrate: Callable[[str], None]
) -> Mapping[str, KeyRotationError]:
    """Has every database join that a rule lists which officers have signed; one that cannot keeps no other from it.

    Returns:
        Why one cannot, by name: it does not answer, has none of its declared tables, is another member, as after a
        renaming, or no signed rule covers it where it is.

    Raises:
        PreflightError: a listing fails.
    """
    places, failed = SignedPlaces(settings, pipeline.ledger), dict[str, KeyRotationError]()
    home, lead = known_home(pipeline.ledger.replayed().home), pipeline.environment.identity().name
    for name in pipeline.listed().unjoined:
        try:
            with naming(name), closing(connect(url := places.url(name))) as connection:
                place = places.require_covered(name, url, connection)
                require_declared(connection, tables_of(settings, name))
                migrate(url)
                adopt(connection, home, name, lead)
                pipeline.ledger.append(MemberJoined(name, place), None)
        except KeyRotationError as error:
            failed[name] = error
    members = members_of(settings, pipeline.ledger.replayed().hosts)
    known_members(settings).write_text("".join(f"{each}\n" for each in members))
    return failed


def known_members(settings: Settings) -> Path:
    """The file of the home with the names of the members, for Dagster's partitions alone, which decide nothing."""
    return settings.home / "members"


def all_tables(settings: Settings) -> tuple[EncryptedTable, ...]:
    """The declared tables, without asking the database, as of the last `keyrotation init`."""
    path = known_members(settings)
    names = read_text(path).split() if settings.rules and path.is_file() else []
    return settings.tables_in({*settings.named_members, *names})


def listing(settings: Settings, ledger: Ledger, connection: Connection) -> Listed:
    """Asks each rule for its databases.

    Args:
        connection: to the home's own database.

    Raises:
        PreflightError: one fails, does not end, or lists what cannot be.
    """
    members, found = members_of(settings, ledger.replayed().hosts), set[str]()
    for each in settings.rules:
        if each.listing is not None:
            names = listed(connection, MemberRule(each.name), each.listing)
            found |= {name for name in names if settings.entry_of(name) is not None}
    by_rule = (name for name in members if is_by_rule(settings, name))
    return Listed(tuple(sorted(found.difference(members))), tuple(name for name in by_rule if name not in found))
