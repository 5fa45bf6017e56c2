"""A real worker process, driven over its connection by a node that is played by the test."""
from __future__ import absolute_import, division, print_function

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import unittest

from minimalcluster.wire import handshakes, keys, protocol
from minimalcluster.payload import environment, values
from minimalcluster.node import boot, worker
from minimalcluster.compat import PY2, joined
from tests import support

POSIX = os.name == "posix"


def fail_to_load():
    raise ValueError("made to fail")


def stop_loading():
    raise StopIteration("made to stop")


class Stopping(object):
    """An argument whose unpickling raises what ends an iteration."""

    def __reduce__(self):
        return stop_loading, ()


class Unloadable(object):
    """An argument that can be pickled and not unpickled."""

    def __reduce__(self):
        return fail_to_load, ()


def load_slowly(source):
    gates = {}
    exec(source, gates)
    gates["note"]("unpickling")
    gates["wait_for"]("unpickled")


class Slow(object):
    """An argument whose unpickling the test holds."""

    def __init__(self, source):
        self.source = source

    def __reduce__(self):
        return load_slowly, (self.source,)


class Child(object):
    """A worker process and the node's end of its connection."""

    def __init__(self):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(support.SECONDS)
        self.process = subprocess.Popen(
            boot.command("node.worker", "main", []),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, close_fds=POSIX,
        )  # fmt: skip
        key = keys.generate_key(os.urandom(32))
        told = {"port": listener.getsockname()[1], "key": key, "slot": 3, "path": [support.ROOT] + sys.path}
        self.process.stdin.write(json.dumps(told).encode("ascii") + b"\n")
        self.process.stdin.flush()
        try:
            self.socket = listener.accept()[0]
        finally:
            listener.close()
        self.socket.settimeout(support.SECONDS)
        handshake = handshakes.ServerHandshake(key, os.urandom(16), os.urandom(32), 0, 0, tagged=False)
        self.socket.sendall(handshake.start())
        while handshake.channel is None:
            self.socket.sendall(handshake.receive(self.socket.recv(4096)))
        self.peer, self._channel = handshake.peer, handshake.channel
        self._received = self._channel.feed(handshake.leftover())
        self._attempts = 0

    def send(self, message):
        self.socket.sendall(joined(self._channel.frame(message)))

    def receive(self):
        """The next message; whatever it fetches from the master, this one has not."""
        while True:
            while not self._received:
                data = self.socket.recv(1 << 20)
                if not data:
                    raise AssertionError("the worker process has gone: %s" % self.process.poll())
                self._received += self._channel.feed(data)
            message = self._received.pop(0)
            if not isinstance(message, protocol.Fetch):
                return message
            self.send(protocol.Fetched(message.request, {"found": False}, []))

    def define(self, text, name="f", job=1, **terms):
        source = environment.from_text(text)
        info = {
            "kind": "source", "module": source.module, "filename": source.filename, "is_text": source.is_text,
            "function": name,
        }  # fmt: skip
        info.update(terms)
        self.send(protocol.DefineJob(job, info, [source.data]))

    def grant(self, arguments, careful=0, job=1, first=0):
        """Returns the attempt's number."""
        self._attempts += 1
        payload = values.arguments(arguments).encode(0, len(arguments))
        self.send(protocol.Grant(self._attempts, job, first, len(arguments), careful, payload))
        return self._attempts

    def reports(self, attempt, first, count):
        """The messages about an attempt until nothing of it is left; that they fit one to the next is checked."""
        messages, at, end = [], first, first + count
        while at < end:
            message = self.receive()
            if message.attempt != attempt:
                raise AssertionError("%r is not about attempt %d" % (message, attempt))
            messages.append(message)
            if isinstance(message, protocol.Released):
                end = message.first
            elif message.first != at:
                raise AssertionError("task %d should be next: %r" % (at, message))
            else:
                at += message.count if isinstance(message, protocol.Done) else 1
        if at != end:
            raise AssertionError("task %d was given back, and those before %d are done" % (end, at))
        return messages

    def run(self, arguments, careful=0, job=1, first=0):
        """Every task's outcome, in order: its result or its exception."""
        return outcomes(self.reports(self.grant(arguments, careful, job, first), first, len(arguments)))

    def ended(self):
        """The exit code, once it has ended by itself."""
        return support.wait_until(lambda: self.process.poll() is not None and [self.process.poll()])[0]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for each in (self.socket, self.process.stdin, self.process.stdout):
            try:
                each.close()
            except (OSError, IOError):
                pass


def outcomes(messages):
    found = []
    for message in messages:
        if isinstance(message, protocol.Done):
            found += values.decode_results(message.payload, message.count)
        elif isinstance(message, protocol.Failed):
            found.append(values.decode_exception(message.info, message.payload))
    return found


class Base(unittest.TestCase):
    def setUp(self):
        self.child = Child()
        self.addCleanup(self.child.close)

    def assert_lives(self):
        """It does the next job as if nothing had been."""
        self.child.define("def f(x):\n    return x + 1", job=99)
        self.assertEqual([2, 3], self.child.run([1, 2], job=99))


class Gated(Base):
    """Tasks that wait until the test lets them go on."""

    def setUp(self):
        super(Gated, self).setUp()
        self.gates = support.Gates(support.directory_for(self))


class Work(Base):
    def test_it_says_who_it_is(self):
        self.assertEqual(handshakes.CHILD, self.child.peer.role)
        self.assertEqual(b"slot3", self.child.peer.node_id.rstrip(b"\0"))
        self.assertEqual(sys.version_info[:2], self.child.peer.python)

    def test_results_come_in_order(self):
        self.child.define("def f(x):\n    return x * 2")
        for arguments in (range(10), range(5, -5, -2), [1.5, u"a"], [(1, 2), (3,)], [7]):
            self.assertEqual([x * 2 for x in arguments], self.child.run(arguments))
        self.assertEqual([200, 202], self.child.run(range(100, 102), first=100))

    def test_trivial_tasks_share_messages(self):
        self.child.define("def f(x):\n    return x * 2")
        self.child.run(range(100))  # it measures
        messages = self.child.reports(self.child.grant(range(100000)), 0, 100000)
        self.assertEqual([x * 2 for x in range(100000)], outcomes(messages))
        self.assertLess(len(messages), 10000)

    def test_a_long_task_is_reported_when_it_ends(self):
        self.child.define("import time\ndef f(x):\n    time.sleep(0.03)\n    return x")
        messages = self.child.reports(self.child.grant(range(5)), 0, 5)
        self.assertEqual([1] * 5, [message.count for message in messages])
        self.assertGreater(min(message.elapsed_ns for message in messages), 20 * 10**6)

    def test_careful_means_one_by_one(self):
        # So that only the task that was running is blamed when the process dies.
        self.child.define("def f(x):\n    if x == 7:\n        raise ValueError(x)\n    return x")
        self.child.run([1] * 100)
        messages = self.child.reports(self.child.grant(range(50), careful=1), 0, 50)
        self.assertEqual(50, len(messages))

    def test_several_jobs_side_by_side(self):
        self.child.define("k = []\ndef f(x):\n    k.append(x)\n    return len(k)", job=1)
        self.child.define("k = 5\ndef f(x):\n    return k", job=2)
        self.assertEqual([1], self.child.run([0], job=1))
        self.assertEqual([5], self.child.run([0], job=2))
        self.assertEqual([2], self.child.run([0], job=1))

    def test_large_values(self):
        self.child.define("def f(x):\n    return x + x")
        data = os.urandom(1 << 20) * 4
        self.assertEqual([data + data], self.child.run([data]))
        self.assertEqual([(data, data)], self.child.run([(data,)]))

    def test_instances_of_the_environments_classes(self):
        text = "class C(object):\n    def __init__(self, x):\n        self.x = x\ndef f(x):\n    return C(x * 2)"
        self.child.define(text)
        environment.load(environment.from_text(text))
        self.assertEqual([2, 4], [instance.x for instance in self.child.run([1, 2])])

    def test_what_it_cannot_load_it_refuses(self):
        for text, name, word in (
            ("raise ValueError('not here')", "f", "not here"),
            ("import no_such_module_anywhere", "f", "no_such_module_anywhere"),
            ("g = 1", "f", "'f'"),
            ("import sys\nsys.exit(3)", "f", "SystemExit"),
        ):
            self.child.define(text, name)
            attempt = self.child.grant(range(5), first=10)
            message = self.child.receive()
            self.assertIsInstance(message, protocol.Unfit)
            self.assertEqual((attempt, 10), (message.attempt, message.first))
            self.assertIn(word, message.info["text"])
        self.assert_lives()


class Failures(Base):
    def test_an_exception_in_the_middle(self):
        self.child.define("def f(x):\n    return 10 // (x % 4 - 2)")
        got = self.child.run(range(100))
        for x in range(100):
            if x % 4 == 2:
                self.assertIsInstance(got[x], ZeroDivisionError)
                self.assertIn("return 10 // (x % 4 - 2)", got[x].__cause__.tb)
                self.assertNotIn("worker.py", got[x].__cause__.tb)
                self.assertNotIn("chunks.py", got[x].__cause__.tb)
            else:
                self.assertEqual(10 // (x % 4 - 2), got[x])

    def test_every_task_fails(self):
        self.child.define("def f(x):\n    raise KeyError(x)")
        self.assertEqual([(x,) for x in range(20)], [error.args for error in self.child.run(range(20))])

    def test_results_that_cannot_be_pickled(self):
        self.child.define("def f(x):\n    return (lambda: x) if x in (0, 5, 6, 19) else (x,)")
        got = self.child.run(range(20))
        for x in range(20):
            if x in (0, 5, 6, 19):
                self.assertIsInstance(got[x], TypeError)
                self.assertIn("cannot be sent back", str(got[x]))
            else:
                self.assertEqual((x,), got[x])

    def test_row_68_a_result_is_what_was_returned_as_it_was_then(self):
        # By the thousand, one by one, and while a slow one lets the watching thread send those before it.
        self.child.define(
            "import time\nkept = []\nbox = {}\n"
            "def f(x):\n    if x == 150:\n        time.sleep(0.4)\n    kept.append(x)\n    box['n'] = x\n"
            "    return x if x % 50 == 0 else kept if x % 2 else (x, box)"
        )
        for careful in (0, 1):
            got = self.child.run(range(1, 300), careful)
            first = 0 if not careful else 299
            for x, result in enumerate(got, 1):
                if x % 50 == 0:
                    self.assertEqual(x, result)
                elif x % 2:
                    self.assertEqual((first + x, x), (len(result), result[-1]))
                else:
                    self.assertEqual((x, {"n": x}), result)

    def test_an_argument_that_cannot_be_unpickled(self):
        self.child.define("def f(x):\n    return x")
        got = self.child.run([(0,), Unloadable(), (2,), Unloadable()])
        self.assertEqual([(0,), (2,)], [got[0], got[2]])
        for at in (1, 3):
            self.assertIsInstance(got[at], ValueError)
            self.assertIn("made to fail", str(got[at]))

    def test_an_argument_whose_unpickling_raises_stop_iteration(self):
        self.child.define("def f(x):\n    return x")
        got = self.child.run([(0,), Stopping(), (2,), Stopping()])
        self.assertEqual([(0,), (2,)], [got[0], got[2]])
        for at in (1, 3):
            self.assertIsInstance(got[at], StopIteration)
            self.assertEqual(("made to stop",), got[at].args)

    def test_an_exception_that_cannot_be_rebuilt(self):
        self.child.define(
            "class E(Exception):\n    def __init__(self, a, b):\n        Exception.__init__(self, a)\n"
            "def f(x):\n    if x == 1:\n        raise E(1, 2)\n    return x"
        )
        got = self.child.run([0, 1, 2])
        self.assertEqual([0, 2], [got[0], got[2]])
        self.assertEqual("E: 1", str(got[1]))

    def test_a_task_cannot_end_the_process(self):
        for raised, kind in (
            ("sys.exit(3)", SystemExit), ("raise KeyboardInterrupt", KeyboardInterrupt),
            ("raise GeneratorExit", GeneratorExit), ("f(x)", RuntimeError),
        ):  # fmt: skip
            self.child.define("import sys\ndef f(x):\n    if x == 1:\n        %s\n    return x" % raised)
            got = self.child.run([0, 1, 2])
            self.assertEqual([0, 2], [got[0], got[2]])
            self.assertIsInstance(got[1], kind)
        self.assert_lives()

    def test_stop_iteration_is_an_error_and_not_the_end(self):
        self.child.define("def f(x):\n    if x == 1:\n        raise StopIteration\n    return x")
        got = self.child.run([0, 1, 2])
        self.assertEqual([0, 2], [got[0], got[2]])
        self.assertIsInstance(got[1], StopIteration)

    @unittest.skipUnless(hasattr(os, "fork"), "this system has no fork")
    def test_a_task_that_forks_and_comes_back_twice(self):
        self.child.define("import os\ndef f(x):\n    if x in (1, 3):\n        os.fork()\n    return x")
        for careful in (0, 1):
            self.assertEqual(list(range(6)), self.child.run(range(6), careful))
        self.child.define("import os\ndef f(x):\n    os.fork()\n    raise ValueError(x)")
        self.assertEqual([(0,), (1,)], [error.args for error in self.child.run(range(2))])
        self.assert_lives()

    @unittest.skipUnless(POSIX, "descriptors are numbered otherwise there")
    def test_a_task_that_closes_everything_costs_one_process(self):
        self.child.define("import os\ndef f(x):\n    os.closerange(3, 1000)")
        self.child.grant([1])
        self.child.ended()


class Limits(Gated):
    """Where tasks have a time limit, the node hears when the code begins that it is for."""

    def limited(self, body):
        self.child.define(self.gates.source + "note('loading')\nwait_for('loaded')\n" + body, timeout=60.0)

    def test_row_66_a_task_begins_when_its_environment_has_run(self):
        self.limited("def f(x):\n    note('begun')\n    wait_for('open')\n    return x")
        attempt = self.child.grant([5])
        message = support.Background(self.child.receive)
        self.gates.wait_for("loading")
        self.assertFalse(message.done())
        self.gates.open("loaded")
        self.assertEqual(protocol.Begun(attempt), message.result())
        self.gates.wait_for("begun")
        self.gates.open("open")
        self.assertEqual([5], outcomes(self.child.reports(attempt, 0, 1)))

    def test_row_66_a_task_begins_when_its_argument_is_unpickled(self):
        self.gates.open("loaded")
        self.limited("def f(x):\n    return 1")
        attempt = self.child.grant([Slow(self.gates.source)])
        message = support.Background(self.child.receive)
        self.gates.wait_for("unpickling")
        self.assertFalse(message.done())
        self.gates.open("unpickled")
        self.assertEqual(protocol.Begun(attempt), message.result())
        self.assertEqual([1], outcomes(self.child.reports(attempt, 0, 1)))

    def test_row_66_each_task_of_a_chunk_begins_by_itself(self):
        self.gates.open("loaded")
        self.limited("def f(x):\n    if x == 2:\n        raise ValueError(x)\n    return x")
        for _ in range(2):  # the second time it knows how fast they are
            self.child.grant(range(4))
            kinds = []
            while len(kinds) < 8:
                kinds.append(type(self.child.receive()))
            begun, done, failed = protocol.Begun, protocol.Done, protocol.Failed
            self.assertEqual([begun, done, begun, done, begun, failed, begun, done], kinds)

    def test_without_a_limit_nothing_is_said(self):
        self.child.define("def f(x): return x")
        self.assertEqual([0, 1, 2], self.child.run(range(3)))


class Revokes(Gated):
    def test_what_has_not_begun_is_given_back(self):
        self.child.define(self.gates.source + "def f(x):\n    note('begun')\n    wait_for('open')\n    return x")
        attempt = self.child.grant(range(100), first=1000)
        self.gates.wait_for("begun")
        self.child.send(protocol.Revoke(attempt, 0))
        released = self.child.receive()
        self.assertEqual(protocol.Released(0, attempt, 1001), released)
        self.gates.open("open")
        self.assertEqual([0], outcomes(self.child.reports(attempt, 1000, 1)))
        self.assertEqual(1, self.gates.noted("begun"))
        self.assert_lives()

    def test_what_was_given_back_does_not_run_after_a_failure_either(self):
        self.child.define(self.gates.source + "def f(x):\n    note('begun')\n    wait_for('open')\n    raise ValueError(x)")
        attempt = self.child.grant(range(100))
        self.gates.wait_for("begun")
        self.child.send(protocol.Revoke(attempt, 0))
        self.assertEqual(protocol.Released(0, attempt, 1), self.child.receive())
        self.gates.open("open")
        self.assertEqual([(0,)], [error.args for error in outcomes(self.child.reports(attempt, 0, 1))])
        self.assert_lives()
        self.assertEqual(1, self.gates.noted("begun"))

    SLOW_AT_300 = (
        "def f(x):\n    if x == 300:\n        note('begun')\n        wait_for('open')\n"
        "    if x == 100:\n        raise ValueError(x)\n    return x\n"
    )

    def block_with_a_slow_task(self):
        """An attempt that is one block, and the child at its task 300."""
        self.child.define(self.gates.source + self.SLOW_AT_300)
        self.child.run(range(100))  # it measures: so fast that they go by the thousand
        attempt = self.child.grant(range(1000))
        self.gates.wait_for("begun")
        return attempt

    def test_what_stands_in_a_block_behind_a_slow_task_is_given_back(self):
        attempt = self.block_with_a_slow_task()
        messages = self.child.reports(attempt, 0, 300)  # those before it come meanwhile
        self.child.send(protocol.Revoke(attempt, 0))
        self.assertEqual(protocol.Released(0, attempt, 301), self.child.receive())
        self.gates.open("open")
        found = outcomes(messages + self.child.reports(attempt, 300, 1))
        self.assertIsInstance(found[100], ValueError)
        self.assertEqual(list(range(100)) + list(range(101, 301)), found[:100] + found[101:])
        self.assert_lives()

    def test_what_stands_in_a_block_before_a_slow_task_does_not_wait_for_it(self):
        attempt = self.block_with_a_slow_task()
        self.assertEqual(list(range(101, 300)), outcomes(self.child.reports(attempt, 0, 300))[101:])
        self.gates.open("open")
        self.assertEqual(list(range(300, 1000)), outcomes(self.child.reports(attempt, 300, 700)))
        self.assert_lives()

    def test_nor_does_one_that_was_quick_and_waits_for_company(self):
        self.child.define(self.gates.source + "def f(x):\n    if x:\n        wait_for('open')\n    return x")
        attempt = self.child.grant([0, 1])
        self.assertEqual([0], outcomes(self.child.reports(attempt, 0, 1)))
        self.gates.open("open")
        self.assertEqual([1], outcomes(self.child.reports(attempt, 1, 1)))

    def test_at_any_moment_each_task_is_either_done_or_given_back(self):
        switch = "sys.setcheckinterval(1)" if PY2 else "sys.setswitchinterval(1e-6)"
        self.child.define("import sys\n%s\ndef f(x):\n    if x %% 97 == 5:\n        raise ValueError(x)\n    return x\n" % switch)
        self.child.run(range(100))
        done = set()
        for number in range(300):
            attempt = self.child.grant(range(2000))
            time.sleep(random.random() * 0.001)
            self.child.send(protocol.Revoke(attempt, 0))
            found = outcomes(self.child.reports(attempt, 0, 2000))
            for x, outcome in enumerate(found):
                self.assertEqual(x, outcome.args[0] if x % 97 == 5 else outcome)
            done.add(len(found))
            # What is left is an answer to the revoke at most.
            self.child.grant([number])
            message = self.child.receive()
            if isinstance(message, protocol.Released):
                self.assertEqual((attempt, len(found)), (message.attempt, message.first))
                message = self.child.receive()
            self.assertEqual([attempt + 1], [message.attempt])
        self.assertGreater(len(done), 3)

    def test_one_that_comes_before_its_attempt_is_begun(self):
        self.child.define(self.gates.source + "def f(x):\n    note('begun')\n    wait_for('open')\n    return x")
        running = self.child.grant([7])
        self.gates.wait_for("begun")
        waiting = self.child.grant(range(5), first=50)
        self.child.send(protocol.Revoke(waiting, 0))
        # Messages are taken in their order: the answer to this one says that the revoke has been taken in.
        self.child.send(protocol.Revoke(running, 0))
        self.assertEqual(protocol.Released(0, running, 1), self.child.receive())
        self.gates.open("open")
        self.assertEqual([7], outcomes(self.child.reports(running, 0, 1)))
        self.assertEqual(protocol.Released(0, waiting, 50), self.child.receive())
        self.assertEqual(1, self.gates.noted("begun"))
        self.assert_lives()

    def test_one_that_comes_too_late_changes_nothing(self):
        self.child.define("def f(x):\n    return x")
        attempt = self.child.grant([1, 2])
        self.assertEqual([1, 2], outcomes(self.child.reports(attempt, 0, 2)))
        self.child.send(protocol.Revoke(attempt, 0))
        self.assertEqual([3, 4, 5], self.drop_late_release(self.child.grant([3, 4, 5]), 3))

    def drop_late_release(self, attempt, count):
        """It may still answer the late one: with nothing to give back."""
        message = self.child.receive()
        if isinstance(message, protocol.Released):
            self.assertNotEqual(attempt, message.attempt)
        else:
            self.child._received.insert(0, message)
        return outcomes(self.child.reports(attempt, 0, count))


class Surroundings(Gated):
    def test_standard_input_is_empty(self):
        self.child.define("import sys\ndef f(x):\n    return sys.stdin.read()")
        self.assertEqual([""], self.child.run([0]))

    def test_nothing_secret_is_left_to_see(self):
        self.child.define("import os, sys\ndef f(x):\n    return repr((sys.argv, dict(os.environ)))")
        self.assertNotIn("mck-", self.child.run([0])[0])

    def test_what_a_task_prints_comes_while_it_runs(self):
        self.child.define(
            self.gates.source + "import sys\ndef f(x):\n    print(u'one \\xe4'.encode('utf-8').decode('utf-8') and 'one')\n"
            "    sys.stderr.write('two\\n')\n    wait_for('open')\n    return x"
        )
        self.child.grant([1])
        self.assertEqual(b"one\n", self.child.process.stdout.readline().replace(b"\r", b""))
        self.assertEqual(b"two\n", self.child.process.stdout.readline().replace(b"\r", b""))
        self.gates.open("open")
        self.assertEqual([1], outcomes(self.child.reports(1, 0, 1)))

    def test_whatever_is_printed_is_utf_8(self):
        self.child.define("import sys\ndef f(x):\n    print(u'\\u00e4\\u4e2d')\n    sys.stderr.write(u'\\udc80\\n')")
        self.assertEqual([None], self.child.run([1]))
        lines = [self.child.process.stdout.readline().decode("utf-8").strip() for _ in range(2)]
        self.assertEqual([u"\u00e4\u4e2d", u"\udc80" if PY2 else "\\udc80"], lines)  # 2.7 can encode lone surrogates

    def test_the_path_is_the_nodes(self):
        self.child.define("import sys\ndef f(x):\n    return sys.path")
        self.assertEqual([support.ROOT] + sys.path, self.child.run([0])[0][: len(sys.path) + 1])


class End(Gated):
    def run_forever(self, statement):
        self.child.define(self.gates.source + "import collections, itertools\ndef f(x):\n    note('begun')\n    %s" % statement)
        self.child.grant([0])
        self.gates.wait_for("begun")

    def test_it_ends_when_its_connection_does(self):
        self.child.socket.close()
        self.assertEqual(0, self.child.ended())

    def test_it_ends_when_its_connection_does_also_during_a_task(self):
        self.run_forever("wait_for('never')")
        self.child.socket.close()
        self.child.ended()

    def test_it_ends_when_it_hears_nonsense(self):
        self.child.socket.sendall(b"\xff" * 100)
        self.child.ended()

    @unittest.skipUnless(hasattr(signal, "SIGIO"), "without SIGIO only the connection tells")
    def test_it_ends_with_its_standard_input(self):
        self.child.process.stdin.close()
        self.assertEqual(-signal.SIGIO, self.child.ended())

    @unittest.skipUnless(hasattr(signal, "SIGIO"), "without SIGIO only the connection tells")
    def test_it_ends_so_also_while_it_holds_the_interpreters_lock(self):
        # In C, for ever: no other thread of it ever runs again.
        self.run_forever("collections.deque(itertools.repeat(None), maxlen=0)")
        self.child.process.stdin.close()
        self.assertEqual(-signal.SIGIO, self.child.ended())


class Taken(unittest.TestCase):
    def test_what_comes_with_the_end_of_the_handshake_is_taken_as_later(self):
        """A question for the first chunk may come in the same bytes: the main thread does not know it."""
        made, given_back = worker.Worker(None, None), []
        made.runner.give_back = given_back.append
        for message in (protocol.ForgetJob(1), protocol.Revoke(7, 0)):
            made.take(message)
        self.assertEqual(([7], protocol.ForgetJob(1)), (given_back, made._inbox.get()))


class Beginning(unittest.TestCase):
    def begin(self):
        process = subprocess.Popen(
            boot.command("node.worker", "main", []),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, close_fds=POSIX,
        )  # fmt: skip
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        return process

    def test_it_ends_when_it_is_told_nothing(self):
        for told in (b"", b'{"port": 1'):
            process = self.begin()
            self.assertEqual(b"", process.communicate(told)[0])
            self.assertEqual(0, process.returncode)

    def test_it_works_for_nobody_else(self):
        # Somebody else got the port: who has no key is told nothing more, and no task of his runs.
        listener = socket.socket()
        self.addCleanup(listener.close)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(support.SECONDS)
        told = {"port": listener.getsockname()[1], "key": keys.generate_key(b"k" * 32), "slot": 0, "path": sys.path}
        process = self.begin()
        self.addCleanup(process.stdin.close)
        process.stdin.write(json.dumps(told).encode("ascii") + b"\n")
        process.stdin.flush()
        sock = listener.accept()[0]
        self.addCleanup(sock.close)
        rogue = handshakes.ServerHandshake(keys.generate_key(b"r" * 32), b"s" * 16, b"n" * 32, 0, 0, tagged=False)
        sock.sendall(rogue.start())
        sock.settimeout(support.SECONDS)
        self.assertTrue(sock.recv(4096))
        sock.sendall(b"\0" + b"x" * handshakes._OK.size)
        support.wait_until(lambda: process.poll() is not None)
        self.assertIn(b"could not prove", process.stdout.read())


if __name__ == "__main__":
    unittest.main()
