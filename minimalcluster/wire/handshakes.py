"""The handshake: both sides prove that they know the key, then there is a channel. Pure: bytes in, bytes out.

::

    server                              client
      HELLO  ------------------------->            version, a salt, a nonce; nothing derived from the key
             <-------------------------  AUTH      the client proves first that it knows the key
      OK     ------------------------->            then the server proves it
      frame  <------------------------>  frame     see frames.py

The server sends nothing derived from the key until the client has proved that it knows the key. A refusal is one byte.
This is the handshake of SECURITY.md.

If HELLO has the flag TLS, both sides begin TLS right behind HELLO, and all else travels inside (``tls.py``). The proofs
cover HELLO with this flag, and the hash of the server's certificate. So they fail if somebody in the middle takes the
flag away, adds it, or shows a certificate of his own.
"""
from __future__ import absolute_import, division, print_function

import hashlib
import hmac
import struct
from collections import namedtuple

from .. import errors
from .frames import Channel
from .keys import KDF_ROUNDS, as_key, fingerprint, hkdf_sha256, oddness, proof_key
from .limits import HANDSHAKE_BYTES_MAX

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Callable  # noqa: F401 # novm

# An old version (multiprocessing's protocol) reads these bytes as a length of 1.8 GB, so it fails and does not hang.
MAGIC = b"minicl1\n"
VERSION = 3
NODE, CHILD = 1, 2  # roles
REFUSED_KEY, REFUSED_VERSION = 1, 2
UNTAGGED, TLS = 1, 2  # flags in HELLO, one at most

_HELLO = struct.Struct(">8sBB16sI32s")
_AUTH = struct.Struct(">8sB32sB16sBBB")
_OK = struct.Struct(">QIB32s")
_PROOF_BYTES = 32
#: Without TLS, in the place of the certificate's hash.
_NO_CERTIFICATE = b"\0" * 32

Peer = namedtuple("Peer", "role node_id python pickle_protocol session epoch")


class _Handshake(object):
    """The part that both sides share. ``channel`` and ``peer`` are None until the other side's proof is verified.

    ``wants_tls``: TLS is to begin now; when it stands, call ``secured`` with the hash of the certificate that the other
    side has shown, and send what it returns.
    """

    def __init__(self, authkey):
        # type: (object) -> None
        self.authkey = as_key(authkey)
        self._key = None  # type: bytes # type: ignore[assignment] # the proof key, once the salt is known
        self.channel = None  # type: Channel | None
        self.peer = None  # type: Peer | None
        self.wants_tls = False
        self._buffer = b""

    def _take(self, size):
        # type: (int) -> bytes | None
        if len(self._buffer) < size:
            return None
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def leftover(self):
        # type: () -> bytes
        """The bytes that arrived behind the handshake in the same read: the beginning of the frames. Once only."""
        taken, self._buffer = self._buffer, b""
        return taken

    def _proof(self, side, transcript):
        # type: (bytes, bytes) -> bytes
        return hmac.new(self._key, side + transcript, hashlib.sha256).digest()

    def _open(self, transcript, ours, theirs, flags):
        # type: (bytes, bytes, bytes, int) -> None
        keys = {
            side: hkdf_sha256(self._key, transcript, b"minimalcluster frames " + side, 32) for side in (ours, theirs)
        }
        self.channel = Channel(keys[ours], keys[theirs], tagged=not flags, local=flags == UNTAGGED)


def _transcript(hello, auth, certificate_hash):
    # type: (bytes, bytes, bytes) -> bytes
    return hashlib.sha256(hello + auth + certificate_hash).digest()


def _answer(transcript, proof, fields):
    # type: (bytes, bytes, bytes) -> bytes
    # The proof covers OK's fields, so that somebody in between cannot change the session or the pickle protocol.
    return hashlib.sha256(transcript + proof + fields).digest()


class ServerHandshake(_Handshake):
    """The accepting side. ``start()`` returns HELLO; ``receive(data)`` returns the bytes to send back.

    salt: 16 random bytes, nonce: 32. key: the proof key, if it was derived before; else it is derived from authkey and
    salt here, which takes long for a key that was not generated. tagged: False for a worker process of this machine
    (frames.py). certificate_hash: the SHA-256 of the certificate that the server shows in TLS; None without TLS.
    """

    def __init__(
        self, authkey, salt, nonce, session, epoch, key=None, tagged=True, pickle_protocol=4, certificate_hash=None
    ):
        # type: (object, bytes, bytes, int, int, bytes | None, bool, int, bytes | None) -> None
        super(ServerHandshake, self).__init__(authkey)
        self._key = key if key is not None else proof_key(self.authkey, salt, KDF_ROUNDS)
        self.wants_tls = certificate_hash is not None
        self._certificate_hash = certificate_hash or _NO_CERTIFICATE
        self._flags = TLS if self.wants_tls else 0 if tagged else UNTAGGED
        self._session, self._epoch, self._pickle = session, epoch, pickle_protocol
        self._hello = _HELLO.pack(MAGIC, VERSION, self._flags, salt, KDF_ROUNDS, nonce)

    def start(self):
        # type: () -> bytes
        return self._hello

    def secured(self, shown):
        # type: (bytes | None) -> bytes
        self.wants_tls = False
        return b""  # the client goes on

    def receive(self, data):
        # type: (bytes) -> bytes
        """The bytes to send back, perhaps none.

        Raises ProtocolError or AuthenticationError. If the error has ``.reply``, send that byte before closing.
        """
        self._buffer += data
        if not MAGIC.startswith(self._buffer[: len(MAGIC)]):
            raise errors.ProtocolError("the peer speaks %s" % spoken(self._buffer))
        if len(self._buffer) > HANDSHAKE_BYTES_MAX:
            raise errors.ProtocolError("the peer sent %d bytes and no proof" % len(self._buffer))
        auth = self._take(_AUTH.size + _PROOF_BYTES)
        if auth is None:
            return b""
        fields, proof = auth[: _AUTH.size], auth[_AUTH.size :]
        _, version, _, role, node_id, pickle_protocol, major, minor = _AUTH.unpack(fields)
        transcript = _transcript(self._hello, fields, self._certificate_hash)
        if version != VERSION:
            raise _refusal(errors.ProtocolError("the peer speaks wire version %d" % version), REFUSED_VERSION)
        if not hmac.compare_digest(self._proof(b"client", transcript), proof):
            text = "the peer could not prove that it knows the key" + _fingerprint(self.authkey)
            raise _refusal(errors.AuthenticationError(text), REFUSED_KEY)
        chosen = min(pickle_protocol, self._pickle)
        self.peer = Peer(role, node_id, (major, minor), chosen, self._session, self._epoch)
        self._open(transcript, b"server", b"client", self._flags)
        fields = _OK.pack(self._session, self._epoch, chosen, b"")[:-_PROOF_BYTES]
        return b"\0" + fields + self._proof(b"server", _answer(transcript, proof, fields))


class ClientHandshake(_Handshake):
    """The dialling side. ``start()`` returns no bytes; ``receive(data)`` returns the bytes to send back.

    nonce: 32 random bytes. role: NODE or CHILD. node_id: 16 bytes. python: (major, minor). where: the peer as
    "host:port", for errors. encrypt: True only with TLS, False only without, None as the server says. derive:
    ``keys.proof_key``, or ``keys.ready_key`` where nothing may take long.
    """

    def __init__(
        self, authkey, nonce, role, node_id, python, where, pickle_protocol=4, encrypt=False, derive=proof_key
    ):
        # type: (object, bytes, int, bytes, tuple, str, int, bool | None, Callable[[bytes, bytes, int], bytes]) -> None
        super(ClientHandshake, self).__init__(authkey)
        self._where, self._encrypt, self._derive = where, encrypt, derive
        self._fields = (nonce, role, node_id, pickle_protocol, python[0], python[1])
        self._hello = None  # type: bytes | None
        self._auth = b""
        self._transcript = b""

    def start(self):
        # type: () -> bytes
        return b""

    def receive(self, data):
        # type: (bytes) -> bytes
        """The bytes to send back, perhaps none.

        Raises ProtocolError, AuthenticationError, VersionMismatch or what ``derive`` raises. Then the connection must
        be closed.
        """
        self._buffer += data
        if self._hello is None:
            return self._answer_hello()
        return self._check_ok()

    def _answer_hello(self):
        # type: () -> bytes
        if not MAGIC.startswith(self._buffer[: len(MAGIC)]):
            raise errors.ProtocolError("%s speaks %s" % (self._where, spoken(self._buffer)))
        hello = self._take(_HELLO.size)
        if hello is None:
            return b""
        _, version, flags, salt, rounds, _ = _HELLO.unpack(hello)
        if version != VERSION:
            raise errors.VersionMismatch(_wire_versions(self._where, version))
        self._hello, self._flags = hello, flags
        self._check_flags()
        self._key = self._derive(self.authkey, salt, rounds)
        if flags != TLS:
            return self._prove(_NO_CERTIFICATE)
        if self._buffer:  # nobody may slip in what would then count as encrypted
            raise errors.ProtocolError("%s said more before the encryption began" % self._where)
        self.wants_tls = True
        return b""

    def _check_flags(self):
        # type: () -> None
        if self._flags not in (0, UNTAGGED, TLS):
            raise errors.ProtocolError("%s sent the unknown flags %d" % (self._where, self._flags))
        if self._encrypt and self._flags != TLS:
            raise errors.EncryptionError(
                "%s does not encrypt, and here encrypt=True is asked for: start the master with encrypt=True, too"
                % self._where
            )
        if self._encrypt is False and self._flags == TLS:
            raise errors.EncryptionError("%s encrypts, and here encrypt=False is asked for" % self._where)

    def secured(self, shown):
        # type: (bytes | None) -> bytes
        self.wants_tls = False
        if shown is None:
            raise errors.AuthenticationError("%s has shown no certificate" % self._where)
        return self._prove(shown)

    def _prove(self, certificate_hash):
        # type: (bytes) -> bytes
        nonce, role, node_id, pickle_protocol, major, minor = self._fields
        auth = _AUTH.pack(MAGIC, VERSION, nonce, role, node_id, pickle_protocol, major, minor)
        self._transcript = _transcript(self._hello, auth, certificate_hash)  # type: ignore[arg-type]
        self._auth = auth + self._proof(b"client", self._transcript)
        return self._auth

    def _check_ok(self):
        # type: () -> bytes
        if self._buffer and self._buffer[:1] != b"\0":
            raise self._refused(bytearray(self._buffer)[0])
        ok = self._take(1 + _OK.size)
        if ok is None:
            return b""
        session, epoch, pickle_protocol, answer = _OK.unpack(ok[1:])
        proof = self._auth[-_PROOF_BYTES:]
        expected = self._proof(b"server", _answer(self._transcript, proof, ok[1:-_PROOF_BYTES]))
        if not hmac.compare_digest(expected, answer):
            raise errors.AuthenticationError(
                "%s could not prove that it knows the key: not our master, or someone in the middle; "
                "nothing was sent to it" % self._where
            )
        self.peer = Peer(self._fields[1], self._fields[2], None, pickle_protocol, session, epoch)
        # The transcript covers the flags, so that somebody in between cannot change them.
        self._open(self._transcript, b"client", b"server", self._flags)
        return b""

    def _refused(self, reason):
        # type: (int) -> errors.ConnectionFailed
        if reason == REFUSED_KEY:
            odd = oddness(self.authkey)
            return errors.AuthenticationError(
                "the master at %s refused our key%s. Is AUTHKEY, or the key file, the same on both sides?%s"
                % (self._where, _fingerprint(self.authkey), " Ours has %s." % odd if odd else "")
            )
        if reason == REFUSED_VERSION:
            return errors.VersionMismatch(_wire_versions(self._where, None))
        return errors.ProtocolError("%s refused us with the unknown reason %d" % (self._where, reason))


def _fingerprint(authkey):
    # type: (bytes) -> str
    return " (fingerprint %s)" % fingerprint(authkey) if fingerprint(authkey) else ""


def _refusal(error, reason):
    # type: (errors.ConnectionFailed, int) -> errors.ConnectionFailed
    error.reply = struct.pack("B", reason)
    return error


def _wire_versions(where, theirs):
    # type: (str, int | None) -> str
    return "%s speaks wire version %s, we speak %d; install the same minimalcluster on both" % (
        where,
        "another" if theirs is None else theirs,
        VERSION,
    )


def spoken(data):
    # type: (bytes) -> str
    """A guess, in words, which protocol a foreign peer speaks. data: its first bytes."""
    if data[:5] == b"HTTP/" or data.split(b" ")[0] in (b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT"):
        return "HTTP"
    if data[:4] == b"SSH-":
        return "SSH"
    if data[:2] in (b"\x16\x03", b"\x15\x03"):
        return "TLS"
    if data[: len(MAGIC)] == MAGIC:
        return "minimalcluster"
    if data[:3] == b"\0\0\0" and b"#" in data[3:8]:
        return "multiprocessing (an old minimalcluster?); upgrade it"
    return "another protocol (it began with %r)" % bytes(data[:8])
