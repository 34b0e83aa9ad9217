"""Tells values of the toy format without keys."""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, in_text

VALUE = re.compile(r"toy:([A-Za-z0-9._-]{1,100}):[A-Za-z0-9+/]{38,}={0,2}")


@in_text("toy", starts=("toy:",))
def toy(text: str) -> Recognised | None:
    """Recognises the toy of this page: ``toy:<key name>:<base64>``."""
    found = VALUE.fullmatch(text)
    return None if found is None else Recognised("toy", found[1])
