"""Every action that a request can ask for, put together from the procedures that carry them out."""

from collections.abc import Mapping

from keyrotation_pipeline.assurance.destruction import DESTROY
from keyrotation_pipeline.model.request import RequestAction
from keyrotation_pipeline.ports.actions import Action
from keyrotation_pipeline.requests.policy import POLICY
from keyrotation_pipeline.rotation.reconcile import RECONCILE
from keyrotation_pipeline.rotation.rollback import ROLLBACK
from keyrotation_pipeline.rotation.rotate import ROTATE

ACTIONS: Mapping[RequestAction, Action] = {each.name: each for each in (ROTATE, ROLLBACK, RECONCILE, DESTROY, POLICY)}
