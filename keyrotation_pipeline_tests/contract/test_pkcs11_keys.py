"""Keys sealed in a PKCS#11 token, SoftHSM's: what opens, what is refused, and what a process leaves behind."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import MechanismFlag, TokenFlag

from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.adapters.keystores.seal_checks import seal_problems
from keyrotation_pipeline.errors import BrokenSealError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto import seal as sealing
from keyrotation_pipeline.fieldcrypto.seal import Seal
from keyrotation_pipeline.fieldcrypto.wrapping_keys import pkcs11 as wrapping
from keyrotation_pipeline.fieldcrypto.wrapping_keys.pkcs11 import Pkcs11Key
from keyrotation_pipeline_tests.cards import LIBRARY
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, key, set_primary
from keyrotation_pipeline_tests.tokens import GCM, KEY_WRAP, PIN, Tokens, needs_softhsm

pytestmark = needs_softhsm

HOME = "0123456789abcdef" * 2
CONTEXT = {"home": HOME, "version": "v1", "fingerprint": "a" * 64}


@pytest.fixture(autouse=True)
def _own_memory() -> Iterator[None]:
    sealing.forget_opened()
    yield
    sealing.forget_opened()


def sealed_in(tokens: Tokens, **more: Any) -> Seal:  # noqa: ANN401
    return Seal(tokens.key(**more), home=lambda: HOME)


@pytest.mark.parametrize(
    ("use", "how"), [pytest.param(GCM, 1, id="AES-GCM"), pytest.param(KEY_WRAP, 2, id="AES key wrap")]
)
def test_a_key_opens_with_its_own_context_alone(tokens: Tokens, use: MechanismFlag, how: int) -> None:
    tokens.add_key(use=use)
    tokens.add_key(label="another", use=use)
    wrapped = tokens.key().encrypt(b"a key", CONTEXT)
    assert wrapped[0] == how
    assert b"a key" not in wrapped
    assert tokens.key().decrypt(wrapped, dict(reversed(CONTEXT.items()))) == b"a key"
    assert tokens.key().encrypt(b"a key", CONTEXT)[1:] != wrapped[1:] or use == KEY_WRAP
    for changed in (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), wrapped[:20], wrapped[:1], b"", b"\3" + wrapped[1:]):
        with pytest.raises(BrokenSealError):
            tokens.key().decrypt(changed, CONTEXT)
    for name in CONTEXT:
        with pytest.raises(BrokenSealError, match="does not open under key 'field keys' in token 'clinic'"):
            tokens.key().decrypt(wrapped, {**CONTEXT, name: "b"})
    with pytest.raises(BrokenSealError, match="key 'another'"):
        tokens.key(label="another").decrypt(wrapped, CONTEXT)
    with tokens.session() as session:  # nothing of ours stays there
        assert len(list(session.get_objects())) == 2


def test_a_store_and_the_key_ring_of_another_process_hold_keys_of_a_token(tokens: Tokens, tmp_path: Path) -> None:
    tokens.add_key()
    FileKeyStore.create(tmp_path / "keys")
    store = FileKeyStore(tmp_path / "keys", seal=sealed_in(tokens))
    for version, number in ((V1, 1), (V2, 2)):
        add(store, version, key(number))
    set_primary(store, V2)
    text = (tmp_path / "keys" / "v1.key").read_text().strip()
    assert re.fullmatch(
        rf"sealed:pkcs11:{HOME}:[0-9a-f]{{64}}:[A-Za-z0-9+/]+=*:pkcs11:token=clinic;object=field%20keys", text
    )
    sealing.forget_opened()
    assert dict(pickle.loads(pickle.dumps(store)).read().live) == {V1: key(1), V2: key(2)}  # noqa: S301
    assert PIN not in repr(store._seal)  # noqa: SLF001
    pin = tmp_path / "pin"
    pin.write_text(f"{PIN}\n")
    reached = {"ENCRYPTION_PKCS11_MODULE": str(LIBRARY), "ENCRYPTION_PKCS11_PIN_FILE": str(pin)}
    script = "from keyrotation_pipeline.encrypted_type import MountedKeyRing; print(MountedKeyRing({!r})().primary)"
    command = [sys.executable, "-c", script.format(str(tmp_path / "keys"))]
    run = subprocess.run(command, env={**os.environ, **reached}, capture_output=True, text=True, check=True)
    assert run.stdout == "v2\n"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        pytest.param({"PIN": PIN}, "MODULE is not set; set it", id="no module"),
        pytest.param({"MODULE": "/lib/p.so"}, "PIN is not set; set it", id="no PIN"),
        pytest.param(
            {"MODULE": "/lib/p.so", "PIN_FILE": "/none"}, "PIN_FILE names /none, which cannot be", id="no file"
        ),
    ],
)
def test_an_application_that_cannot_reach_the_token_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"ENCRYPTION_PKCS11_{name}", value)
    with pytest.raises(KeyStoreUnavailableError, match=f"ENCRYPTION_PKCS11_{sentence}"):
        Pkcs11Key.of("pkcs11:token=clinic;object=field-keys")


def test_an_application_without_the_library_says_which_extra_it_needs(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(KeyStoreUnavailableError, match=r"python-pkcs11 is missing; install .*\[pkcs11\]"):
        tokens.key().decrypt(b"", CONTEXT)


def no_key(tokens: Tokens) -> Pkcs11Key:
    return tokens.key()


def no_module(tokens: Tokens) -> Pkcs11Key:
    return replace(tokens.key(), module="/usr/lib/none.so")


def no_pkcs11(tokens: Tokens) -> Pkcs11Key:
    return replace(tokens.key(), module=pkcs11.__file__)


def no_token(tokens: Tokens) -> Pkcs11Key:
    return tokens.key("hospital", replica="replica")


def two_tokens(tokens: Tokens) -> Pkcs11Key:
    tokens.add()
    return tokens.key()


def two_keys(tokens: Tokens) -> Pkcs11Key:
    tokens.add_key()
    tokens.add_key()
    return tokens.key()


def no_use(tokens: Tokens) -> Pkcs11Key:
    tokens.add_key(use=MechanismFlag.ENCRYPT)
    return tokens.key()


def short(tokens: Tokens) -> Pkcs11Key:
    tokens.add_key(bits=128)
    return tokens.key()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        pytest.param(no_module, r"module /usr/lib/none.so cannot be loaded and initialized; install it", id="missing"),
        pytest.param(no_pkcs11, r"module .*\.py cannot be loaded", id="no module"),
        pytest.param(no_token, r"token 'hospital' or 'replica' is not among those of .*; connect it", id="no token"),
        pytest.param(two_tokens, r"2 tokens have the label 'clinic', and which one", id="two tokens"),
        pytest.param(no_key, r"token 'clinic' holds no AES key with the label 'field keys'", id="no key"),
        pytest.param(two_keys, r"token 'clinic' holds 2 AES keys with the label 'field keys'", id="two keys"),
        pytest.param(no_use, r"lets key 'field keys' do neither AES-GCM nor AES key wrap", id="a key for nothing"),
        pytest.param(short, r"has 128 bits, fewer than what it seals; make one of 256", id="a short key"),
    ],
)
def test_what_is_wrong_with_a_token_is_one_sentence(
    tokens: Tokens, wrong: Callable[[Tokens], Pkcs11Key], sentence: str
) -> None:
    (found,) = Seal(wrong(tokens)).problems()
    assert re.search(sentence, found)
    assert len(found) <= 200 + len(str(pkcs11.__file__))


@pytest.mark.parametrize(
    ("made", "exposed"),
    [
        pytest.param({}, (), id="made in the token"),
        pytest.param({"value": b"k" * 32}, ("imported",), id="imported"),
        pytest.param({"extractable": True}, ("extractable",), id="extractable"),
    ],
)
def test_a_token_says_where_its_key_comes_from_and_one_that_is_exposed_is_named_and_used(
    tokens: Tokens, made: dict[str, Any], exposed: tuple[str, ...]
) -> None:
    tokens.add_key(**made)
    seal = sealed_in(tokens)
    assert not list(seal.problems())
    state = seal.state()
    assert state is not None
    assert state.origin is not None
    assert state.origin.exposed == exposed
    assert "manufacturer SoftHSM project, model SoftHSM v2, firmware 2." in str(state.origin)
    assert f"CKA_LOCAL {str('value' not in made).lower()}" in state.origin.said
    assert ("so a copy of it may be elsewhere" in str(state.origin)) is bool(exposed)
    warned = [each for each in seal_problems(seal, ()) if not each.fatal]
    assert [each.check for each in warned] == ["wrapping_key_is_nowhere_else"] * len(exposed)


def logins_left(tokens: Tokens, label: str = "clinic") -> bool:
    """Whether the last PIN that was tried with a token was right."""
    library = pkcs11.lib(str(LIBRARY))
    try:
        return not library.get_token(token_label=label).flags & TokenFlag.USER_PIN_COUNT_LOW
    finally:
        library.finalize()


def test_a_wrong_pin_is_tried_once_in_all_processes(tokens: Tokens) -> None:
    tokens.add_key()
    wrong = replace(tokens.key(), pin="999999")
    with pytest.raises(KeyStoreUnavailableError, match=r"refuses its PIN \(PinIncorrect\), which is not tried again"):
        wrong.encrypt(b"", CONTEXT)
    assert not logins_left(tokens)
    wrapping._WRONG.clear()  # noqa: SLF001  as in another process
    for each in (wrong, tokens.key()):
        with pytest.raises(KeyStoreUnavailableError, match=r"a wrong PIN was the last one .* run `pkcs11-tool .* -l"):
            each.encrypt(b"", CONTEXT)
    with tokens.session():  # a person logs in
        pass
    assert tokens.key().encrypt(b"", CONTEXT)
    wrapping._WRONG.add((wrong.module, "clinic", wrong.pin))  # noqa: SLF001
    with pytest.raises(KeyStoreUnavailableError, match="a wrong PIN was the last one"):
        wrong.encrypt(b"", CONTEXT)
    assert logins_left(tokens)


def test_a_session_that_is_lost_in_a_call_and_a_locked_pin_are_one_sentence(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.add_key()
    found = Pkcs11Key._key  # noqa: SLF001

    def lost(self: Pkcs11Key, session: Any) -> Any:  # noqa: ANN401
        made = found(self, session)
        pkcs11.lib(self.module).reinitialize()  # as a token that was pulled out and put back
        return made

    with monkeypatch.context() as patched:
        patched.setattr(Pkcs11Key, "_key", lost)
        with pytest.raises(KeyStoreUnavailableError, match=r"cannot be used \(SessionHandleInvalid\); see that the"):
            tokens.key().encrypt(b"", CONTEXT)
    assert tokens.key().encrypt(b"", CONTEXT)

    class Locked:
        flags, label = TokenFlag.USER_PIN_LOCKED, "clinic"

    monkeypatch.setattr(Pkcs11Key, "_token", lambda *_: Locked())
    with pytest.raises(
        KeyStoreUnavailableError, match="the PIN of token 'clinic' is locked; have its security officer"
    ):
        tokens.key().encrypt(b"", CONTEXT)


def test_a_second_token_with_the_key_opens_what_the_first_sealed(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("replica", "other"):
        tokens.add(label)
    tokens.add_key(value=b"k" * 32)
    tokens.add_key("replica", value=b"k" * 32)
    tokens.add_key("other")
    for replica, sentence in (
        (None, r'has no copy, and recovery = "sealed" needs one: name its replica_token_label'),
        ("other", r"token 'other' does not open what key 'field keys' in token 'clinic' seals"),
        ("none", r"token 'none' is not among"),
    ):
        (problem,) = Seal(tokens.key(replica=replica), alone=True).problems()
        assert re.search(sentence, problem)
    both = tokens.key(replica="replica")
    assert not list(Seal(both, alone=True).problems())
    wrapped = both.encrypt(b"a key", CONTEXT)
    for label in ("other", "clinic"):
        subprocess.run(["softhsm2-util", "--delete-token", "--token", label], check=True, capture_output=True)
    assert both.decrypt(wrapped, CONTEXT) == b"a key"
    for name, value in (("MODULE", str(LIBRARY)), ("PIN", PIN), ("REPLICA_TOKEN", "replica")):
        monkeypatch.setenv(f"ENCRYPTION_PKCS11_{name}", value)
    assert Pkcs11Key.of(both.name) == both


_FORKED = """
import os, signal, sys, threading, traceback
from keyrotation_pipeline.fieldcrypto.wrapping_keys.pkcs11 import Pkcs11Key

_, name, module, pin, sealed = sys.argv
context, stop = {"version": "v1"}, threading.Event()

def opens():
    return Pkcs11Key(name, module, pin).decrypt(bytes.fromhex(sealed), context) == b"a key"

def use():
    while not stop.wait(0.02):
        assert opens()

threads = [threading.Thread(target=use) for _ in range(2)]
for each in threads:
    each.start()
failed = 0
for _ in range(20):
    if os.fork() == 0:
        signal.alarm(10)
        try:
            os._exit(not opens())
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    failed += os.wait()[1]
stop.set()
for each in threads:
    each.join()
sys.exit(failed)
"""


_SHARED = """
import sys
from keyrotation_pipeline.fieldcrypto.wrapping_keys.pkcs11 import Pkcs11Key

_, name, module, pin, sealed = sys.argv
for _ in range(15):
    assert Pkcs11Key(name, module, pin).decrypt(bytes.fromhex(sealed), {"version": "v1"}) == b"a key"
"""


def test_processes_use_a_token_at_once(tokens: Tokens) -> None:
    """Each login of SoftHSM 2.6 leaves the token's file empty for a moment, in which others find no token."""
    tokens.add_key()
    made = tokens.key()
    sealed = made.encrypt(b"a key", {"version": "v1"}).hex()
    command = [sys.executable, "-c", _SHARED, made.name, made.module, made.pin, sealed]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(each.communicate(timeout=60)[1], each.returncode) for each in running] == [("", 0)] * 2


@pytest.mark.extended
def test_the_child_of_a_fork_opens_keys_while_its_parent_uses_the_token(tokens: Tokens) -> None:
    """As a web server forks its workers, and the pipeline starts processes: PKCS#11 lets none inherit a session."""
    tokens.add_key()
    made = tokens.key()
    sealed = made.encrypt(b"a key", {"version": "v1"}).hex()
    command = [sys.executable, "-c", _FORKED, made.name, made.module, made.pin, sealed]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
