"""Somebody in the middle who can read, change and answer, but does not know the key."""
from __future__ import absolute_import, division, print_function

import select
import socket
import ssl

from minimalcluster.wire import handshakes, tls
from tests import support

FLAGS_AT = len(handshakes.MAGIC) + 1


class MiddleMan(object):
    """Takes one connection, dials the target, and passes on what both say.

    flags: what HELLO says of encryption when it is passed on (None: what the target said). near, far: whether he speaks
    TLS with the one who called, with his own certificate, and with the target. ``said``: what the one who called has said.
    """

    def __init__(self, target, flags, near, far, slipped_in=b""):
        self._target, self._flags, self._near, self._far = target, flags, near, far
        self._slipped_in = slipped_in
        self.said = []
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1)
        self.port = self._listener.getsockname()[1]
        self._socks = [self._listener]
        support.Background(self._run)

    def _run(self):
        try:
            caller = self._listener.accept()[0]
            target = socket.create_connection(("127.0.0.1", self._target))
            self._socks += [caller, target]
            hello = bytearray()
            while len(hello) < handshakes._HELLO.size:
                hello += target.recv(handshakes._HELLO.size - len(hello))
            if self._flags is not None:
                hello[FLAGS_AT] = self._flags
            caller.sendall(bytes(hello) + self._slipped_in)
            if self._near:
                caller = tls._context_of_a_server().wrap_socket(caller, server_side=True)
            if self._far:
                target = tls._context_of_a_client().wrap_socket(target)
            self._socks += [caller, target]
        except (OSError, socket.error):
            self.close()
            return
        support.Background(self._pump, caller, target)

    def _pump(self, caller, target):
        """Both directions in one thread: OpenSSL's connections are not for two at a time."""
        sides = {caller: target, target: caller}
        try:
            while True:
                ready = [side for side in sides if getattr(side, "pending", int)()]
                for source in ready or select.select(list(sides), [], [])[0]:
                    source.settimeout(0.0)
                    try:
                        data = source.recv(1 << 16)
                    except ssl.SSLWantReadError:
                        continue  # a record of TLS that says nothing to us, or a part of one
                    finally:
                        source.settimeout(None)
                    if not data:
                        return
                    if source is caller:
                        self.said.append(data)
                    sides[source].sendall(data)
        except (OSError, ValueError, select.error, socket.error):
            pass  # somebody has closed
        finally:
            self.close()

    def close(self):
        for sock in self._socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except (OSError, socket.error):
                pass
            sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
