"""Recognises our own values."""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, in_text
from keyrotation_pipeline.fieldcrypto.grammar import parsed


@in_text("native", starts=("v",), behind=r"v[1-9]")
def native(text: str) -> Recognised | None:
    """Recognises this project's own values, by the grammar itself."""
    value = parsed(text)
    if value is None:
        return None
    return Recognised("native", str(value.version), in_base64=True, body=value.nonce + value.body)
