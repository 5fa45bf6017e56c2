"""Listeners: strangers, and a process that has no descriptor left."""
from __future__ import absolute_import, division, print_function

import contextlib
import errno
import os
import socket
import sys
import time
import unittest

from minimalcluster.errors import AuthenticationError, ConnectionFailed, HandshakeTimeout
from minimalcluster.wire import addresses, handshakes, protocol, connection as connection_module, listener as listener_module
from minimalcluster.wire.connection import Connection
from minimalcluster.wire.listener import Listener
from minimalcluster.wire.loop import Loop
from tests import support
from tests.support import patched, wait_until
from tests.wire.links import KEY, OTHER_KEY, Owner, connect, connected, heard, in_loop, running, serve, silent


class WrongKey(unittest.TestCase):
    def test_a_wrong_key_is_told_on_both_sides(self):
        server, client = Owner(), Owner()
        with running() as loop:
            connect(loop, serve(loop, server), client, OTHER_KEY)
            self.assertIsInstance(server.end(), AuthenticationError)
            self.assertIsInstance(client.end(), AuthenticationError)
            self.assertIn("AUTHKEY", str(client.end()))
        self.assertEqual([], server.connections + client.connections)


class Strangers(unittest.TestCase):
    def test_nobody_listens(self):
        client = Owner()
        with running() as loop:
            connect(loop, support.free_port(), client)
            self.assertIsInstance(client.end(), ConnectionFailed)
            self.assertIn("cannot connect to the master: ", str(client.end()))
            self.assertIn("refused", str(client.end()))

    def test_connections_that_are_over_are_let_go(self):
        # A listener kept up to 256 of them, and each of them the last bytes that it had received.
        server = Owner()

        def accepted(sock, where):
            return Connection(loop, sock, handshakes.ServerHandshake(KEY, b"s" * 16, b"n" * 32, 1, 1), server, where)

        with running() as loop:
            listener = in_loop(loop, Listener, loop, "127.0.0.1", 0, accepted)
            for number in range(3):
                client = Owner()
                connect(loop, listener.port, client)
                wait_until(lambda: len(server.connections) > number and client.connections, what="a connection")
                in_loop(loop, client.connections[0].close)
                wait_until(lambda: len(server.ends) > number, what="its end")
            self.assertLessEqual(len(listener._unproved), 1)

    def test_another_protocol_is_closed_and_named(self):
        server = Owner()
        with running() as loop:
            port = serve(loop, server)
            for number, (data, name) in enumerate(
                [(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP"), (b"SSH-2.0-x\r\n", "SSH"), (b"\x80\x02}", "another")]
            ):
                sock = silent(port)
                sock.settimeout(support.SECONDS)
                sock.sendall(data)
                wait_until(lambda: len(server.ends) > number, what="its end")
                self.assertIn(name, str(server.ends[number]))
                self.assertEqual(len(handshakes.ServerHandshake(KEY, b"s" * 16, b"n" * 32, 1, 1).start()), len(heard(sock)))

    def test_a_peer_that_says_nothing_is_dropped_in_time(self):
        server, client = Owner(), Owner()
        mute = addresses.listen("127.0.0.1", 0)[0]
        self.addCleanup(mute.close)
        with patched(connection_module, "HANDSHAKE_SECONDS", 0.1), running() as loop:
            sock = silent(serve(loop, server))
            self.addCleanup(sock.close)
            connect(loop, mute.getsockname()[1], client)
            for owner in (server, client):
                self.assertIsInstance(owner.end(), HandshakeTimeout)
            self.assertIn("the master", str(client.end()))

    def test_one_that_has_proved_itself_has_no_time_limit(self):
        server, client = Owner(), Owner()
        with running() as loop:
            near, far = connected(loop, server, client)
            for end in (near, far):
                in_loop(loop, setattr, end, "expires_at", 0.0)
            loop.call(far.send, protocol.ForgetJob(1))
            wait_until(lambda: server.messages, what="a message")
            self.assertEqual([], server.ends + client.ends)

    def test_of_too_many_the_oldest_go(self):
        server, client = Owner(), Owner()
        with patched(listener_module, "HALF_OPEN_MAX", 4), running() as loop:
            port = serve(loop, server)
            strangers = []
            for _ in range(10):
                strangers.append(silent(port))
                self.addCleanup(strangers[-1].close)
            wait_until(lambda: len(server.ends) >= 6, what="six ends")
            for sock in strangers[:6]:
                sock.settimeout(support.SECONDS)
                heard(sock)  # returns when it has been closed
            for sock in strangers[6:]:
                sock.settimeout(support.SECONDS)
                self.assertTrue(sock.recv(1000).startswith(handshakes.MAGIC))
                sock.setblocking(False)
                with self.assertRaises((OSError, socket.error)) as caught:
                    sock.recv(1)
                self.assertIn(caught.exception.errno, (errno.EAGAIN, errno.EWOULDBLOCK))  # still open, and silent
            for error in server.ends[:6]:
                self.assertIn("too many", str(error))
            connect(loop, port, client)
            wait_until(lambda: client.connections, what="a member's connection")


    def test_row_52_strangers_push_out_strangers_of_their_address(self):
        server = Owner()
        with patched(listener_module, "HALF_OPEN_MAX", 4), running() as loop:
            port = serve(loop, server)
            elsewhere = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
            self.addCleanup(elsewhere.close)
            wait_until(lambda: loop._unproved, what="a peer of another address")
            for _ in range(20):
                self.addCleanup(silent(port).close)
            wait_until(lambda: len(server.ends) == 17, what="the ends of too many")
            handshake = handshakes.ClientHandshake(KEY, os.urandom(32), handshakes.NODE, b"i" * 16, (3, 6), "the master")
            answer = handshake.receive(elsewhere.recv(1000))
            elsewhere.sendall(answer)
            wait_until(lambda: server.connections, what="its proof, though it was the oldest")

    def test_row_52_our_own_peers_have_room_beside_strangers(self):
        server = Owner()
        with patched(listener_module, "HALF_OPEN_MAX", 4), running() as loop:

            def accepted(sock, where):
                handshake = handshakes.ServerHandshake(KEY, os.urandom(16), os.urandom(32), 1, 1)
                return Connection(loop, sock, handshake, server, where)

            listener = in_loop(loop, Listener, loop, "127.0.0.1", 0, accepted, 20)
            for _ in range(24):
                self.addCleanup(silent(listener.port).close)
            wait_until(lambda: len(loop._unproved) == 24, what="24 peers")
            self.assertEqual([], server.ends)

    @unittest.skipIf(sys.platform == "win32", "no limit of descriptors there")
    def test_strangers_take_a_quarter_of_the_descriptors_and_no_more(self):
        import resource

        with patched(resource, "getrlimit", lambda _: (240, 240)):
            self.assertEqual([60, 20], [listener_module._half_open_max(descriptors) for descriptors in (1, 3)])
        with patched(resource, "getrlimit", lambda _: (10**6, 10**6)):
            self.assertEqual([256, 256], [listener_module._half_open_max(descriptors) for descriptors in (1, 3)])

    def test_row_52_our_own_delay_is_not_the_peers(self):
        server, clients = Owner(), [Owner() for _ in range(60)]
        with patched(connection_module, "HANDSHAKE_SECONDS", 1.0), running() as loop, running() as other:
            port = serve(loop, server)
            for client in clients:
                connect(other, port, client, patience=support.SECONDS)
            loop.call(time.sleep, 2.5)  # between their call and our HELLO, or their answer
            wait_until(lambda: len(server.connections) == 60, what="all of them")
            self.assertEqual([], server.ends)

    def test_row_52_a_stopped_process_is_not_the_peers_delay(self):
        server, client = Owner(), Owner()
        with patched(connection_module, "HANDSHAKE_SECONDS", 1.0), running() as loop, running() as other:
            port = serve(loop, server)

            def stopped(seconds):  # SIGSTOP strikes in the wait, most likely
                time.sleep(1.5)
                return wait(seconds)

            wait, loop._poller.wait = loop._poller.wait, stopped
            connect(other, port, client, patience=support.SECONDS)
            wait_until(lambda: server.connections, what="its proof")
            loop._poller.wait = wait
            self.assertEqual([], server.ends)

    def test_row_52_a_listener_takes_so_many_a_cycle_and_then_looks_after_the_rest(self):
        with patched(listener_module, "ACCEPTS_PER_CYCLE", 3):
            loop, accepted, turns = Loop(), [], []
            listener = Listener(loop, "127.0.0.1", 0, lambda sock, where: accepted.append(sock))
            for _ in range(10):
                self.addCleanup(silent(listener.port).close)
            wait_until(lambda: turns.append(loop.cycle()) or len(accepted) == 10, what="ten connections")
            self.assertGreaterEqual(len(turns), 4)
            for sock in accepted:
                sock.close()
            loop.close()


class _Exhausted(object):
    """A listening socket in a process that has no descriptor left, and then has."""

    def __init__(self, sock):
        self._sock, self.asked, self.left = sock, 0, False

    def accept(self):
        self.asked += 1
        if not self.left:
            raise socket.error(errno.EMFILE, "Too many open files")
        return self._sock.accept()

    def __getattr__(self, name):
        return getattr(self._sock, name)


class Exhaustion(unittest.TestCase):
    def test_row_22_a_listener_without_descriptors_rests_and_goes_on(self):
        with running() as loop, patched(listener_module, "PAUSE_SECONDS", 0.05), support.Log() as log:
            accepted = []
            listener = in_loop(loop, Listener, loop, "127.0.0.1", 0, lambda sock, where: accepted.append(sock))
            exhausted = _Exhausted(listener._sockets[0])
            listener._sockets[:] = [exhausted]
            with contextlib.closing(socket.create_connection(("127.0.0.1", listener.port))):
                wait_until(lambda: len(log.having("takes no connections")) >= 2, what="two pauses")
                # It is asked once a pause, not as fast as the loop can turn.
                self.assertLessEqual(exhausted.asked, len(log.having("takes no connections")) + 1)
                exhausted.left = True
                wait_until(lambda: accepted, what="the connection that waited")
                accepted[0].close()


if __name__ == "__main__":
    unittest.main()
