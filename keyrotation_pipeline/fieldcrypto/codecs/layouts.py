"""Finds how values are put together by the text that says so: a layout, or what Laravel calls its cipher."""

from functools import lru_cache

from keyrotation_pipeline.fieldcrypto.codecs.laravel_crypt import CIPHERS, LaravelPayload
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout


@lru_cache(maxsize=512)
def layout_of(text: str) -> Layout:
    """Returns a parsed layout; see `Layout`."""
    return LaravelPayload(text) if text in CIPHERS else Layout(text)
