"""OpenPGP by gpg: certificates, officers' signatures, and encryption to recipients."""

from keyrotation_pipeline.adapters.openpgp.certificates import Certificate
from keyrotation_pipeline.adapters.openpgp.keyring import GnuPG
from keyrotation_pipeline.adapters.openpgp.runner import gpg_binary

__all__ = ["Certificate", "GnuPG", "gpg_binary"]
