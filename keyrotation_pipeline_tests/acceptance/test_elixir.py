"""Elixir's own :crypto reads what was rewritten for Cloak, and writes what is opened here."""

import base64
import os
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, notation_of
from keyrotation_pipeline.fieldcrypto.formats.cloak_ecto import CLOAK_ECTO
from keyrotation_pipeline.fieldcrypto.formats.cloak_ecto.codec import prefix_of
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline_tests.acceptance.marked_applications import lines
from keyrotation_pipeline_tests.unit.fieldcrypto.codecs.test_prefixed import made

V1, V2 = KeyVersion(1), KeyVersion(2)
# As Cloak.Ciphers.AES.GCM of Cloak 1.1 does it: the tag's length in one byte, then iv, tag and ciphertext.
PROGRAM = """
[label, old, new | stored] = System.argv()
seal = fn label, key, text ->
  iv = :crypto.strong_rand_bytes(12)
  {sealed, tag} = :crypto.crypto_one_time_aead(:aes_256_gcm, key, iv, text, "AES256GCM", true)
  <<1, byte_size(label)>> <> label <> iv <> tag <> sealed
end
for value <- stored do
  <<1, size, rest::binary>> = Base.decode16!(value, case: :lower)
  <<_label::binary-size(size), iv::binary-12, tag::binary-16, sealed::binary>> = rest
  text = :crypto.crypto_one_time_aead(:aes_256_gcm, Base.decode64!(new), iv, sealed, "AES256GCM", tag, false)
  sealed_again = seal.(label, Base.decode64!(old), text)
  IO.puts(Base.encode16(text, case: :lower) <> " " <> Base.encode16(sealed_again, case: :lower))
end
"""


# Of Cloak only what the guide's lines lean on when the vault starts.
VAULT = """
defmodule Cloak.Vault do
  defmacro __using__(_options), do: quote(do: @behaviour GenServer)
end
{lines}
{{:ok, config}} = MyApp.Vault.init([])
for {{_, {{module, options}}}} <- config[:ciphers], do: IO.puts(inspect([module, options[:tag], options[:iv_length]]))
"""
pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(shutil.which("elixir") is None, reason="Elixir is not here"),
]


def test_the_vault_of_the_guide_takes_the_list_that_is_delivered() -> None:
    ring = made(CLOAK_ECTO)
    listed = notation_of(CLOAK_ECTO).text_of([ring.material(version) for version in (V2, V1)])
    done = subprocess.run(
        ["elixir", "-e", VAULT.format(lines=lines("elixir", "cloak-vault"))],
        env={**os.environ, "CLOAK_KEYS": listed}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ciphers = [f'[Cloak.Ciphers.AES.GCM, "AES.GCM.V{number}", 12]' for number in (2, 1)]
    assert done.stdout.splitlines() == ciphers


def test_elixir_reads_what_was_rewritten_and_is_read() -> None:
    ring, texts = made(CLOAK_ECTO), [b"", b"x", "Müller 🔑".encode(), bytes(range(256))]
    keys = [base64.b64encode(raw_of(ring.material(version))).decode() for version in (V1, V2)]
    code, label = format_of(CLOAK_ECTO), ring.material(V1).name
    values = [_sealed_here(raw_of(ring.material(V1)), label, text) for text in texts]
    (rewritten,) = code.reencryptor(ring, V2).reencrypt([values]).columns
    stored = [value.hex() for value in rewritten if value is not None]
    done = subprocess.run(["elixir", "-e", PROGRAM, label, *keys, *stored], capture_output=True, text=True, check=True)
    answers = [[bytes.fromhex(each) for each in line.split(" ")] for line in done.stdout.splitlines()]
    assert [text for text, _ in answers] == texts
    assert [code.plaintext(ring, value) for _, value in answers] == texts
    assert {code.opened_by(ring, value) for _, value in answers} == {(V1, V1)}


def _sealed_here(key: bytes, label: str, text: bytes) -> bytes:
    body = AESGCM(key).encrypt(bytes(12), text, b"AES256GCM")
    return prefix_of(label) + bytes(12) + body[-16:] + body[:-16]
