"""Asks a witness by C2SP's protocol for a signature on a checkpoint. Imports nothing but the standard library.

So that a pack's `verify.py` asks in the same way. Source: C2SP tlog-witness.
"""

import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.client import HTTPException
from typing import IO
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from keyrotation_pipeline.adapters.deadline import within
from keyrotation_pipeline.errors import WitnessConflictError, WitnessError
from keyrotation_pipeline.model.checkpoints import SignedCheckpoint, VerifySignature, cosigned_at
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.witnesses import Witness

# For everything that is asked at a time: a witness that sends a byte now and then must not delay a rotation.
LONGEST_SECONDS = 20.0
LONGEST_ANSWER_BYTES = 20_000
# How far a witness's clock may be from ours; an answer that was kept for longer is not believed.
CLOCKS_DIFFER_BY = timedelta(minutes=10)
_TIMEOUT_SECONDS = 10
_OK, _CONFLICT, _UNPROCESSABLE = 200, 409, 422
_MOST_TRIES = 4
_SIZE = re.compile(r"(0|[1-9][0-9]{0,17})\n", re.ASCII)
_SAID = {
    403: "does not know the key of this home; give its operator the one that `keyrotation audit witness` prints",
    404: "does not know this audit; give its operator the key that `keyrotation audit witness` prints",
}
_SETTING = "check [audit] witness"


@dataclass(frozen=True)
class TlogWitness:
    """`CheckpointWitness` over HTTP.

    Args:
        now: this machine's clock.
        verify: verifies an Ed25519 signature.
    """

    witness: Witness
    now: Callable[[], datetime]
    verify: VerifySignature

    def sign(self, note: SignedCheckpoint, tree: EventTree, known: int) -> SignedCheckpoint:
        """See `CheckpointWitness.sign`; a redirect counts as a refusal."""
        late = WitnessError(f"{self._name} takes too long; {_SETTING}")
        return within(LONGEST_SECONDS, lambda: self._signed(note, tree, known), late)

    @property
    def _name(self) -> str:
        return self.witness.name

    def _signed(self, note: SignedCheckpoint, tree: EventTree, known: int) -> SignedCheckpoint:
        old, size = known, note.checkpoint.size
        for _ in range(_MOST_TRIES):
            proof = "".join(f"{b64encode(each).decode()}\n" for each in tree.consistency(old, size))
            status, answer = self._post(f"old {old}\n{proof}\n{note}".encode())
            if status == _OK:
                return self._with_signature(note, answer)
            if status not in {_CONFLICT, _UNPROCESSABLE}:
                said = _SAID.get(status, f"answers with HTTP status {status}; {_SETTING}")
                raise WitnessError(f"{self._name} {said}")
            stated = _SIZE.fullmatch(answer) if status == _CONFLICT else None
            signed = old if stated is None else int(stated[1])
            if signed == old or signed > size:
                raise WitnessConflictError(self._name, signed, size)
            if signed < known:
                raise WitnessError(
                    f"{self._name} has signed {known:,} events, and now says {signed:,}; ask its operator, and do "
                    "not rely on it before it has a new key"
                )
            old = signed  # it was asked by a process that ended before it recorded the answer
        raise WitnessError(f"{self._name} says each time that it has signed another number of events; {_SETTING}")

    def _with_signature(self, note: SignedCheckpoint, answer: str) -> SignedCheckpoint:
        key = self.witness.key
        for line in answer.splitlines(keepends=True) if key is not None else ():
            at = cosigned_at(note.checkpoint, line, key, self.verify) if key and line.endswith("\n") else None
            if at is None:
                continue
            if abs(at - self.now()) > CLOCKS_DIFFER_BY:
                raise WitnessError(
                    f"{self._name} dates its signature {at:%Y-%m-%d %H:%M:%S} UTC, which is not now; compare the clocks"
                )
            return note.with_line(line)
        raise WitnessError(f"the answer of {self._name} has no signature that verifies by its key; {_SETTING}")

    def _post(self, body: bytes) -> tuple[int, str]:
        address = f"{self.witness.url.rstrip('/')}/add-checkpoint"
        # Nothing but http and https is accepted by the configuration.
        asked = Request(address, body, {"Content-Type": "text/plain; charset=utf-8"}, method="POST")  # noqa: S310
        try:
            return self._answer(asked)
        except (OSError, HTTPException, ValueError) as error:
            raise WitnessError(f"{self._name} does not answer ({type(error).__name__}); {_SETTING}") from None

    def _answer(self, asked: Request) -> tuple[int, str]:
        try:
            with build_opener(_NoRedirect).open(asked, timeout=_TIMEOUT_SECONDS) as answer:
                return answer.status, self._content(answer)
        except HTTPError as error:
            with error:
                return error.code, self._content(error)

    def _content(self, answer: IO[bytes]) -> str:
        content = answer.read(LONGEST_ANSWER_BYTES + 1)
        if len(content) > LONGEST_ANSWER_BYTES:
            raise WitnessError(f"{self._name} answers with more than a signature; {_SETTING}")
        return content.decode("utf-8", "replace")


class _NoRedirect(HTTPRedirectHandler):
    """Follows nowhere: officers have signed one host."""

    def redirect_request(self, *_args: object, **_named: object) -> None:
        """Declines."""
