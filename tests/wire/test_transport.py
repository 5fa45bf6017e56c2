"""The loop, its connections and its limits, over real sockets on this machine."""
from __future__ import absolute_import, division, print_function

import contextlib
import errno
import os
import select
import signal
import socket
import threading
import time
import unittest

from minimalcluster.wire import addresses, protocol, transport
from minimalcluster.compat import monotonic
from minimalcluster.errors import AuthenticationError, ConnectionFailed, FrameTooLarge, HandshakeTimeout, ProtocolError
from tests import support
from tests.support import patched, wait_until

KEY = protocol.generate_key(b"k" * 32)
OTHER_KEY = protocol.generate_key(b"o" * 32)


@contextlib.contextmanager
def running():
    """A loop that runs in a thread of its own."""
    loop = transport.Loop()
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


def serve(loop, owner, key=KEY):
    """The port of a listener whose connections are the owner's."""

    def accepted(sock, where):
        handshake = protocol.ServerHandshake(key, os.urandom(16), os.urandom(32), 1, 1)
        return transport.Connection(loop, sock, handshake, owner, where)

    return in_loop(loop, transport.Listener, loop, "127.0.0.1", 0, accepted).port


def connect(loop, port, owner, key=KEY, patience=None):
    def run():
        handshake = protocol.ClientHandshake(key, os.urandom(32), protocol.NODE, b"i" * 16, (3, 6), "the master")
        return transport.Connection(loop, dial("127.0.0.1", port), handshake, owner, "the master", True, patience)

    return in_loop(loop, run)


def connected(loop, server, client, port=None):
    """The two ends of a connection that has been proved."""
    near = connect(loop, serve(loop, server) if port is None else port, client)
    wait_until(lambda: server.connections and client.connections, what="a connection")
    return server.connections[-1], near


def silent(port):
    return socket.create_connection(("127.0.0.1", port))


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


class Loop(unittest.TestCase):
    def test_calls_of_many_threads_all_run_there_in_order(self):
        with running() as loop:
            ran = []
            own = in_loop(loop, threading.current_thread)

            def work(name):
                for number in range(500):
                    loop.call(lambda n=number: ran.append((name, n, threading.current_thread() is own)))

            for worker in [support.Background(work, name) for name in range(4)]:
                worker.result()
            wait_until(lambda: len(ran) == 2000, what="2000 calls")
            for name in range(4):
                self.assertEqual([(name, n, True) for n in range(500)], [each for each in ran if each[0] == name])

    def test_a_call_wakes_a_loop_that_waits_for_nothing(self):
        with running() as loop:
            for _ in range(200):  # one lost wake-up would leave it asleep for ever
                self.assertEqual(1, in_loop(loop, lambda: 1))

    def test_ctrl_c_while_it_is_woken_does_not_leave_it_asleep(self):
        class Interrupted(object):
            def send(self, data, flags):
                raise KeyboardInterrupt

        with running() as loop:
            ran = []
            in_loop(loop, lambda: None)
            support.wait_until(lambda: not loop._awake, what="its waiting")
            with support.patched(loop, "_waker", Interrupted()):
                self.assertRaises(KeyboardInterrupt, loop.call, ran.append, 1)
            loop.call(ran.append, 2)
            wait_until(lambda: ran == [1, 2], what="both calls")

    def test_a_call_from_the_loop_itself_runs_in_its_next_cycle(self):
        with running() as loop:
            ran = []
            loop.call(lambda: loop.call(lambda: loop.call(ran.append, 1)))
            wait_until(lambda: ran, what="a call of a call")

    def test_a_call_before_it_runs_is_not_lost(self):
        loop = transport.Loop()
        ran = []
        loop.call(ran.append, 1)
        loop.stop()
        loop.run()
        loop.close()
        self.assertEqual([1], ran)

    def test_a_participant_is_stepped_when_it_is_due(self):
        class Participant(object):
            def __init__(self):
                self.moments = [monotonic() + 0.02, monotonic() + 0.04]

            def deadline(self):
                return self.moments[0] if self.moments else None

            def step(self, now):
                while self.moments and now >= self.moments[0]:
                    self.moments.pop(0)

        participant = Participant()
        with running() as loop:
            loop.call(loop.join, participant)
            wait_until(lambda: not participant.moments, what="both moments")
            in_loop(loop, loop.leave, participant)
            in_loop(loop, loop.leave, participant)  # twice does no harm

    @unittest.skipUnless(os.path.exists("/proc/self/fd"), "descriptors are counted in /proc")
    def test_it_gives_its_descriptors_back(self):
        with running() as loop:
            connected(loop, Owner(), Owner())
        before = open_descriptors()
        for _ in range(3):
            with running() as loop:
                connected(loop, Owner(), Owner())
        self.assertEqual(before, open_descriptors())


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
            with patched(transport, "select", Without(*missing)):
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
        large = os.urandom(transport.JOIN_BYTES_MAX) * 20
        message = protocol.Done(1, 2, 3, 4, 5, [b"a", large, b"b", b"", large, b"c" * 100])
        with running() as loop:
            near, _ = connected(loop, server, client)
            in_loop(loop, setattr, near, "_socket", Plain(near._socket))
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

    def test_a_changed_bit_ends_one_connection_and_no_other(self):
        server, client, other = Owner(), Owner(), Owner()
        with running() as loop, support.Proxy(serve(loop, server)) as proxy:
            _, far = connected(loop, server, client, proxy.port)
            healthy = connect(loop, proxy.port, other)
            wait_until(lambda: len(server.connections) == 2, what="the second connection")
            proxy.flip = "up"
            loop.call(far.send, protocol.Done(1, 2, 3, 4, 5, [b"x" * 100]))
            self.assertIsInstance(server.end(), ProtocolError)
            client.end()
            loop.call(healthy.send, protocol.ForgetJob(1))
            wait_until(lambda: server.messages, what="a message of the other")
        self.assertEqual([protocol.ForgetJob(1)], server.messages)


class Strangers(unittest.TestCase):
    def test_nobody_listens(self):
        client = Owner()
        with running() as loop:
            connect(loop, support.free_port(), client)
            self.assertIsInstance(client.end(), ConnectionFailed)
            self.assertIn("cannot connect to the master: ", str(client.end()))
            self.assertIn("refused", str(client.end()))

    def test_a_wrong_key_is_told_on_both_sides(self):
        server, client = Owner(), Owner()
        with running() as loop:
            connect(loop, serve(loop, server), client, OTHER_KEY)
            self.assertIsInstance(server.end(), AuthenticationError)
            self.assertIsInstance(client.end(), AuthenticationError)
            self.assertIn("AUTHKEY", str(client.end()))
        self.assertEqual([], server.connections + client.connections)

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
                self.assertEqual(len(protocol.ServerHandshake(KEY, b"s" * 16, b"n" * 32, 1, 1).start()), len(heard(sock)))

    def test_a_peer_that_says_nothing_is_dropped_in_time(self):
        server, client = Owner(), Owner()
        mute = addresses.listen("127.0.0.1", 0)[0]
        self.addCleanup(mute.close)
        with patched(transport, "HANDSHAKE_SECONDS", 0.1), running() as loop:
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
        with patched(transport, "HALF_OPEN_MAX", 4), running() as loop:
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
                self.assertTrue(sock.recv(1000).startswith(protocol.MAGIC))
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
        with patched(transport, "HALF_OPEN_MAX", 4), running() as loop:
            port = serve(loop, server)
            elsewhere = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
            self.addCleanup(elsewhere.close)
            wait_until(lambda: loop._half_open, what="a peer of another address")
            for _ in range(20):
                self.addCleanup(silent(port).close)
            wait_until(lambda: len(server.ends) == 17, what="the ends of too many")
            handshake = protocol.ClientHandshake(KEY, os.urandom(32), protocol.NODE, b"i" * 16, (3, 6), "the master")
            answer = handshake.receive(elsewhere.recv(1000))
            elsewhere.sendall(answer)
            wait_until(lambda: server.connections, what="its proof, though it was the oldest")

    def test_row_52_our_own_peers_have_room_beside_strangers(self):
        server = Owner()
        with patched(transport, "HALF_OPEN_MAX", 4), running() as loop:

            def accepted(sock, where):
                handshake = protocol.ServerHandshake(KEY, os.urandom(16), os.urandom(32), 1, 1)
                return transport.Connection(loop, sock, handshake, server, where)

            listener = in_loop(loop, transport.Listener, loop, "127.0.0.1", 0, accepted, 20)
            for _ in range(24):
                self.addCleanup(silent(listener.port).close)
            wait_until(lambda: len(loop._half_open) == 24, what="24 peers")
            self.assertEqual([], server.ends)

    def test_row_52_our_own_delay_is_not_the_peers(self):
        server, clients = Owner(), [Owner() for _ in range(60)]
        with patched(transport, "HANDSHAKE_SECONDS", 1.0), running() as loop, running() as other:
            port = serve(loop, server)
            for client in clients:
                connect(other, port, client, patience=support.SECONDS)
            loop.call(time.sleep, 2.5)  # between their call and our HELLO, or their answer
            wait_until(lambda: len(server.connections) == 60, what="all of them")
            self.assertEqual([], server.ends)

    def test_row_52_a_stopped_process_is_not_the_peers_delay(self):
        server, client = Owner(), Owner()
        with patched(transport, "HANDSHAKE_SECONDS", 1.0), running() as loop, running() as other:
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
        with patched(transport, "ACCEPTS_PER_CYCLE", 3):
            loop, accepted, turns = transport.Loop(), [], []
            listener = transport.Listener(loop, "127.0.0.1", 0, lambda sock, where: accepted.append(sock))
            for _ in range(10):
                self.addCleanup(silent(listener.port).close)
            wait_until(lambda: turns.append(loop.cycle()) or len(accepted) == 10, what="ten connections")
            self.assertGreaterEqual(len(turns), 4)
            for sock in accepted:
                sock.close()
            loop.close()


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
            with patched(transport, "monotonic", lambda: clock[0]):
                proxy.stall()
                proxy.piece_bytes = 1000  # it flows slowly
                in_loop(loop, near.send, large)
                for _ in range(3):
                    clock[0] += transport.STUCK_SECONDS - 1
                    proxy.flow()
                    wait_until(lambda: near.taken_at == clock[0], what="some bytes taken")
                    proxy.stall()
                wait_until(lambda: near.taken_at == clock[0] and in_loop(loop, lambda: near in loop._writing), what="a full link")
                self.assertEqual([], server.ends)
                clock[0] += transport.STUCK_SECONDS + 1
                loop.call(lambda: None)
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
                in_loop(loop, loop.drop, server.connections[0]._socket)  # its end is not noticed
                in_loop(other, far.close)
                for _ in range(20):
                    in_loop(loop, server.connections[0].send, protocol.Done(1, 2, 3, 4, 5, [b"x" * size]))
                    in_loop(loop, server.connections[0].write)
                self.assertIn("broke", str(server.end()))


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
        with running() as loop, patched(transport, "PAUSE_SECONDS", 0.05), support.Log() as log:
            accepted = []
            listener = in_loop(loop, transport.Listener, loop, "127.0.0.1", 0, lambda sock, where: accepted.append(sock))
            exhausted = _Exhausted(listener._sockets[0])
            listener._sockets[:] = [exhausted]
            with contextlib.closing(socket.create_connection(("127.0.0.1", listener.port))):
                wait_until(lambda: len(log.having("takes no connections")) >= 2, what="two pauses")
                # It is asked once a pause, not as fast as the loop can turn.
                self.assertLessEqual(exhausted.asked, len(log.having("takes no connections")) + 1)
                exhausted.left = True
                wait_until(lambda: accepted, what="the connection that waited")
                accepted[0].close()


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


if __name__ == "__main__":
    unittest.main()
