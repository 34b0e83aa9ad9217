"""Texts for signing that somebody else writes: canonical, but with other lines."""

from collections.abc import Mapping

from keyrotation_pipeline.model.approval import rendered, signed_fields
from keyrotation_pipeline.model.signed_summary import CONFIRMATION


def with_lines(text: bytes, lines: Mapping[str, str], header: str | None = None) -> bytes:
    """A text with other values in these lines, and the sentences that follow from them."""
    before = text.decode().partition("\n")[0]
    return rendered(header or before, list({**signed_fields(text, before), **lines}.items()))


def confirmation_of(request: str, rollout: str) -> bytes:
    """The least text that confirms a rollout."""
    return rendered(CONFIRMATION, [("Request", request), ("Rollout", rollout)])
