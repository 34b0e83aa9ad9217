"""What does a request of this kind ask for, and who carries it out?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.keys import KeyMade, StoredKeys
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import Proven
from keyrotation_pipeline.model.requests import Request, RequestAction, Step, Walk

Ports = TypeVar("Ports")  # what an action works with; the pipeline holds its actions, so they cannot name it

# What is read back later is a record; the rest is free JSON.
StepFacts = KeyMade | Proven | KeyRetired | Mapping[str, Any]
StepFunction = Callable[[Ports, Walk, Report], StepFacts]


@dataclass(frozen=True, slots=True)
class Action(Generic[Ports]):
    """One kind of request. Rotation, rollback, reconciliation, destruction and policy each hand theirs in.

    Whatever officers sign is rebuilt from the facts as they are now, whenever it matters.

    Args:
        authorises: what may be done, in one sentence of the signed text.
        source: the line `From` of the signed text.
        target: the line `To`.
        authority: the roster whose signatures count; raises ApprovalError where none can count now.
        start_within: by when it must start, unless whoever asks says another date.
        finish_within: by when it must be finished; no signature counts any longer.
        command: what carries an approved request out.
        renewal: how to go on when its signatures no longer count, as the rest of a sentence.
        withdraw: takes back what a walk that was opened has done, when it is cancelled; raises RequestError where it
            can only go on. None: such a request changes nothing before it is carried out.
        is_one_way: whether a walk that has begun can only go on.
        approved: what follows at once when enough officers have signed; it may be done again when the walk starts.
        steps: what each step of the walk does; empty: it does not walk.
    """

    name: RequestAction
    authorises: Callable[[Ports, Request], str]
    source: Callable[[Ports, Request, StoredKeys], str]
    target: Callable[[Ports, Request, StoredKeys], str]
    authority: Callable[[Ports], Roster]
    start_within: timedelta
    finish_within: timedelta
    command: Callable[[Request], str]
    renewal: Callable[[Request], str]
    withdraw: Callable[[Ports, Walk], None] | None = None
    is_one_way: Callable[[Ports, Walk], bool] = lambda _pipeline, _walk: False
    approved: Callable[[Ports, Request], None] = lambda _pipeline, _request: None
    steps: Mapping[Step, StepFunction[Ports]] = field(default_factory=dict)
