"""OpenPGP by gpg: certificates, officers' signatures, and encryption to recipients."""

from keyrotation_pipeline.adapters.openpgp.keyring import GnuPG

__all__ = ["GnuPG"]
