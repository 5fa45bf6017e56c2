"""A self-signed certificate and its key for this run of a master: made at its start, gone with it.

Nobody has to trust it, because the proof of the key covers its hash (``handshakes.py``). So its name and its dates say
nothing. The package ``cryptography`` makes it, else the command ``openssl``, else this file, with the standard library
alone: X.509 is RFC 5280, the curve and the signature are FIPS 186-4, the key's format is RFC 5915.
"""
from __future__ import absolute_import, division, print_function

import base64
import binascii
import datetime
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager

from ..compat import hexadecimal
from ..logs import log

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Iterator  # noqa: F401 # novm

NAME = "minimalcluster"
#: Fixed, so that no clock of any machine matters.
_FROM, _UNTIL = datetime.datetime(2000, 1, 1), datetime.datetime(2099, 12, 31)
#: Of the environment, what the command needs to be found and to start. The rest is not for other programs.
_VARIABLES = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TEMP", "TMP", "TMPDIR")

# The curve P-256: y^2 = x^3 - 3x + b modulo P; G is its base point, of the order N.
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

# DER's tags.
_INTEGER, _BITS, _OCTETS, _OID, _UTF8, _TIME, _SEQUENCE, _SET = 0x02, 0x03, 0x04, 0x06, 0x0C, 0x18, 0x30, 0x31
_CONTEXT = 0xA0  # and the field's number
# DER of the object identifiers' contents.
_EC_KEY, _P256 = binascii.unhexlify("2a8648ce3d0201"), binascii.unhexlify("2a8648ce3d030107")
_ECDSA_SHA256, _COMMON_NAME = binascii.unhexlify("2a8648ce3d040302"), binascii.unhexlify("550403")
#: The extension "basic constraints: is its own authority", so that tools that verify a certificate take it.
_EXTENSIONS = binascii.unhexlify("a3133011300f0603551d130101ff040530030101ff")


def make():
    # type: () -> bytes
    """A new key and its certificate, both as PEM in one text."""
    for way in (by_cryptography, by_openssl):
        try:
            return way()
        except Exception as error:  # whatever is wrong with a foreign package or program
            log.debug("no certificate %s: %s", way.__name__, error)
    return by_ourselves()


@contextmanager
def in_file(pem):
    # type: (bytes) -> Iterator[str]
    """The path of a file with this text, which no other user can read. The file is gone when the block ends.

    The module ``ssl`` loads keys from files only.
    """
    with _private_folder() as folder:
        path = os.path.join(folder, "pem")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        yield path


@contextmanager
def _private_folder():
    # type: () -> Iterator[str]
    folder = tempfile.mkdtemp(prefix="minimalcluster-")  # for its owner alone
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def by_cryptography():
    # type: () -> bytes
    from cryptography import x509
    from cryptography.hazmat.backends import default_backend
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1(), default_backend())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, u"" + NAME)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(_serial()).not_valid_before(_FROM).not_valid_after(_UNTIL)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256(), default_backend())
    encoding = serialization.Encoding.PEM
    kind, secret = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    return key.private_bytes(encoding, kind, secret) + certificate.public_bytes(encoding)


def by_openssl():
    # type: () -> bytes
    with _private_folder() as folder:
        paths = [os.path.join(folder, name) for name in ("key", "certificate")]
        command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-subj", "/CN=" + NAME, "-days", "36500", "-keyout", paths[0], "-out", paths[1]]
        variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        with open(os.devnull, "rb") as nothing:
            process = subprocess.Popen(
                command, stdin=nothing, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables
            )
            output = process.communicate()[0]
        if process.returncode:
            raise ValueError("openssl ended with %d: %r" % (process.returncode, output[-200:]))
        return b"".join(_content(path) for path in paths)


def _content(path):
    # type: (str) -> bytes
    with open(path, "rb") as file:
        return file.read()


# -- by the standard library alone ----------------------------------------------------------------


def by_ourselves():
    # type: () -> bytes
    secret = _random_scalar()
    x, y = _times(secret, _G)
    public = _der(_BITS, b"\0\4" + _number(x) + _number(y))  # no unused bits; a point with both coordinates
    curve = _der(_OID, _P256)
    key = _der(
        _SEQUENCE, _integer(1), _der(_OCTETS, _number(secret)), _der(_CONTEXT, curve), _der(_CONTEXT + 1, public)
    )
    algorithm = _der(_SEQUENCE, _der(_OID, _ECDSA_SHA256))
    name = _der(_SEQUENCE, _der(_SET, _der(_SEQUENCE, _der(_OID, _COMMON_NAME), _der(_UTF8, NAME.encode("ascii")))))
    times = [_der(_TIME, ("%d%02d%02d000000Z" % day.timetuple()[:3]).encode("ascii")) for day in (_FROM, _UNTIL)]
    public_key = _der(_SEQUENCE, _der(_SEQUENCE, _der(_OID, _EC_KEY), curve), public)
    version = _der(_CONTEXT, _integer(2))  # the third
    body = _der(
        _SEQUENCE, version, _integer(_serial()), algorithm, name, _der(_SEQUENCE, *times), name, public_key, _EXTENSIONS
    )
    certificate = _der(_SEQUENCE, body, algorithm, _der(_BITS, b"\0" + _signature(secret, body)))
    return _pem("EC PRIVATE KEY", key) + _pem("CERTIFICATE", certificate)


def _serial():
    # type: () -> int
    """Of 127 bits: positive, as RFC 5280 wants it."""
    return int(hexadecimal(os.urandom(16)), 16) >> 1 or 1


def _random_scalar():
    # type: () -> int
    """A number from 1 to N - 1. From 384 bits, so that none is likelier than another by more than 2**-128."""
    return int(hexadecimal(os.urandom(48)), 16) % (_N - 1) + 1


def _signature(secret, data):
    # type: (int, bytes) -> bytes
    """ECDSA with SHA-256. The number that must be secret and never used twice (k) is new at random."""
    digest = int(hexadecimal(hashlib.sha256(data).digest()), 16)
    r = s = 0
    while not r or not s:
        k = _random_scalar()
        r = _times(k, _G)[0] % _N
        s = _inverse(k, _N) * (digest + r * secret) % _N
    return _der(_SEQUENCE, _integer(r), _integer(s))


def _inverse(number, prime):
    # type: (int, int) -> int
    return pow(number, prime - 2, prime)  # Fermat; pow(number, -1, prime) is of 3.8


def _times(factor, point):
    # type: (int, tuple) -> tuple
    """The point times a number from 1 to N - 1. In Jacobian coordinates, which need one division in all: (x, y, z)
    stands for (x / z^2, y / z^3)."""
    start = total = (point[0], point[1], 1)
    for bit in bin(factor)[3:]:
        total = _doubled(*total)
        if bit == "1":
            total = _sum(total, start)
    x, y, z = total
    over = _inverse(z, _P)
    return x * over**2 % _P, y * over**3 % _P


def _doubled(x, y, z):
    # type: (int, int, int) -> tuple
    square = y * y % _P
    s = 4 * x * square % _P
    m = 3 * (x - z * z) * (x + z * z) % _P
    new_x = (m * m - 2 * s) % _P
    return new_x, (m * (s - new_x) - 8 * square * square) % _P, 2 * y * z % _P


def _sum(point, base):
    # type: (tuple, tuple) -> tuple
    """Of two points, neither the same nor opposite, since the factor is below N; the second one's z is 1."""
    x, y, z = point
    h = (base[0] * z * z - x) % _P
    r = (base[1] * z * z * z - y) % _P
    new_x = (r * r - h * h * h - 2 * x * h * h) % _P
    return new_x, (r * (x * h * h - new_x) - y * h * h * h) % _P, z * h % _P


def _number(value):
    # type: (int) -> bytes
    """32 bytes, the highest first."""
    return binascii.unhexlify(("%064x" % value).encode("ascii"))


def _integer(value):
    # type: (int) -> bytes
    """DER of a positive number: as few bytes as possible, the first one below 128."""
    text = "%x" % value
    data = binascii.unhexlify(("0" * (len(text) % 2) + text).encode("ascii"))
    return _der(_INTEGER, (b"\0" if bytearray(data)[0] > 127 else b"") + data)


def _der(tag, *parts):
    # type: (int, *bytes) -> bytes
    content = b"".join(parts)
    size = len(content)
    length = [size] if size < 128 else [0x81, size] if size < 256 else [0x82, size >> 8, size & 255]
    return bytes(bytearray([tag] + length)) + content


def _pem(label, der):
    # type: (str, bytes) -> bytes
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    first, last = ("-----%s %s-----" % (word, label) for word in ("BEGIN", "END"))
    return b"\n".join([first.encode("ascii")] + lines + [last.encode("ascii"), b""])
