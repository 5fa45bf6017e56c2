"""Links for the tests of the wire: loops in threads, owners that remember, connections over real sockets."""
from __future__ import absolute_import, division, print_function

import contextlib
import errno
import os
import socket

from minimalcluster.wire import addresses, handshakes, keys, tls
from minimalcluster.wire.connection import Connection
from minimalcluster.wire.listener import Listener
from minimalcluster.wire.loop import Loop
from tests import support
from tests.support import wait_until

#: A tls.Server that all listeners below use; None: without TLS.
encrypting = None
KEY = keys.generate_key(b"k" * 32)
OTHER_KEY = keys.generate_key(b"o" * 32)


@contextlib.contextmanager
def running():
    """A loop that runs in a thread of its own."""
    loop = Loop()
    thread = support.Background(loop.run)
    try:
        yield loop
    finally:
        loop.stop()
        thread.result()
        loop.close()


def in_loop(loop, function, *arguments):
    """What function returns, run in the loop's thread; raises what it raises."""
    answer = []

    def run():
        try:
            answer.append((function(*arguments), None))
        except Exception as error:
            answer.append((None, error))

    loop.call(run)
    value, error = wait_until(lambda: answer, what="an answer of the loop")[0]
    if error is not None:
        raise error
    return value


def dial(host, port):
    return addresses.dial(addresses.resolve(host, port)[0])


class Owner(object):
    """Keeps what it is told of; ``then`` is called with each connection and its messages, in the loop."""

    def __init__(self, then=None):
        self.connections, self.messages, self.ends = [], [], []
        self._then = then

    def opened(self, connection):
        self.connections.append(connection)

    def received(self, connection, messages):
        self.messages += [plain(message) for message in messages]
        if self._then is not None:
            self._then(connection, messages)

    def closed(self, connection, error):
        self.ends.append(error)

    def end(self):
        """The error of the one connection that ended."""
        wait_until(lambda: self.ends, what="the end of a connection")
        return self.ends[0]


def plain(message):
    return type(message)(*[[bytes(b.tobytes()) for b in field] if isinstance(field, list) else field for field in message])


def serve(loop, owner, key=KEY, server=None):
    """The port of a listener whose connections are the owner's. server: a tls.Server."""
    server = server or encrypting

    def accepted(sock, where):
        shown = None if server is None else server.certificate_hash
        handshake = handshakes.ServerHandshake(key, os.urandom(16), os.urandom(32), 1, 1, certificate_hash=shown)
        return Connection(loop, sock, handshake, owner, where, secured=None if server is None else server.stream)

    return in_loop(loop, Listener, loop, "127.0.0.1", 0, accepted).port


def connect(loop, port, owner, key=KEY, patience=None, encrypt=None, context=None):
    """context: an ssl_context of the user's."""

    def secured(sock, plain, where):
        return tls.Client(context, "localhost").stream(sock, plain, where)

    def run():
        handshake = handshakes.ClientHandshake(
            key, os.urandom(32), handshakes.NODE, b"i" * 16, (3, 6), "the master", encrypt=encrypt
        )
        return Connection(loop, dial("127.0.0.1", port), handshake, owner, "the master", True, patience, secured)

    return in_loop(loop, run)


def connected(loop, server, client, port=None, encrypted=None):
    """The two ends of a connection that has been proved. encrypted: a tls.Server."""
    near = connect(loop, serve(loop, server, server=encrypted) if port is None else port, client)
    wait_until(lambda: server.connections and client.connections, what="a connection")
    return server.connections[-1], near


def silent(port):
    return socket.create_connection(("127.0.0.1", port))


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def heard(sock):
    """All that a peer said until it closed."""
    data = b""
    while True:
        try:
            more = sock.recv(1000)
        except (OSError, socket.error) as error:
            if error.errno != errno.ECONNRESET:
                raise
            more = b""
        if not more:
            sock.close()
            return data
        data += more
