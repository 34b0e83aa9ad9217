"""The servers around the databases of a fleet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from keyrotation_pipeline.adapters.fleet.members import Members, in_member
from keyrotation_pipeline.errors import MemberUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import (
    SILENT,
    BlindSpots,
    CheckNames,
    DatabaseIdentity,
    DatabaseServer,
    Environment,
    MemberFound,
    Problem,
    Unsearched,
)
from keyrotation_pipeline.model.tables import EncryptedTable


@dataclass(frozen=True)
class FleetEnvironment:
    """`DatabaseEnvironment` over several databases; identity and server are those of the home's own."""

    fleet: Members

    def identity(self) -> DatabaseIdentity:
        """See `DatabaseEnvironment.identity`."""
        return self.fleet.lead.environment.identity()

    def server(self) -> DatabaseServer:
        """See `DatabaseEnvironment.server`."""
        return self.fleet.lead.environment.server()

    def members(self, *, reconciling: bool = False) -> Mapping[str, MemberFound]:
        """See `DatabaseEnvironment.members`."""
        self.fleet.reconciling |= reconciling
        return self.fleet.found()

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        """See `DatabaseEnvironment.preflight`; a member that does not answer is a warning, until its tables are due."""
        found = list[Problem]()
        for name, own in self.fleet.grouped(tables):
            try:
                with self.fleet.at(name) as at:
                    problems = at.environment.preflight(own, target)
            except MemberUnavailableError as error:
                problems = (Problem(str(error), fatal=False),)
            found += [replace(each, message=in_member(name, each.message)) if name else each for each in problems]
        return tuple(found)

    def check_names(self) -> CheckNames:
        """See `DatabaseEnvironment.check_names`."""
        return self.fleet.lead.environment.check_names()

    def measure(self, tables: Sequence[EncryptedTable]) -> Environment:
        """See `DatabaseEnvironment.measure`; of the home's own database."""
        return self.fleet.lead.environment.measure(tables)

    def blind_spots(self) -> BlindSpots:
        """See `DatabaseEnvironment.blind_spots`: what is not checked in any of them, or all of one that is down."""
        found = self.fleet.lead.environment.blind_spots()
        unsearched = list(found.unsearched)
        for name in self.fleet.open:
            try:
                with self.fleet.at(name) as at:
                    own = at.environment.blind_spots().unsearched
            except MemberUnavailableError:
                own = (Unsearched(SILENT),)
            unsearched += [replace(each, member=name) for each in own if each not in found.unsearched]
        return replace(found, unsearched=tuple(unsearched))

    def own_blind_spots(self) -> BlindSpots:
        """See `DatabaseEnvironment.own_blind_spots`."""
        return self.fleet.lead.environment.own_blind_spots()
