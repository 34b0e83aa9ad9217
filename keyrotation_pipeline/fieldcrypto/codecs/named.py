"""Names that an application gives its keys, and that values name them by."""

import re
import secrets
from collections.abc import Collection

from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, LONGEST_NAME, AesKey

NAME_PATTERN = rf"[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}"
_NUMBERED = re.compile(rf"(.*?)([0-9]{{1,{LONGEST_NAME}}})")


def next_named(taken: Collection[str], first: str) -> AesKey:
    """Generates a key whose name counts on from the highest of those that are taken; with none, it is `first`."""
    numbered = [(int(found[2]), found[1]) for each in taken if (found := _NUMBERED.fullmatch(each))]
    number, stem = max(numbered, default=(0, first[:-1]))
    return AesKey(secrets.token_bytes(KEY_BYTES), f"{stem}{number + 1}")
