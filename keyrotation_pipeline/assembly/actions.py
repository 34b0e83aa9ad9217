"""Every action that a request can ask for, put together from the procedures that carry them out.

One is imported when a request asks for it: whoever only looks at a database waits for none of them.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module

from keyrotation_pipeline.model.requests import RequestAction
from keyrotation_pipeline.ports.actions import Action

_PLACES = {
    RequestAction.ROTATE: "rotation.rotate",
    RequestAction.ROLLBACK: "rotation.rollback",
    RequestAction.RECONCILE: "rotation.reconcile",
    RequestAction.DESTROY: "backups.destruction",
    RequestAction.POLICY: "requests.policy",
    RequestAction.REPLACE_KEY: "rotation.replace_key",
}


class _Actions(Mapping[RequestAction, Action]):
    """The constant of its name in each of these modules."""

    def __getitem__(self, name: RequestAction) -> Action:
        action: Action = getattr(import_module(f"keyrotation_pipeline.{_PLACES[name]}"), name.name)
        return action

    def __iter__(self) -> Iterator[RequestAction]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


ACTIONS: Mapping[RequestAction, Action] = _Actions()
