"""Names and addresses: what may be one, listening on all that a name has, dialling each of them in turn.

A name may stand for several addresses ("localhost" is ``::1`` and ``127.0.0.1`` in most hosts files), and a machine
need not have what an address needs: one that fails is no reason while another is left.
"""
from __future__ import absolute_import, division, print_function

import errno
import os
import socket
import sys

from ..compat import native, text_type
from ..errors import ConnectionFailed

BACKLOG = 128
#: Keepalive behind the heartbeats: idle time, interval, probes.
KEEPALIVE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 10, 5, 3
#: "All networks", however it is written.
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104
#: Of the documentation's networks (RFC 5737, RFC 3849): nobody has them; to connect, a datagram socket sends nothing.
_FAR_AWAY = ((socket.AF_INET, "192.0.2.1"), (getattr(socket, "AF_INET6", None), "2001:db8::1"))
#: With PORT=0, a port that is free for the first address may be taken for the next one.
_TRIES = 10
_NOT_HERE = tuple(getattr(errno, name) for name in ("EAFNOSUPPORT", "EADDRNOTAVAIL", "EPROTONOSUPPORT", "EINVAL"))

WOULD_BLOCK = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINPROGRESS, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", -1))


def checked_host(value, name, everywhere=False):
    # type: (object, str, bool) -> str
    """The host without an IPv6 address's brackets. Raises TypeError, ValueError: what no name or address can be.

    everywhere: None and "" stand for all networks, as in the standard library's servers.
    """
    if value is None and everywhere:
        return ""
    if not isinstance(value, (str, text_type)):
        raise TypeError("%s must be a name or an address as text, not %r" % (name, value))
    host = native(value)
    if not host and everywhere:
        return host
    if not host:
        raise ValueError("%s is empty; it must be the master's name or address, for example '192.168.1.5'" % name)
    if host != host.strip() or len(host.split()) > 1:
        raise ValueError("%s=%r has white space in it; is %r meant?" % (name, host, "".join(host.split())))
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    before, colon, port = host.rpartition(":")
    if "://" in host or "/" in host:
        raise ValueError("%s=%r is no name or address; give it without '//' and '/'" % (name, host))
    if colon and port.isdigit() and (":" not in before or before.endswith("]")):
        raise ValueError("%s=%r has a port in it; give %r, and the port as PORT=%s" % (name, host, before, port))
    if "[" in host or "]" in host:
        raise ValueError("%s=%r is no name or address" % (name, host))
    return host


def is_loopback(host):
    # type: (str) -> bool
    """Only this machine reaches what listens there."""
    return host.startswith("127.") or host.lower() in ("localhost", "::1")


def reachable(host):
    # type: (str) -> str
    """An address at which others find what listens on host: for all networks, this machine's own in the nearest one."""
    if host not in EVERYWHERE:
        return host
    for family, far in _FAR_AWAY:
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)  # type: ignore[arg-type]
        except (OSError, socket.error, TypeError):
            continue
        try:
            sock.connect((far, 9))
            return native(sock.getsockname()[0])
        except (OSError, socket.error):
            pass  # no way leads there
        finally:
            sock.close()
    return "127.0.0.1"  # no network but its own


def resolve(host, port):
    # type: (str, int) -> list
    """All addresses of a name, as ``dial`` takes them. Raises ConnectionFailed when there are none."""
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except (OSError, socket.error, UnicodeError) as error:  # UnicodeError: no name at all, such as "a..b"
        raise ConnectionFailed("the name %r cannot be resolved: %s" % (host, error))
    return _different(found)


def dial(found):
    # type: (tuple) -> socket.socket
    """A socket that is connecting to one of the addresses of ``resolve``. Raises ConnectionFailed."""
    family, kind, number, _, address = found
    sock = None
    try:
        sock = socket.socket(family, kind, number)
        prepare(sock)
        code = sock.connect_ex(address)
    except (OSError, socket.error) as error:  # no IPv6 in the kernel, no descriptor left
        code = error.errno or errno.EINVAL
    if code and code not in WOULD_BLOCK:
        if sock is not None:
            sock.close()
        raise ConnectionFailed("cannot connect to %s: %s" % (in_words(address), os.strerror(code)))
    return sock  # type: ignore[return-value]


def listen(host, port, backlog=BACKLOG):
    # type: (str, int, int) -> list
    """Sockets that listen on one port, one for each address. Raises OSError (socket.error on 2.7), with the remedy."""
    try:
        found = _different(socket.getaddrinfo(host or None, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE))
    except (socket.gaierror, UnicodeError) as error:
        number = getattr(error, "errno", socket.EAI_NONAME)
        raise socket.error(number, "the name %r of HOST cannot be resolved: %s" % (host, error))
    for left in reversed(range(_TRIES)):
        try:
            return _listening(found, port, backlog)
        except (OSError, socket.error) as error:
            if port or error.errno != errno.EADDRINUSE or not left:
                raise
    raise AssertionError("unreachable")


def _listening(found, port, backlog):
    # type: (list, int, int) -> list
    sockets, failure = [], None  # type: list, object
    for family, kind, number, _, told in found:
        address = (told[0], port) + tuple(told[2:])
        try:
            sockets.append(_listener(family, kind, number, address, len(found) > 1, backlog))
        except (OSError, socket.error) as error:
            failure = failure or error
            if error.errno not in _NOT_HERE:
                _close(sockets)
                raise
        port = port or (sockets[0].getsockname()[1] if sockets else 0)
    if not sockets:
        raise failure  # type: ignore[misc]
    return sockets


def _listener(family, kind, number, address, alone, backlog):
    # type: (int, int, int, tuple, bool, int) -> socket.socket
    """alone: an IPv6 socket is for IPv6 only, since IPv4's addresses have theirs."""
    sock = None
    try:
        sock = socket.socket(family, kind, number)
        if os.name == "nt":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # type: ignore[attr-defined]
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if alone and family == getattr(socket, "AF_INET6", None):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
        sock.setblocking(False)
        return sock
    except (OSError, socket.error) as error:
        if sock is not None:
            sock.close()
        remedy = {
            errno.EADDRINUSE: "another program listens there; PORT=0 takes a free port",
            errno.EADDRNOTAVAIL: "no address of this machine; '0.0.0.0' means all of them",
            errno.EACCES: "ports below 1024 are reserved",
            errno.EAFNOSUPPORT: "this machine has no such network",
        }.get(error.errno or 0, "")
        text = "cannot listen on %s: %s (%s)" % (in_words(address), error.strerror, remedy)
        raise socket.error(error.errno, text)


def _close(sockets):
    # type: (list) -> None
    for sock in sockets:
        sock.close()


def _different(found):
    # type: (list) -> list
    kept = []  # type: list
    for each in found:
        if each not in kept:
            kept.append(each)
    return kept


def in_words(address):
    # type: (tuple) -> str
    return ("[%s]:%d" if ":" in address[0] else "%s:%d") % tuple(address[:2])


def prepare(sock):
    # type: (socket.socket) -> None
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "darwin":
        sock.setsockopt(socket.SOL_SOCKET, 0x1022, 1)  # SO_NOSIGPIPE, which Python does not name
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


__all__ = [
    "BACKLOG", "EVERYWHERE", "WOULD_BLOCK", "checked_host", "dial", "in_words", "is_loopback", "listen", "prepare",
    "reachable", "resolve",
]  # fmt: skip
