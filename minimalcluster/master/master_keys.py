"""A master's key: given, or in a file, which is made if it is not there; and whether it can be guessed.

A key file is made with mode 0600, and its folder, if it is not there, with 0700.
"""
from __future__ import absolute_import, division, print_function

import errno
import os
import re

from ..compat import as_bytes
from ..errors import KeyFileError
from ..logs import log
from ..wire import key_files, keys
from ..wire.addresses import is_loopback

HOME_VARIABLE = "MINIMALCLUSTER_HOME"
#: 128 bits, if the bytes are random.
KEY_BYTES_MIN = 16
#: 16 random hexadecimal digits have fewer than five different ones once in two million keys.
DIFFERENT_BYTES_MIN = 5
#: Long keys that stand in examples, or on keyboards: their letters and digits, in lower case.
WELL_KNOWN = frozenset([
    b"0123456789abcdef", b"1234567890123456", b"123456789abcdefg", b"abcdefghijklmnop", b"abcdefghijklmnopqrstuvwxyz",
    b"qwertyuiopasdfgh", b"qwertyuiopasdfghjklzxcvbnm", b"1qaz2wsx3edc4rfv", b"correcthorsebatterystaple",
    b"thisisaverysecretkey", b"thisisasecretkey", b"averysecretpassword", b"asecretpassword123", b"supersecretpassword",
    b"changemechangeme", b"pleasechangethiskey", b"pleasechangeme123", b"passwordpassword", b"password12345678",
    b"mysecretpassword", b"mysupersecretkey", b"minimalclusterkey", b"minimalclusterauthkey", b"yourauthkeyhere123",
    b"theauthkeyforyourcluster", b"letmeinletmeinletmein", b"abcdefghijklmnop0123456789", b"secretsecretsecret",
])  # fmt: skip
_REMEDY = "python -m minimalcluster key new FILE makes a strong one, for key_file=FILE on both sides"


def home():
    # type: () -> str
    """The folder for this user's keys: from the environment variable, or in the user's home."""
    return os.path.abspath(os.environ.get(HOME_VARIABLE) or os.path.join(os.path.expanduser("~"), ".minimalcluster"))


def master_key(host, authkey, key_file):
    # type: (str, object, str | None) -> object
    """A master's key: authkey, or that of the file, which is made if it is not there, or a new one.

    Raises KeyFileError, and ValueError if both are given or the key is too weak for this host. On loopback there is
    only a warning, as everywhere for a key that looks weak ("k" * 32).
    """
    key_files.check_one(authkey, key_file)
    if key_file is not None:
        authkey = _read_or_made(key_file)
    elif authkey is None:
        return keys.generate_key(os.urandom(32))
    weak = "is empty" if not keys.as_key(authkey) else weakness(authkey)
    if weak and not (keys.as_key(authkey) and is_loopback(host)):
        raise ValueError("AUTHKEY %s; %s (HOST is %r)" % (weak, _REMEDY, host))
    weak = weak or pattern(authkey)
    if weak:
        log.warning("AUTHKEY %s; %s", weak, _REMEDY)
    keys.warn_if_odd(authkey, log.warning)
    return authkey


def weakness(authkey):
    # type: (object) -> str
    """Why a key is guessed soon, in words; "" if it is not."""
    key = keys.as_key(authkey)
    if keys.is_generated(key):
        return ""
    if len(key) < KEY_BYTES_MIN:
        return "has %d bytes, at least %d are needed" % (len(key), KEY_BYTES_MIN)
    if re.sub(br"[^0-9a-z]", b"", key.lower()) in WELL_KNOWN:
        return "is one of those that attackers try first"
    return ""


def pattern(authkey):
    # type: (object) -> str
    """Why a key of enough bytes is easier to guess than others, in words; "" if nothing is seen."""
    key = keys.as_key(authkey)
    if len(set(key)) < DIFFERENT_BYTES_MIN:
        return "has only %d different characters" % len(set(key))
    if any(key[:-size] == key[size:] for size in range(1, min(KEY_BYTES_MIN, len(key) // 2 + 1))):
        return "repeats a short text"
    return ""


def make(path):
    # type: (str) -> str
    """Make a key file with a new key, which is returned. Raises KeyFileError, also if there is such a file already."""
    path = key_files.expanded(path)
    key = keys.generate_key(os.urandom(32))
    try:
        _make_folder(os.path.dirname(os.path.abspath(path)))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            os.write(descriptor, as_bytes(key) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, IOError) as error:
        if error.errno == errno.EEXIST:
            raise KeyFileError("%s is there already; a new key there would lock out whoever has the old one" % path)
        raise KeyFileError("no key file can be made at %s: %s" % (path, error.strerror))
    return key


def _read_or_made(path):
    # type: (str) -> str
    if not os.path.lexists(key_files.expanded(path)):
        try:
            return make(path)
        except KeyFileError:
            if not os.path.lexists(key_files.expanded(path)):
                raise
            # another process was faster
    return key_files.read(path)


def _make_folder(folder):
    # type: (str) -> None
    if not os.path.isdir(folder):
        _make_folder(os.path.dirname(folder))
        try:
            os.mkdir(folder, 0o700)
        except OSError as error:
            if error.errno != errno.EEXIST:  # another process has just made it
                raise
