"""Host names and addresses: check them, listen on all addresses of a name, dial one address after the other.

A name may stand for several addresses: "localhost" is ``::1`` and ``127.0.0.1`` in most hosts files. The machine may
lack the network of one of them (no IPv6, for example), so a failure counts only when no other address is left.
"""
from __future__ import absolute_import, division, print_function

import errno
import os
import re
import socket
import sys

from ..compat import as_text, integer_types, native, text_type
from ..errors import ConnectionFailed

BACKLOG = 128
#: Keepalive behind the heartbeats: idle time, interval, probes.
KEEPALIVE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 10, 5, 3
#: Every spelling of "all networks of this machine".
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104
#: Not all that begins like it: "127.example.com" may be any machine.
_LOOPBACK = re.compile(r"127(\.[0-9]+){1,3}\Z")
#: Addresses reserved for documentation (RFC 5737, RFC 3849), so no machine has them. Connecting a datagram socket to
#: one sends no packet, but makes the system choose the local address from which it would send.
_FAR_AWAY = [(socket.AF_INET, "192.0.2.1")]
if hasattr(socket, "AF_INET6"):
    _FAR_AWAY.append((socket.AF_INET6, "2001:db8::1"))
#: With PORT=0 the system picks a port for the first address; at the next address another program may use that port.
#: Then all addresses are tried again with a new port, this many times in all.
_TRIES = 10
#: Errors that say: this machine lacks the network of that address.
_NOT_HERE = tuple(getattr(errno, name) for name in ("EAFNOSUPPORT", "EADDRNOTAVAIL", "EPROTONOSUPPORT", "EINVAL"))

#: The length of a name and of a part of it between two dots (RFC 1035, 2.3.4), and how much of a name an error shows.
NAME_CHARACTERS_MAX, LABEL_CHARACTERS_MAX, SHOWN_CHARACTERS_MAX = 253 + 1, 63, 80

WOULD_BLOCK = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINPROGRESS, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", -1))


def checked_host(value, name, everywhere=False):
    # type: (object, str, bool) -> str
    """The host, without the brackets of an IPv6 address. Raises TypeError or ValueError if it cannot be a host.

    name: the argument's name, for the errors. everywhere: allow None and "", which mean all networks, as in the
    standard library's servers.
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
    why = _why_no_name(as_text(host))
    if why:
        raise ValueError("%s=%s can be no host's name: %s" % (name, _shortened(host), why))
    return host


def _why_no_name(host):
    # type: (str) -> str
    """Why no resolver can find this name (RFC 1035, RFC 3490), in words; "" if one may."""
    labels = host.split(".")
    if any(len(label) > LABEL_CHARACTERS_MAX for label in labels):
        return "a part of it is longer than %d characters" % LABEL_CHARACTERS_MAX
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in host):
        return "it has a control character"
    if not all(labels[: len(labels) - host.endswith(".")]):
        return "nothing stands before a dot"
    try:
        encoded = host.encode("idna")  # as socket.getaddrinfo does; some letters become dots
    except UnicodeError as error:
        return "%s" % error
    if b".." in encoded or encoded.startswith(b"."):
        return "nothing stands before a dot"
    return "it is longer than %d characters" % NAME_CHARACTERS_MAX if len(encoded) > NAME_CHARACTERS_MAX else ""


def _shortened(host):
    # type: (str) -> str
    shown = repr(host)
    return shown if len(shown) <= SHOWN_CHARACTERS_MAX else shown[: SHOWN_CHARACTERS_MAX - 3] + "..."


def checked_port(value, name, least=0):
    # type: (object, str, int) -> int
    """A port's number. Raises ValueError that names the argument. least: 0 if it may be 0, any free port."""
    if not isinstance(value, integer_types) or isinstance(value, bool) or not least <= value < 65536:
        meant = "a port (1 to 65535)" if least else "0 (any free one) to 65535"
        raise ValueError("%s must be %s, not %r" % (name, meant, value))
    return int(value)


def is_loopback(host):
    # type: (str) -> bool
    """Whether only this machine can reach a port on this host."""
    return _LOOPBACK.match(host) is not None or host.lower() in ("localhost", "::1")


def reachable(host):
    # type: (str) -> str
    """An address at which other machines reach a port on host.

    If host means all networks: the address from which this machine sends to the outside.
    """
    if host not in EVERYWHERE:
        return host
    for family, far in _FAR_AWAY:
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
        except (OSError, socket.error):
            continue
        try:
            sock.connect((far, 9))
            return native(sock.getsockname()[0])
        except (OSError, socket.error):
            pass  # no route
        finally:
            sock.close()
    return "127.0.0.1"  # this machine has no network


def resolve(host, port):
    # type: (str, int) -> list
    """All addresses of a name, each as ``dial`` takes it. Raises ConnectionFailed if the name has none."""
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except (OSError, socket.error, UnicodeError) as error:  # UnicodeError: not a valid name, such as "a..b"
        raise ConnectionFailed("the name %r cannot be resolved: %s" % (host, error))
    return _different(found)


def dial(found):
    # type: (tuple) -> socket.socket
    """A non-blocking socket that is connecting to one of ``resolve``'s addresses. Raises ConnectionFailed."""
    family, kind, number, _, address = found
    sock = None
    try:
        sock = socket.socket(family, kind, number)
        prepare(sock)
        code = sock.connect_ex(address)
    except (OSError, socket.error) as error:  # for example: no IPv6 in the kernel, no descriptor left
        code = error.errno or errno.EINVAL
    if sock is not None and (not code or code in WOULD_BLOCK):
        return sock
    if sock is not None:
        sock.close()
    raise ConnectionFailed("cannot connect to %s: %s" % (in_words(address), os.strerror(code)))


def listen(host, port, backlog=BACKLOG):
    # type: (str, int, int) -> list
    """Sockets that listen on one port, one socket per address of host.

    port: 0 takes a free port. Raises OSError (socket.error on 2.7) that names the address and a remedy.
    """
    try:
        found = _different(socket.getaddrinfo(host or None, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE))
    except (socket.gaierror, UnicodeError) as error:
        number = getattr(error, "errno", socket.EAI_NONAME)
        raise socket.error(number, "the name %r of HOST cannot be resolved: %s" % (host, error))
    for tries_left in reversed(range(_TRIES)):
        try:
            return _listening(found, port, backlog)
        except (OSError, socket.error) as error:
            if port or error.errno != errno.EADDRINUSE or not tries_left:
                raise
    raise AssertionError("unreachable")


def _listening(found, port, backlog):
    # type: (list, int, int) -> list
    sockets, failure = [], None  # type: list[socket.socket], BaseException | None
    for family, kind, number, _, resolved in found:
        address = (resolved[0], port) + tuple(resolved[2:])
        try:
            sockets.append(_listener(family, kind, number, address, len(found) > 1, backlog))
        except (OSError, socket.error) as error:
            failure = failure or error
            if error.errno not in _NOT_HERE:
                _close(sockets)
                raise
        port = port or (sockets[0].getsockname()[1] if sockets else 0)
    if failure is not None and not sockets:
        raise failure
    return sockets


def _listener(family, kind, number, address, ipv6_only, backlog):
    # type: (int, int, int, tuple, bool, int) -> socket.socket
    """ipv6_only: an IPv6 socket takes no IPv4 connections, because the IPv4 address has a socket of its own."""
    sock = None
    try:
        sock = socket.socket(family, kind, number)
        if sys.platform == "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ipv6_only and family == getattr(socket, "AF_INET6", None):
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
    """Without repetitions, in the same order."""
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
    """Make a TCP socket non-blocking and set its options: no delay of small packets, keepalive, no SIGPIPE on macOS."""
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
    "BACKLOG", "EVERYWHERE", "WOULD_BLOCK", "checked_host", "checked_port", "dial", "in_words", "is_loopback", "listen",
    "prepare", "reachable", "resolve",
]  # fmt: skip
