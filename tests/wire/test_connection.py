"""Connections over real sockets: messages, ends, signs of life."""
from __future__ import absolute_import, division, print_function

import os
import select
import signal
import unittest

from minimalcluster.errors import ConnectionFailed, FrameTooLarge, ProtocolError
from minimalcluster.wire import protocol, connection as connection_module, loop as loop_module
from minimalcluster.wire.loop import STUCK_SECONDS
from minimalcluster.wire.stream import JOIN_BYTES_MAX
from tests import support
from tests.support import patched, wait_until
from tests.wire.links import Owner, connect, connected, in_loop, running, serve


class Messages(unittest.TestCase):
    def exchange(self, count=20):
        """Numbers and payloads both ways, in order."""
        server, client = Owner(), Owner()
        sent = [protocol.Done(n, n, n, n, n, [b"x" * n, b""]) for n in range(count)]
        with running() as loop:
            for end in connected(loop, server, client):
                for message in sent:
                    loop.call(end.send, message)
            wait_until(lambda: len(server.messages) == len(client.messages) == count, what="all messages")
        self.assertEqual(sent, server.messages)
        self.assertEqual(sent, client.messages)
        self.assertEqual([None, None], server.ends + client.ends)  # on purpose, by the loop's end

    def test_they_come_whole_and_in_order(self):
        self.exchange(500)

    def test_with_each_kind_of_poller(self):
        class Without(object):
            """The select module of a system that lacks some of it."""

            def __init__(self, *missing):
                for name in dir(select):
                    if name not in missing:
                        setattr(self, name, getattr(select, name))

        kinds = [("epoll",), ("epoll", "poll")]
        for missing in kinds:
            with patched(loop_module, "select", Without(*missing)):
                self.exchange()
                self._refused_and_woken()

    def _refused_and_woken(self):
        with running() as loop:
            client = Owner()
            connect(loop, support.free_port(), client)
            self.assertIsInstance(client.end(), ConnectionFailed)

    def test_without_sendmsg(self):
        # 2.7 and Windows: small buffers are joined, large ones go alone.
        class Plain(object):
            def __init__(self, sock):
                self._sock = sock

            def __getattr__(self, name):
                if name == "sendmsg":
                    raise AttributeError(name)
                return getattr(self._sock, name)

        server, client = Owner(), Owner()
        large = os.urandom(JOIN_BYTES_MAX) * 20
        message = protocol.Done(1, 2, 3, 4, 5, [b"a", large, b"b", b"", large, b"c" * 100])
        with running() as loop:
            near, _ = connected(loop, server, client)
            in_loop(loop, setattr, near._stream, "socket", Plain(near._stream.socket))
            for _ in range(3):
                loop.call(near.send, message)
            wait_until(lambda: len(client.messages) == 3, what="the messages")
        self.assertEqual([message] * 3, client.messages)

    def test_in_pieces_of_any_size(self):
        server, client = Owner(), Owner()
        sent = [protocol.Done(n, n, n, n, n, [b"x" * n]) for n in range(20)]
        with running() as loop, support.Proxy(serve(loop, server)) as proxy:
            proxy.piece_bytes = 1
            for end in connected(loop, server, client, proxy.port):
                for message in sent:
                    loop.call(end.send, message)
            wait_until(lambda: len(server.messages) == len(client.messages) == 20, what="all messages")
        self.assertEqual(sent, server.messages)
        self.assertEqual(sent, client.messages)

    def test_large_ones_both_ways_at_once(self):
        # Neither end may wait for the other to read first.
        server, client = Owner(), Owner()
        data = os.urandom(1 << 20) * 8
        message = protocol.Done(1, 2, 3, 4, 5, [data])
        with running() as loop, running() as other:
            port = serve(loop, server)
            near = connect(other, port, client)
            wait_until(lambda: server.connections, what="a connection")
            loop.call(server.connections[0].send, message)
            other.call(near.send, message)
            wait_until(lambda: server.messages and client.messages, what="both messages")
        self.assertEqual([message], server.messages)
        self.assertEqual([message], client.messages)

    def test_what_was_sent_before_the_stop_arrives(self):
        server, client = Owner(), Owner()
        with running() as loop:
            port = serve(loop, server)
            with running() as other:
                near = connect(other, port, client)
                wait_until(lambda: server.connections, what="a connection")
                other.call(near.send, protocol.Farewell({"left": True}))
            wait_until(lambda: server.ends, what="the end")
        self.assertEqual([protocol.Farewell({"left": True})], server.messages)

    def test_one_that_is_too_large_is_the_senders_error_and_no_more(self):
        server, client = Owner(), Owner()
        with running() as loop:
            near, _ = connected(loop, server, client)
            near._channel._frame_bytes_max = 1000
            message = protocol.Done(1, 2, 3, 4, 5, [b"x" * 2000])
            self.assertRaises(FrameTooLarge, in_loop, loop, near.send, message)
            loop.call(near.send, protocol.ForgetJob(1))
            wait_until(lambda: client.messages, what="the next message")
        self.assertEqual([protocol.ForgetJob(1)], client.messages)


class Ends(unittest.TestCase):
    def test_closing_tells_both_sides_once(self):
        server, client = Owner(), Owner()
        with running() as loop:
            near, far = connected(loop, server, client)
            in_loop(loop, far.close)
            self.assertIsNone(client.end())
            self.assertIsInstance(server.end(), ConnectionFailed)
            self.assertIn("closed the connection", str(server.end()))
            in_loop(loop, far.close)
            in_loop(loop, far.send, protocol.ForgetJob(1))  # into the void
        self.assertEqual((1, 1), (len(server.ends), len(client.ends)))

    def test_closing_while_much_is_still_to_be_sent(self):
        server, client = Owner(), Owner()
        message = protocol.Done(1, 2, 3, 4, 5, [b"x" * (8 << 20)])
        with running() as loop, support.Proxy(serve(loop, server)) as proxy:
            near, far = connected(loop, server, client, proxy.port)
            proxy.stall()
            in_loop(loop, near.send, message)
            in_loop(loop, near.close)
            self.assertIsNone(server.end())
            in_loop(loop, far.send, message)
            proxy.cut()
            self.assertIsInstance(client.end(), ConnectionFailed)
            self.assertEqual(1, in_loop(loop, lambda: 1))  # the loop has survived it
        self.assertEqual((1, 1), (len(server.ends), len(client.ends)))
        self.assertEqual([], client.messages + server.messages)

    def test_the_owner_may_close_it_from_within(self):
        server = Owner(then=lambda connection, messages: connection.close(None))
        client = Owner()
        with running() as loop:
            _, far = connected(loop, server, client)
            for number in range(100):
                loop.call(far.send, protocol.ForgetJob(number))
            self.assertIsNone(server.end())
            self.assertIsInstance(client.end(), ConnectionFailed)
        self.assertEqual(1, len(server.ends))

    def test_the_owner_may_close_it_as_soon_as_it_is_open(self):
        class Refusing(Owner):
            def opened(self, connection):
                connection.close(None)

        server, client = Refusing(), Owner()
        with running() as loop:
            connect(loop, serve(loop, server), client)
            self.assertIsNone(server.end())
            self.assertIsInstance(client.end(), ConnectionFailed)
        self.assertEqual([], server.messages)

    def test_then_it_is_not_told_what_came_right_behind(self):
        class Greeting(Owner):
            def opened(self, connection):
                connection.send(protocol.ForgetJob(1))  # leaves together with the handshake's end

        class Refusing(Owner):
            def opened(self, connection):
                connection.close(None)

        server, client = Greeting(), Refusing()
        with running() as loop:
            connect(loop, serve(loop, server), client)
            self.assertIsNone(client.end())
        self.assertEqual([], client.messages)

    def is_of_a_changed_bit(self, error):
        self.assertIsInstance(error, ProtocolError)

    def test_a_changed_bit_ends_one_connection_and_no_other(self):
        server, client, other = Owner(), Owner(), Owner()
        with running() as loop, support.Proxy(serve(loop, server)) as proxy:
            _, far = connected(loop, server, client, proxy.port)
            healthy = connect(loop, proxy.port, other)
            wait_until(lambda: len(server.connections) == 2, what="the second connection")
            proxy.flip = "up"
            loop.call(far.send, protocol.Done(1, 2, 3, 4, 5, [b"x" * 100]))
            self.is_of_a_changed_bit(server.end())
            client.end()
            loop.call(healthy.send, protocol.ForgetJob(1))
            wait_until(lambda: server.messages, what="a message of the other")
        self.assertEqual([protocol.ForgetJob(1)], server.messages)


class Life(unittest.TestCase):
    def test_row_51_a_part_of_a_message_is_told(self):
        class Hearing(Owner):
            heard = 0

            def received(self, connection, messages):
                self.heard += 1
                Owner.received(self, connection, messages)

        server, client = Hearing(), Owner()
        message = protocol.Done(1, 2, 3, 4, 5, [os.urandom(1 << 20)])
        with running() as loop, support.Proxy(serve(loop, server)) as proxy:
            _, far = connected(loop, server, client, proxy.port)
            proxy.piece_bytes = 10000
            loop.call(far.send, message)
            wait_until(lambda: server.heard > 3 and not server.messages or server.messages, what="a part of it")
            wait_until(lambda: server.messages, what="all of it")
        self.assertGreater(server.heard, 3)
        self.assertEqual([message], server.messages)

    def test_row_51_small_messages_pass_a_large_one(self):
        server, client = Owner(), Owner()
        large = protocol.Grant(1, 2, 3, 4, 5, [os.urandom(1 << 20) * 64])
        with running() as loop, running() as other, support.Proxy(serve(loop, server)) as proxy:
            connect(other, proxy.port, client)
            wait_until(lambda: server.connections, what="a connection")
            near = server.connections[0]
            proxy.stall()
            loop.call(near.send, large)
            wait_until(lambda: in_loop(loop, lambda: near._writing), what="a full link")
            loop.call(near.send, protocol.Acknowledge(1))
            proxy.flow()
            wait_until(lambda: len(client.messages) == 2, what="both messages")
        self.assertEqual([protocol.Acknowledge(1), large], client.messages)

    def test_row_51_a_peer_that_takes_nothing_is_given_up_and_one_that_takes_little_is_not(self):
        server, client, clock = Owner(), Owner(), [100.0]
        large = protocol.Grant(1, 2, 3, 4, 5, [b"x" * (64 << 20)])
        with running() as loop, running() as other, support.Proxy(serve(loop, server)) as proxy:
            connect(other, proxy.port, client)
            wait_until(lambda: server.connections, what="a connection")
            near = server.connections[0]
            now = lambda: clock[0]  # noqa: E731
            with patched(connection_module, "monotonic", now), patched(loop_module, "monotonic", now):
                proxy.stall()
                proxy.piece_bytes = 1000  # it flows slowly
                in_loop(loop, near.send, large)
                for _ in range(3):
                    clock[0] += STUCK_SECONDS - 1
                    proxy.flow()
                    wait_until(lambda: near.taken_at == clock[0], what="some bytes taken")
                    proxy.stall()
                wait_until(lambda: near.taken_at == clock[0] and in_loop(loop, lambda: near in loop._writing), what="a full link")
                self.assertEqual([], server.ends)
                while not server.ends:  # what is on its way may still be taken, at this new time
                    clock[0] += STUCK_SECONDS + 1
                    loop.call(lambda: None)
                    wait_until(lambda: server.ends or near.taken_at == clock[0], what="an end, or some bytes taken")
                self.assertIn("has taken nothing", str(server.end()))

    @unittest.skipUnless(hasattr(signal, "SIGPIPE"), "this system has no SIGPIPE")
    def test_row_54_a_peer_that_has_gone_does_not_end_a_program_that_lets_sigpipe_end_it(self):
        before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        self.addCleanup(signal.signal, signal.SIGPIPE, before)
        for size in (10, 1 << 20):
            server, client = Owner(), Owner()
            with running() as loop, running() as other:
                far = connect(other, serve(loop, server), client)
                wait_until(lambda: server.connections, what="a connection")
                in_loop(loop, loop.drop, server.connections[0]._stream.socket)  # its end is not noticed
                in_loop(other, far.close)
                for _ in range(20):
                    in_loop(loop, server.connections[0].send, protocol.Done(1, 2, 3, 4, 5, [b"x" * size]))
                    in_loop(loop, server.connections[0].write)
                self.assertIn("broke", str(server.end()))


if __name__ == "__main__":
    unittest.main()
