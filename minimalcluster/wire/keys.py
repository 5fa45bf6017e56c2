"""Keys: generate, compare, stretch and derive them. Pure.

HMAC is RFC 2104, HKDF is RFC 5869, PBKDF2 is RFC 8018.
"""
from __future__ import absolute_import, division, print_function

import hashlib
import hmac
import re
import struct

from .. import errors
from ..compat import as_bytes, hexadecimal

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Callable  # noqa: F401 # novm

#: OWASP's figure for PBKDF2-HMAC-SHA256 (2023). A client accepts from this number up to 10 times as many.
KDF_ROUNDS = 600000
#: A key made by ``generate_key`` has 256 random bits and needs no stretching.
GENERATED_KEY = re.compile(br"^mck-[0-9a-f]{64}\Z")
_UTF8_MARK = b"\xef\xbb\xbf"


def generate_key(random_bytes):
    # type: (bytes) -> str
    """A key in text form from 32 random bytes."""
    if len(random_bytes) != 32:
        raise ValueError("a generated key needs 32 random bytes, not %d" % len(random_bytes))
    return "mck-" + hexadecimal(random_bytes)


def as_key(authkey):
    # type: (object) -> bytes
    """The key as it counts: without a byte order mark before it and without white space around it. An editor, a shell
    or ``read()`` may have added these on one side only, and then both sides still have the same key."""
    key = as_bytes(authkey).strip()
    while key.startswith(_UTF8_MARK):  # until none is left: what counts as the key counts so when it is read again
        key = key[len(_UTF8_MARK) :].strip()
    return key


def is_generated(key):
    # type: (bytes) -> bool
    return GENERATED_KEY.match(key) is not None


def fingerprint(authkey):
    # type: (object) -> str
    """Eight hexadecimal digits by which people compare generated keys; "" for any other key, since whoever sees the
    fingerprint of a passphrase can guess the passphrase."""
    key = as_key(authkey)
    digest = hashlib.sha256(b"minimalcluster fingerprint" + key).digest()
    return hexadecimal(digest[:4]) if is_generated(key) else ""


def oddness(authkey):
    # type: (object) -> str
    """What an editor or a shell may have added to a key, and counts, in words; "" if nothing."""
    key = as_key(authkey)
    found = []
    if key[:2] in (b"\xff\xfe", b"\xfe\xff"):
        found.append("a byte order mark (BOM) of UTF-16 before it")
    if len(key) > 1 and key[:1] == key[-1:] and key[:1] in (b"'", b'"'):
        found.append("quotes around it")
    return " and ".join(found)


def warn_if_odd(authkey, warn):
    # type: (object, Callable[[str, str], object]) -> None
    """Log a warning at once on the side that has such a key: the other side only sees that the keys differ."""
    odd = oddness(authkey)
    if odd:
        warn("AUTHKEY has %s, which counts: the other side's key must have it, too", odd)


_STRETCHED_MAX = 8  # the other side chooses the salts, so their number must be bounded here
_stretched = {}  # type: dict # (authkey, salt, rounds) -> key


class NotStretched(errors.ConnectionFailed):
    """This key must go through PBKDF2 with this salt first, which may take longer than the other side waits."""

    def __init__(self, salt, rounds):
        # type: (bytes, int) -> None
        super(NotStretched, self).__init__("the key must be stretched first")
        self.salt, self.rounds = salt, rounds


def ready_key(authkey, salt, rounds):
    # type: (bytes, bytes, int) -> bytes
    """The key that proofs are made with: 32 bytes. A generated key is not stretched, whatever HELLO says.

    Raises NotStretched if ``proof_key`` has not been called with the same values before, and ProtocolError if rounds
    is out of bounds, since a false server could ask for too few or too many.
    """
    if is_generated(authkey):
        return hashlib.sha256(b"minimalcluster generated key" + authkey).digest()
    if not KDF_ROUNDS <= rounds <= 10 * KDF_ROUNDS:
        raise errors.ProtocolError("the other side asks for %d rounds of PBKDF2; refused" % rounds)
    key = _stretched.get((authkey, salt, rounds))
    if key is None:
        raise NotStretched(salt, rounds)
    return key


def proof_key(authkey, salt, rounds):
    # type: (bytes, bytes, int) -> bytes
    """As ``ready_key``, but stretches the key if need be: 0.2 s on a fast machine, 10 s and more on a slow one."""
    try:
        return ready_key(authkey, salt, rounds)
    except NotStretched:
        key = hashlib.pbkdf2_hmac("sha256", authkey, salt, rounds)
        if len(_stretched) >= _STRETCHED_MAX:
            _stretched.clear()
        _stretched[(authkey, salt, rounds)] = key
        return key


def hkdf_sha256(material, salt, info, length):
    # type: (bytes, bytes, bytes, int) -> bytes
    """RFC 5869: extract, then expand."""
    extracted = hmac.new(salt or b"\0" * 32, material, hashlib.sha256).digest()
    block, output, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.new(extracted, block + info + struct.pack("B", counter), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]
