"""TLS on a connection: a stream that encrypts what passes through it, and the contexts of both sides.

The module ``ssl`` never gets the connection's socket. It encrypts and decrypts in memory, and its bytes travel as those
without TLS do. (A write of OpenSSL's to a socket may end the program with SIGPIPE: see ``stream.py``.)

Unless the user gives an ``ssl_context``, nobody trusts a certificate: the proof of the key covers its hash
(``handshakes.py``), and fails if somebody in the middle shows another one.
"""
from __future__ import absolute_import, division, print_function

import hashlib
import socket
from collections import deque

from .. import errors
from ..compat import PY2, WINDOWS, joined, socketpair
from . import certificates
from .handshakes import spoken
from .stream import RECEIVE_BYTES, SocketStream, drop_front

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable  # noqa: F401 # novm

try:
    import ssl
except ImportError:  # a Python that was built without OpenSSL
    ssl = None  # type: ignore[assignment]

#: How much is encrypted at once. The next bytes follow when these have gone.
ENCRYPT_BYTES = 256 << 10
#: With AES-GCM one key is good for 2**24.5 full records in one direction, 388 GB (RFC 8446, section 5.5): a gigabit a
#: second reaches that in an hour. OpenSSL neither counts nor changes keys by itself (its issue 23566), and ``ssl`` has
#: no call for it. So the connection ends before that, and the node's next one has new keys.
ONE_KEY_BYTES_MAX = 1 << 38
#: The largest record of TLS (RFC 8446, section 5.1).
_RECORD_BYTES = 16 << 10
#: What TLS begins with: the type of a record of its handshake, and the first byte of the version.
_BEGINNING = b"\x16\x03"


def check_context(context):
    # type: (object) -> None
    """Raises EncryptionError if this Python has no TLS that we can use, TypeError if the user's context is none."""
    if not hasattr(ssl, "SSLContext") or (PY2 and WINDOWS):
        raise errors.EncryptionError(
            "this Python has no module ssl that can encrypt here; with encrypt=False on the master, messages are "
            "protected against change, but everybody on the network can read them"
        )
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise TypeError("ssl_context must be an ssl.SSLContext, not %r" % (context,))


class Server(object):
    """The accepting side of all connections of one port. context: the user's own, or None.

    descriptors: how many a connection takes.
    """

    descriptors = 1 if hasattr(ssl, "MemoryBIO") else 3  # a ``_Pair`` has two

    def __init__(self, context=None):
        # type: (ssl.SSLContext | None) -> None
        check_context(context)
        self._context = _context_of_a_server() if context is None else context
        self.certificate_hash = _hash_shown_by(self._context)

    def stream(self, sock, plain, where):
        # type: (socket.socket, bytes, str) -> TlsStream
        """Encrypt what comes after these plain bytes, which are still to be sent."""
        return TlsStream(sock, lambda: _pipe(self._context, True), where, plain)


class Client(object):
    """The dialling side. context: the user's own, or None. host: the name that the user's context checks."""

    def __init__(self, context=None, host=None):
        # type: (ssl.SSLContext | None, str | None) -> None
        check_context(context)
        self._context = _context_of_a_client() if context is None else context
        self._host = None if context is None else host

    def stream(self, sock, plain, where):
        # type: (socket.socket, bytes, str) -> TlsStream
        stream = TlsStream(sock, lambda: _pipe(self._context, False, self._host), where, plain)
        stream.begin()
        return stream


class TlsStream(SocketStream):
    """A connected socket on which all is encrypted, but for the plain bytes that are sent first.

    ``stands`` is False until both sides have agreed on the encryption. ``certificate_hash``: the SHA-256 of the
    certificate that the other side has shown; None if it has shown none. make_pipe: makes ``ssl``'s part. where: the
    peer, for errors.
    """

    encrypts = True

    def __init__(self, sock, make_pipe, where, plain=b""):
        # type: (socket.socket, Callable[[], Any], str, bytes) -> None
        super(TlsStream, self).__init__(sock)
        self._make_pipe, self._where = make_pipe, where
        self._pipe = None  # type: Any # until the first bytes come: strangers that are silent get none
        self._unsent = deque([plain] if plain else [])  # type: deque # encrypted, but for the plain bytes before it
        self._encrypted = 0  # the number of bytes that were ever in ``_unsent``
        self._under_way = 0  # the number of the user's bytes that are in ``_unsent``
        self.stands = False
        self.certificate_hash = None

    @property
    def has_unsent(self):  # type: ignore[override]
        # type: () -> bool
        return bool(self._unsent)

    def begin(self):
        # type: () -> None
        self._pipe = self._make_pipe()
        self._agree()

    def receive(self):
        # type: () -> bytes | None
        data = super(TlsStream, self).receive()
        if not data:
            return data
        if self._pipe is None:
            if data[: len(_BEGINNING)] != _BEGINNING[: len(data)]:
                raise errors.ProtocolError("the peer speaks %s, not TLS" % spoken(data))
            self.begin()
        parts = []  # type: list
        step = self._pipe.step
        for start in range(0, len(data), step):
            self._pipe.put(data[start : start + step])
            if not self.stands:
                self._agree()
            if self.stands:
                self._decrypt(parts)
        self._take_encrypted()
        return b"".join(parts) or None

    def send(self, buffers):
        # type: (deque) -> int
        """As of a socket, with several system calls. A byte counts as written when as many encrypted bytes have gone;
        until then it must stay in front of the buffers."""
        gone = self._flush()
        if not self._unsent and not self._under_way and self.stands and buffers:
            self._encrypt(buffers)
            gone = self._flush()
        written = min(gone, self._under_way) if self._unsent else self._under_way
        self._under_way -= written
        return written

    def close(self):
        # type: () -> None
        # Without TLS's goodbye: a member says Farewell in a message, and the end of all else is a loss.
        if self._pipe is not None:
            self._pipe.close()
        super(TlsStream, self).close()

    def _agree(self):
        # type: () -> None
        """Go on with TLS's handshake, as far as the bytes go that have arrived."""
        tls = self._pipe.tls
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except (ssl.SSLError, ssl.CertificateError) as error:  # the latter is no SSLError before 3.7
            self._tell_why()
            raise _explained(error, self._where)
        finally:
            self._take_encrypted()
        shown = tls.getpeercert(True)
        self.certificate_hash = hashlib.sha256(shown).digest() if shown else None
        self.stands = True

    def _tell_why(self):
        # type: () -> None
        """Send the alert that tells the other side why, if it can be sent now."""
        self._take_encrypted()
        try:
            self._flush()
        except (OSError, socket.error):
            pass

    def _decrypt(self, parts):
        # type: (list) -> None
        """Everything that has arrived: nothing may be left in ``ssl``, about which no poller knows."""
        tls = self._pipe.tls
        try:
            while True:
                part = tls.read(_RECORD_BYTES)
                if not part:
                    return  # TLS's goodbye; then the other side closes
                parts.append(part)
        except ssl.SSLWantReadError:
            pass

    def _encrypt(self, buffers):
        # type: (deque) -> None
        """The first bytes: large buffers one by one, small ones together."""
        if self._encrypted >= ONE_KEY_BYTES_MAX:
            raise errors.ConnectionFailed("%s gets a new connection: one key has encrypted enough" % self._where)
        small, left = [], ENCRYPT_BYTES  # type: list, int
        for buffer in buffers:
            part = buffer if len(buffer) <= left else memoryview(buffer)[:left]
            left -= len(part)
            small.append(part)
            if len(part) >= _RECORD_BYTES:
                self._write(joined(small[:-1]))
                self._write(part)
                small = []
            if not left:
                break
        self._write(joined(small))

    def _write(self, data):
        # type: (Any) -> None
        view, at = memoryview(data), 0
        while at < len(data):
            at += self._pipe.tls.write(view[at : at + _RECORD_BYTES])
            self._take_encrypted()
        self._under_way += at

    def _take_encrypted(self):
        # type: () -> None
        data = self._pipe.get()
        if data:
            self._encrypted += len(data)
            self._unsent.append(data)

    def _flush(self):
        # type: () -> int
        """The number of encrypted bytes that have gone now."""
        gone = 0
        while self._unsent:
            count = super(TlsStream, self).send(self._unsent)
            if not count:
                break
            drop_front(self._unsent, count)
            gone += count
        return gone


class _Memory(object):
    """``ssl`` between two buffers: encrypted bytes go in by ``put``, and come out by ``get``."""

    step = RECEIVE_BYTES  # how much ``put`` takes, before ``tls`` must read

    def __init__(self, context, server_side, host):
        # type: (ssl.SSLContext, bool, str | None) -> None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()  # novm
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side, host)  # novm

    def put(self, data):
        # type: (bytes) -> None
        self._incoming.write(data)

    def get(self):
        # type: () -> bytes
        return self._outgoing.read()

    def close(self):
        # type: () -> None
        pass


class _Pair(object):  # py2
    """The same for 2.7, whose ``ssl`` knows sockets only: it has one end of a pair, we have the other."""

    step = _RECORD_BYTES

    def __init__(self, context, server_side, host):
        # type: (ssl.SSLContext, bool, str | None) -> None
        near, self._far = socketpair()
        for end in (near, self._far):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * _RECORD_BYTES)  # never full
        self.tls = context.wrap_socket(
            socket.socket(_sock=near),  # type: ignore[call-arg]
            server_side, do_handshake_on_connect=False, server_hostname=host,
        )  # fmt: skip

    def put(self, data):
        # type: (bytes) -> None
        self._far.sendall(data)

    def get(self):
        # type: () -> bytes
        parts = []  # type: list
        try:
            parts.extend(iter(lambda: self._far.recv(RECEIVE_BYTES), b""))
        except socket.error:  # no more now
            pass
        return b"".join(parts)

    def close(self):
        # type: () -> None
        self.tls.close()
        self._far.close()


def _pipe(context, server_side, host=None):
    # type: (ssl.SSLContext, bool, str | None) -> _Memory | _Pair
    return (_Memory if hasattr(ssl, "MemoryBIO") else _Pair)(context, server_side, host)


def _explained(error, where):
    # type: (Exception, str) -> errors.ConnectionFailed
    refused = isinstance(error, ssl.CertificateError) or getattr(error, "reason", "") == "CERTIFICATE_VERIFY_FAILED"
    if refused:
        return errors.AuthenticationError("ssl_context does not trust the certificate of %s: %s" % (where, error))
    return errors.ConnectionFailed("TLS with %s failed: %s" % (where, error))


# -- contexts -------------------------------------------------------------------------------------


def _context_of_a_server():
    # type: () -> ssl.SSLContext
    context = _context("PROTOCOL_TLS_SERVER")
    with certificates.in_file(certificates.make()) as path:
        context.load_cert_chain(path)
    return context


def _context_of_a_client():
    # type: () -> ssl.SSLContext
    context = _context("PROTOCOL_TLS_CLIENT")
    # On purpose no authority is asked about the certificate, nor is the name in it looked at: there is nobody who could
    # have signed it, and nothing that a user would have to copy to each node. Who it belongs to is proved by the key
    # that both sides know: the proofs of both cover the hash of this certificate. Who has another certificate, as
    # anybody in the middle must, gets no valid proof, and none of his is.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol):
    # type: (str) -> ssl.SSLContext
    """TLS 1.2 or later, without compression, renegotiation, and tickets for a session that continues this one."""
    context = ssl.SSLContext(getattr(ssl, protocol, getattr(ssl, "PROTOCOL_SSLv23", None)))
    if hasattr(ssl, "TLSVersion"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # novm
    else:
        context.options |= ssl.OP_NO_SSLv2 | ssl.OP_NO_SSLv3 | ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    context.options |= ssl.OP_NO_COMPRESSION | getattr(ssl, "OP_NO_RENEGOTIATION", 0) | getattr(ssl, "OP_NO_TICKET", 0)
    if hasattr(context, "num_tickets") and protocol == "PROTOCOL_TLS_SERVER":
        context.num_tickets = 0  # novm
    return context


def _hash_shown_by(context):
    # type: (ssl.SSLContext) -> bytes
    """The SHA-256 of the certificate that this context shows. It shows it to a client in memory, because ``ssl`` has no
    other way to ask. So a context that cannot serve is found here, too."""
    client_context = _context("PROTOCOL_TLS_CLIENT")
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    server, client = _pipe(context, True), _pipe(client_context, False)
    try:
        while not _step(client, server):
            _step(server, client)
        return hashlib.sha256(client.tls.getpeercert(True) or b"").digest()
    except ssl.SSLError as error:
        raise ValueError("ssl_context cannot be a server's: %s" % error)
    finally:
        server.close()
        client.close()


def _step(side, other):
    # type: (Any, Any) -> bool
    """Whether this side's handshake is complete. What it says goes to the other side."""
    try:
        side.tls.do_handshake()
        return True
    except ssl.SSLWantReadError:
        return False
    finally:
        other.put(side.get())
