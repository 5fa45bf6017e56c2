"""Attackers without the key: one in the path of a connection, and strangers who call at a master's port."""
from __future__ import absolute_import, division, print_function

import binascii
import os
import pickle
import random
import socket
import ssl
import struct
import time

from minimalcluster.wire import tls
from minimalcluster.wire.addresses import WOULD_BLOCK
from tests import support

#: The parts of the handshake in each direction, in bytes (docs/protocol.md).
HELLO, AUTH, OK = 62, 93, 46
HEAD, TAG = 13, 16
OTHER = {"up": "down", "down": "up"}

#: What other programs say first. What the master says of each is the second text.
PROTOCOLS = (
    (b"GET / HTTP/1.1\r\nHost: master\r\n\r\n", "HTTP"),
    (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "SSH"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 200, "TLS"),
    (b"\x00\x00\x00\x1f#CHALLENGE#" + b"r" * 20, "multiprocessing"),
    (b"\x00\x00\x00\x10" + b"r" * 16, "another protocol"),  # 2017's answer to a challenge
)


def tls_hello():
    """What a client of TLS says first: the master does all its work of a TLS handshake for it."""
    pipe = tls._pipe(tls._context_of_a_client(), False)
    try:
        pipe.tls.do_handshake()
    except ssl.SSLWantReadError:
        return pipe.get()
    finally:
        pipe.close()


class Canary(object):
    """A pickle that makes a folder if anybody loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def canary(folder):
    """(its path, its pickle)"""
    path = os.path.join(folder, "canary")
    return path, pickle.dumps(Canary(path), 2)


def head(kind, size):
    """The first bytes of a frame, as anybody can make them."""
    text = struct.pack(">BQ", kind, size % 2**64)
    return text + struct.pack(">I", binascii.crc32(text) & 0xFFFFFFFF)


class Relay(object):
    """Somebody in the path who reads all frames and has no key.

    harm: a function of (direction, frame) -> [(direction, bytes)], what is sent in place of each frame; None passes all
    on. connections: how many there were. seen: for each connection, what came in each direction.
    """

    def __init__(self, target):
        self._target = target
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        self.port = self._listener.getsockname()[1]
        self.harm, self.seen, self._ends = None, [], []
        support.Background(self._accept)

    @property
    def connections(self):
        return len(self.seen)

    def _accept(self):
        while True:
            try:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._target))
            except (OSError, socket.error):
                return
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ends, seen = {"up": far, "down": near}, {"up": b"", "down": b""}
            self._ends += [near, far]
            self.seen.append(seen)
            support.Background(self._pass, "up", near, ends, seen, [AUTH])
            support.Background(self._pass, "down", far, ends, seen, [HELLO, OK])

    def _pass(self, direction, source, ends, seen, parts):
        try:
            for size in parts:
                self._send(ends, [(direction, _exactly(source, size))], seen, direction)
            while True:
                start = _exactly(source, HEAD)
                frame = start + _exactly(source, struct.unpack(">Q", start[1:9])[0] + TAG)
                self._send(ends, self.harm(direction, frame) if self.harm else [(direction, frame)], seen, direction)
        except (EOFError, OSError, socket.error):
            for sock in ends.values():
                close(sock)

    @staticmethod
    def _send(ends, sent, seen, direction):
        for where, data in sent:
            seen[direction] += data
            ends[where].sendall(data)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for sock in [self._listener] + self._ends:
            close(sock)


def close(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
    except (OSError, socket.error):
        pass
    sock.close()


def _exactly(sock, size):
    data = b""
    while len(data) < size:
        more = sock.recv(min(size - len(data), 1 << 16))
        if not more:
            raise EOFError
        data += more
    return data


class Once(object):
    """Harm that is done to the first frame of this type in this direction. change: frame -> what is sent in its place."""

    def __init__(self, direction, kind, change):
        self._direction, self._kind, self._change = direction, kind, change
        self.done = False

    def __call__(self, direction, frame):
        if self.done or direction != self._direction or bytearray(frame)[0] != self._kind:
            return [(direction, frame)]
        self.done = True
        return [each if isinstance(each, tuple) else (direction, each) for each in self._change(frame)]


class Swapped(object):
    """The first frame of this type goes behind the next one, of any type."""

    def __init__(self, direction, kind):
        self._direction, self._kind, self._held = direction, kind, None
        self.done = False

    def __call__(self, direction, frame):
        if self.done or direction != self._direction:
            return [(direction, frame)]
        if self._held is not None:
            self.done = True
            return [(direction, frame), (direction, self._held)]
        if bytearray(frame)[0] != self._kind:
            return [(direction, frame)]
        self._held = frame
        return []


def harms(direction, kind, poison):
    """(name, harm) of all that somebody in the path can do to frames of a type."""

    def flipped(at):
        def change(frame):
            data = bytearray(frame)
            data[at] ^= 1
            return [bytes(data)]

        return change

    return [
        ("injects", Once(direction, kind, lambda frame: [forged(kind, poison), frame])),
        ("injects behind it", Once(direction, kind, lambda frame: [frame, forged(kind, poison)])),
        ("replays", Once(direction, kind, lambda frame: [frame, frame])),
        ("reorders", Swapped(direction, kind)),
        ("reflects", Once(direction, kind, lambda frame: [(OTHER[direction], frame), frame])),
        ("drops", Once(direction, kind, lambda frame: [])),
        ("cuts", Once(direction, kind, lambda frame: [frame[:-1]])),
        ("changes the type", Once(direction, kind, lambda frame: [head(17, len(frame) - HEAD - TAG) + frame[HEAD:]])),
        ("changes the body", Once(direction, kind, flipped(HEAD))),
        ("changes the tag", Once(direction, kind, flipped(-1))),
    ]  # fmt: skip


def forged(kind, body):
    return head(kind, len(body)) + body + os.urandom(TAG)


# -- strangers ------------------------------------------------------------------------------------


def call(port, data=b""):
    """A connection to the port on which this has been said."""
    sock = socket.create_connection(("127.0.0.1", port), support.SECONDS)
    try:
        sock.sendall(data)
    except (OSError, socket.error):
        pass  # it has closed already
    return sock


def answer(port, data):
    """All that the master says to this before it closes; None if it does not close."""
    sock = call(port, data)
    heard = b""
    try:
        while True:
            more = sock.recv(1 << 16)
            if not more:
                return heard
            heard += more
    except socket.timeout:
        return None
    except (OSError, socket.error):
        return heard  # reset: we were still talking
    finally:
        sock.close()


def crowd(port, count, slow_ones, first=b""):
    """Connections that say nothing after ``first``, or one byte now and then, for ever. Prints the number of those that
    are open."""
    socks = []
    while True:
        for sock in list(socks):
            try:
                if random.random() < slow_ones:
                    sock.send(b"m")
                sock.setblocking(False)
                if len(sock.recv(4096)) == 0:
                    raise OSError
            except (OSError, socket.error) as error:
                if error.errno not in WOULD_BLOCK:
                    sock.close()
                    socks.remove(sock)
        while len(socks) < count:
            try:
                sock = socket.create_connection(("127.0.0.1", port), 1)
                sock.sendall(first)
            except (OSError, socket.error):
                break
            socks.append(sock)
        os.write(1, ("%d\n" % len(socks)).encode("ascii"))
        time.sleep(0.2)
