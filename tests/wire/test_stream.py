"""A stream of bytes that never waits: what comes, what goes, what cannot."""
from __future__ import absolute_import, division, print_function

import socket
import unittest
from collections import deque

from minimalcluster.compat import socketpair
from minimalcluster.wire.stream import BUFFERS_PER_WRITE, JOIN_BYTES_MAX, RECEIVE_BYTES, SocketStream
from tests import support
from tests.support import wait_until


class Plain(object):
    """A socket of 2.7 and Windows: it has no sendmsg."""

    def __init__(self, sock):
        self._sock = sock

    def __getattr__(self, name):
        if name == "sendmsg":
            raise AttributeError(name)
        return getattr(self._sock, name)


class Streams(unittest.TestCase):
    def setUp(self):
        near, self.far = socketpair()
        self.addCleanup(near.close)
        self.addCleanup(self.far.close)
        near.setblocking(False)
        self.stream = SocketStream(near)

    def test_nothing_an_end_and_what_has_arrived_are_told_apart(self):
        self.assertIsNone(self.stream.receive())
        self.assertFalse(self.stream.has_more)
        self.far.sendall(b"abc")
        self.assertEqual(b"abc", wait_until(self.stream.receive, what="what was sent"))
        self.assertFalse(self.stream.has_more)
        self.far.close()
        self.assertEqual(b"", wait_until(lambda: [data for data in [self.stream.receive()] if data is not None], what="the end")[0])

    def test_there_may_be_more_when_all_that_was_asked_for_has_come(self):
        sent = b"x" * (RECEIVE_BYTES + 7)
        thread = support.Background(lambda: self.far.sendall(sent))
        got, told = b"", []
        while len(got) < len(sent):
            data = wait_until(self.stream.receive, what="the rest")
            got += data
            told.append((len(data) == RECEIVE_BYTES, self.stream.has_more))
        thread.result()
        self.assertEqual(sent, got)
        self.assertEqual([], [each for each in told if each[0] != each[1]])

    def test_a_peer_that_takes_nothing_takes_nothing(self):
        buffer, sent = b"x" * JOIN_BYTES_MAX, 0
        while True:
            count = self.stream.send(deque([buffer]))
            sent += count
            if not count:
                break
        self.assertEqual(0, self.stream.send(deque([buffer])))
        self.far.settimeout(support.SECONDS)
        while sent:
            sent -= len(self.far.recv(sent))
        self.assertTrue(wait_until(lambda: self.stream.send(deque([b"y"])), what="room"))

    def check(self, stream, buffers, expected):
        """So many of these buffers go with one call, in order."""
        count = stream.send(deque(buffers))
        self.assertEqual(sum(map(len, buffers[:expected])), count)
        self.far.settimeout(support.SECONDS)
        data = b""
        while len(data) < count:
            data += self.far.recv(count)
        self.assertEqual(b"".join(buffers)[:count], data)

    def test_many_buffers_go_with_one_call(self):
        few, many = [b"ab", b"", b"cd"], [b"x"] * (BUFFERS_PER_WRITE + 3)
        self.check(self.stream, few, 3)
        if hasattr(socket.socket, "sendmsg"):
            self.check(self.stream, many, BUFFERS_PER_WRITE)

    def test_without_sendmsg_small_ones_are_joined_and_a_large_one_goes_alone(self):
        stream = SocketStream(Plain(self.stream.socket))
        large = b"z" * (JOIN_BYTES_MAX + 1)
        self.check(stream, [b"ab", b"cd", large, b"e"], 2)
        self.check(stream, [large[: JOIN_BYTES_MAX // 2], b"e"], 2)

    def test_nothing_is_sent_before_the_connection_stands(self):
        self.assertEqual(0, SocketStream(self.stream.socket, connecting=True).send(deque([b"early"])))
        self.far.setblocking(False)
        self.assertRaises((OSError, socket.error), self.far.recv, 10)

    def test_a_connection_that_fails_says_why(self):
        port = support.free_port()
        sock = socket.socket()
        self.addCleanup(sock.close)
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        stream = SocketStream(sock, connecting=True)

        def refused():
            try:
                stream.finish_connecting()
            except OSError as error:
                return error

        self.assertTrue(wait_until(refused, what="a refusal").strerror)
        self.assertTrue(stream.is_connecting)

    def test_a_broken_connection_raises(self):
        self.far.close()
        self.assertRaises((OSError, socket.error), lambda: [self.stream.send(deque([b"x"])) for _ in range(10)])


if __name__ == "__main__":
    unittest.main()
