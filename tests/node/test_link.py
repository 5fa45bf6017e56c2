"""A machine that works for a master elsewhere: it joins, is refused, is lost and comes back."""
from __future__ import absolute_import, division, print_function

import contextlib
import os
import signal
import socket
import sys
import unittest

from minimalcluster import MasterNode, WorkerNode
from minimalcluster.master import cluster as cluster_module
from minimalcluster.node import link
from minimalcluster.wire import connection as connection_module, handshakes, keys
from minimalcluster.compat import cpu_count
from minimalcluster.errors import AuthenticationError, EncryptionError, HandshakeTimeout
from minimalcluster.wire import certificates, tls
from tests import support
from tests.wire import test_tls

DOUBLE = "f = lambda x: x * 2"

#: A master in a process of its own, so that it can be killed.
MASTER = """
import json, sys
from minimalcluster import MasterNode
told = json.loads(sys.stdin.readline())
master = MasterNode("127.0.0.1", told["port"], told["key"])
master.start_master_server(if_join_as_worker=False)
master.load_envir(told["source"], from_file=False)
master.register_target_function("f")
master.load_args(told["arguments"])
print("started")
print(sorted(master.execute().items()))
master.shutdown()
"""


def start_master(port, key, source=DOUBLE, arguments=(1, 2)):
    told = {"port": port, "key": key, "source": source, "arguments": list(arguments)}
    return support.Process(MASTER, told)


class ArgumentsTest(unittest.TestCase):
    def test_nprocs_beyond_the_processors(self):
        for wrong in (0, -3, cpu_count() + 1, 10 ** 6):
            with support.Log() as log:
                node = WorkerNode("127.0.0.1", 8888, "key", wrong)
            self.assertEqual(node.nprocs, cpu_count())
            self.assertEqual(len(log.having("WARNING nprocs=%d changed to %d" % (wrong, cpu_count()))), 1)

    def test_nprocs_that_fits(self):
        with support.Log() as log:
            self.assertEqual(WorkerNode("127.0.0.1", 8888, "key", cpu_count()).nprocs, cpu_count())
            self.assertEqual(WorkerNode("127.0.0.1", 8888, b"key", 1, quiet=True).nprocs, 1)
        self.assertEqual(log.messages, [])

    def test_wrong_values_are_named(self):
        for port in (0, 70000, "8888"):
            self.assertRaises(ValueError, WorkerNode, "127.0.0.1", port, "key", 1)
        for key in (None, "", b"", " \n"):
            self.assertRaises(ValueError, WorkerNode, "127.0.0.1", 8888, key, 1)
        for nprocs in (1.5, True):
            self.assertRaises(TypeError, WorkerNode, "127.0.0.1", 8888, "key", nprocs)
        self.assertRaises(TypeError, WorkerNode, "127.0.0.1", 8888, "key", "2")


class JoinTest(unittest.TestCase):
    def test_returns_when_the_master_shuts_down(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master) as node:
                workers = support.worker_processes(node.pid, 1)
                self.assertEqual(support.run(master, DOUBLE, "f", [1, 2]), {1: 2, 2: 4})
                master.shutdown()
                self.assertEqual(node.wait(), 0)
                self.assertIn("join_cluster returned\n", node.output())
                for text in ("Traceback", "next try"):
                    self.assertNotIn(text, node.output())
            self.assertFalse(support.alive(workers))

    def test_in_a_thread_of_the_same_process(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            node = support.Background(WorkerNode("127.0.0.1", master.PORT, master.AUTHKEY, 1).join_cluster)
            self.assertEqual(support.run(master, DOUBLE, "f", [1, 2]), {1: 2, 2: 4})
            workers = support.worker_processes(os.getpid(), 1)
            master.shutdown()
            self.assertIsNone(node.result())
        self.assertFalse(support.alive(workers))

    def test_before_the_master(self):
        port, key = support.free_port(), MasterNode(PORT=0).AUTHKEY
        with support.start_node(port, key) as node:
            node.wait_for_output("WARNING cannot connect to 127.0.0.1:%d" % port)
            self.assertIn("next try in", node.output())
            with MasterNode(PORT=port, AUTHKEY=key) as master:
                master.start_master_server(if_join_as_worker=False)
                self.assertEqual(support.run(master, DOUBLE, "f", [1, 2]), {1: 2, 2: 4})
                self.assertIn("connected to the master", node.wait_for_output("connected to the master"))

    def test_interrupt_leaves(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master) as node:
                workers = support.worker_processes(node.pid, 1)
                node.interrupt()
                self.assertNotEqual(node.wait(), 0)
                self.assertIn("KeyboardInterrupt", node.output())
                support.wait_for_death(workers)
                support.wait_until(lambda: not master.list_workers(), what="an empty list of workers")

    def test_terminated(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master) as node:
                workers = support.worker_processes(node.pid, 1)
                os.kill(node.pid, signal.SIGTERM)
                node.wait()
                support.wait_for_death(workers)
                support.wait_until(lambda: not master.list_workers(), what="an empty list of workers")


class EncryptedTest(unittest.TestCase):
    """``encrypt=`` and ``ssl_context=`` on both sides."""

    def works(self, encrypt, node, host="127.0.0.1"):
        """Whether it is encrypted: a job of a master and a node, with more than a record of TLS holds."""
        with MasterNode(host, PORT=0, encrypt=encrypt) as master:
            master.start_master_server(if_join_as_worker=False)
            with node(master):
                source = "def f(x):\n    return (b'x' * x, x)\n"
                sizes = [1, 3, 1 << 20, 1 << 14]
                self.assertEqual({size: (b"x" * size, size) for size in sizes}, support.run(master, source, "f", sizes))
                (session,) = master._cluster._sessions.values()
                return session.close.__self__._stream.encrypts

    def test_a_node_follows_its_master(self):
        self.assertTrue(self.works(True, support.node_of))
        self.assertFalse(self.works(False, support.node_of))

    def test_by_default_it_is_encrypted_if_other_machines_can_reach_it(self):
        self.assertFalse(self.works(None, support.node_of))
        self.assertTrue(self.works(None, support.node_of, host=""))

    def test_any_python_on_any_other(self):
        # All pickles of these are the same but for 2.7's, which has a cluster of its own.
        for version, python in sorted(support.interpreters().items()):
            if (version[0] == 2) == (sys.version_info[0] == 2):
                self.assertTrue(self.works(True, lambda master: support.node_of(master, python=python)), version)

    def test_a_connection_ends_before_its_keys_have_encrypted_too_much_and_nothing_is_lost(self):
        with MasterNode(PORT=0, encrypt=True) as master, support.patched(tls, "ONE_KEY_BYTES_MAX", 20000), support.Log() as log:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master):
                results = support.run(master, "def f(x):\n    return 2 * x", "f", ["%d " % n * 1000 for n in range(30)], chunksize=1)
            self.assertEqual(results, dict((each, 2 * each) for each in results))
            self.assertEqual(30, len(results))
            self.assertGreater(len(log.having("one key has encrypted enough")), 1)

    def test_it_comes_back_to_another_master(self):
        key, port = MasterNode(PORT=0).AUTHKEY, support.free_port()
        with MasterNode(PORT=port, AUTHKEY=key, encrypt=True) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master) as node:
                master._cluster._loop.call(lambda: [each.close(Exception("cut")) for each in master._cluster._sessions.values()])
                node.wait_for_output("next try")
                self.assertEqual(support.run(master, DOUBLE, "f", [1, 2]), {1: 2, 2: 4})

    def test_a_node_that_insists(self):
        for theirs, ours, text in ((False, True, "does not encrypt"), (True, False, "encrypts")):
            with MasterNode(PORT=0, encrypt=theirs) as master:
                master.start_master_server(if_join_as_worker=False)
                worker = WorkerNode("127.0.0.1", master.PORT, master.AUTHKEY, 1, encrypt=ours)
                with self.assertRaises(EncryptionError) as caught:
                    worker.join_cluster()
                self.assertIn("127.0.0.1:%d %s" % (master.PORT, text), str(caught.exception))

    def test_contexts_of_the_users_own(self):
        pem = certificates.make()
        ours, theirs = test_tls.context_of("PROTOCOL_TLS_SERVER", pem), test_tls.context_of("PROTOCOL_TLS_CLIENT", pem)
        theirs.check_hostname = False
        with MasterNode(PORT=0, ssl_context=ours) as master:
            master.start_master_server(if_join_as_worker=False)
            node = support.Background(
                WorkerNode("127.0.0.1", master.PORT, master.AUTHKEY, 1, ssl_context=theirs).join_cluster
            )
            self.assertEqual(support.run(master, DOUBLE, "f", [1, 2]), {1: 2, 2: 4})
            master.shutdown()
            self.assertIsNone(node.result())
        with MasterNode(PORT=0, encrypt=False) as master:  # a context asks for encryption
            master.start_master_server(if_join_as_worker=False)
            worker = WorkerNode("127.0.0.1", master.PORT, master.AUTHKEY, 1, ssl_context=theirs)
            self.assertRaises(EncryptionError, worker.join_cluster)
        with MasterNode(PORT=0, encrypt=True) as master:  # a certificate that it does not know
            master.start_master_server(if_join_as_worker=False)
            worker = WorkerNode("127.0.0.1", master.PORT, master.AUTHKEY, 1, ssl_context=theirs)
            self.assertRaises(AuthenticationError, worker.join_cluster)

    def test_what_cannot_be_meant(self):
        pem = certificates.make()
        context = test_tls.context_of("PROTOCOL_TLS_SERVER", pem)
        for kind, wishes in (
            (TypeError, {"encrypt": "yes"}), (TypeError, {"ssl_context": "pem"}),
            (ValueError, {"encrypt": False, "ssl_context": context}),
        ):
            self.assertRaises(kind, lambda: MasterNode(PORT=0, **wishes))
            self.assertRaises(kind, lambda: WorkerNode("127.0.0.1", 8888, "key", 1, **wishes))


class RefusalTest(unittest.TestCase):
    """A clear exception at once, and the process ends."""

    def refused(self, node, kind, *texts):
        with node:
            self.assertEqual(node.wait(), 1, node.output())
            last = node.output().strip().splitlines()[-1]
            self.assertIn(kind + ": ", last)
            for text in texts:
                self.assertIn(text, last)
            self.assertNotIn("next try", node.output())

    def test_wrong_key(self):
        with MasterNode(PORT=0) as master, support.Log() as log:
            master.start_master_server(if_join_as_worker=False)
            other = MasterNode(PORT=0).AUTHKEY
            node = support.start_node(master.PORT, other)
            self.refused(node, "AuthenticationError", "127.0.0.1:%d" % master.PORT, "AUTHKEY")
            self.assertNotIn(other, node.output())
            self.assertEqual(master.list_workers(), [])
            self.assertEqual(len(log.having("could not prove that it knows the key")), 1)
            with support.node_of(master):  # the master serves on
                self.assertEqual(support.run(master, DOUBLE, "f", [1]), {1: 2})

    def test_other_major_python(self):
        other = support.other_major()
        with MasterNode(PORT=0) as master, support.Log() as log:
            master.start_master_server(if_join_as_worker=False)
            node = support.start_node(master.PORT, master.AUTHKEY, python=other)
            self.refused(node, "VersionMismatch", "Python 2", "Python 3", "do not mix")
            self.assertEqual(master.list_workers(), [])
            self.assertEqual(len(log.having("do not mix")), 1)

    def test_a_node_that_sends_what_no_node_sends_ends_when_the_master_has_had_enough(self):
        with MasterNode(PORT=0) as master, support.patched(cluster_module, "ODD_MESSAGES_MAX", 0):
            master.start_master_server(if_join_as_worker=False)
            self.refused(support.start_node(master.PORT, master.AUTHKEY), "ProtocolError", "no more tasks")

    def test_server_that_speaks_something_else(self):
        for greeting, name in (
            (b"SSH-2.0-OpenSSH_9.0\r\n", "SSH"),
            (b"HTTP/1.0 400 Bad Request\r\n\r\n", "HTTP"),
            (b"\0\0\0\x1f#CHALLENGE#" + b"x" * 20, "multiprocessing"),
        ):
            with _Greeter(greeting) as server:
                node = support.start_node(server.port, "k" * 16)
                self.refused(node, "ProtocolError", "127.0.0.1:%d speaks %s" % (server.port, name))

    def test_silent_server(self):
        with _Greeter(b"") as server, support.patched(connection_module, "HANDSHAKE_SECONDS", 0.2), support.Log() as log:
            with self.assertRaises(HandshakeTimeout) as caught:
                WorkerNode("127.0.0.1", server.port, "k" * 16, 1).join_cluster()
            self.assertIn("no answer from 127.0.0.1:%d" % server.port, str(caught.exception))
            self.assertEqual(len(log.having("next try")), 2)  # a master that many join at once is late


#: A node for which stretching takes as long as the file ``told["slow"]`` is there. HELLO has to be answered in 0.2 s.
SLOW_NODE = """
import hashlib, json, logging, os, sys, threading, time
from minimalcluster import WorkerNode
from minimalcluster.wire import connection
told = json.loads(sys.stdin.readline())
logging.basicConfig(level=logging.INFO)
connection.HANDSHAKE_SECONDS = 0.2
fast = hashlib.pbkdf2_hmac
def slow(*arguments):
    print("stretching in " + threading.current_thread().name)
    sys.stdout.flush()
    while os.path.exists(told["slow"]):
        time.sleep(0.01)
    return fast(*arguments)
hashlib.pbkdf2_hmac = slow
WorkerNode("127.0.0.1", told["port"], told["key"], 1).join_cluster()
"""


class StretchingTest(unittest.TestCase):
    """A passphrase goes through PBKDF2, which takes 10 s and more on a small machine."""

    PHRASE = "a phrase of many words and of no fame"

    def test_it_is_nobodys_time_out(self):
        slow = support.write(os.path.join(support.directory_for(self), "slow"))
        port = support.free_port()
        told = {"port": port, "key": self.PHRASE, "slow": slow}
        with support.patched(connection_module, "HANDSHAKE_SECONDS", 0.2), support.Log(level=1) as log:
            with self.master(port) as master, support.Process(SLOW_NODE, told) as node:
                node.wait_for_output("stretching in minimalcluster-key")  # not the loop's thread
                self.strangers_expire(master, log)  # nor has the node a connection that could
                os.remove(slow)
                self.assertEqual(support.run(master, DOUBLE, "f", [1, 2]), {1: 2, 2: 4})
                support.write(slow)
                master.shutdown()
                self.assertEqual(node.wait(), 0, node.output())
            self.assertEqual(node.output().count("stretching"), 1)
            self.assertNotIn("next try", node.output().split("stretching")[1])
            self.assertEqual(len(log.having("no answer")), 1)  # the stranger's
            self.assertEqual(len(log.having("DEBUG 127.0.0.1")), 1)
            self.assertEqual(len(log.having("was refused")), 1)

    def master(self, port):
        master = MasterNode(PORT=port, AUTHKEY=self.PHRASE)
        master.start_master_server(if_join_as_worker=False)
        return master

    def strangers_expire(self, master, log):
        """One that connects now is refused: all that has connected before has been given up or has left."""
        with contextlib.closing(socket.create_connection(("127.0.0.1", master.PORT))):
            support.wait_until(lambda: log.having("no answer"), what="the end of a stranger")

    def test_a_server_that_wants_another_salt_each_time_keeps_nobody_busy(self):
        hellos = (handshakes._HELLO.pack(handshakes.MAGIC, handshakes.VERSION, 0, os.urandom(16), keys.KDF_ROUNDS, b"n" * 32) for _ in range(99))
        stretched = []

        def proof_key(authkey, salt, rounds):
            stretched.append(salt)
            keys._stretched[authkey, salt, rounds] = b"k" * 32

        with _Greeter(lambda: next(hellos)) as server, support.patched(keys, "proof_key", proof_key), support.Log() as log:
            member = link._Member(WorkerNode("127.0.0.1", server.port, self.PHRASE, 1))
            running = support.Background(member.run)
            support.wait_until(lambda: len(log.having("next try")) > 1, what="two rounds")
            self.assertLessEqual(len(stretched), len(log.having("next try")) + 1)  # one a round
            member._loop.stop()
            running.result()


class _Greeter(object):
    """Accepts, says one thing and waits."""

    def __init__(self, greeting):
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(5)
        self.port = self._listener.getsockname()[1]
        self._peers = []
        support.Background(self._serve, greeting)

    def _serve(self, greeting):
        while True:
            peer = self._listener.accept()[0]
            self._peers.append(peer)
            peer.sendall(greeting() if callable(greeting) else greeting)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        except (OSError, socket.error):
            pass
        for sock in [self._listener] + self._peers:
            sock.close()


class LossTest(unittest.TestCase):
    def test_master_lost_and_another_one_at_its_port(self):
        port, key = support.free_port(), MasterNode(PORT=0).AUTHKEY
        with start_master(port, key, "import time\ndef f(x):\n    time.sleep(60)\n") as first:
            first.wait_for_output("started")
            with support.start_node(port, key) as node:
                node.wait_for_output("connected to the master")
                workers = support.worker_processes(node.pid, 1)
                first.kill()
                node.wait_for_output("next try in")
                with start_master(port, key) as second:
                    self.assertEqual(second.wait(), 0, second.output())
                    self.assertIn("[(1, 2), (2, 4)]", second.output())
                self.assertEqual(node.wait(), 0, node.output())
                self.assertEqual(node.output().count("connected to the master"), 2)
                support.wait_for_death(workers)

    def test_node_killed(self):
        with support.directory() as path, MasterNode(PORT=0) as master:
            gates = support.Gates(path)
            source = gates.source + (
                "def f(x):\n"
                "    note(os.environ['NODE_NAME'])\n"
                "    if os.environ['NODE_NAME'] == 'first': wait_for('never')\n"
                "    return x * 2\n"
            )
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master, name="first") as first:
                support.prepare(master, source, "f", range(20))
                job = support.Background(master.execute)
                gates.wait_for("first")
                workers = support.worker_processes(first.pid, 1)
                with support.node_of(master, name="second"):
                    first.kill()
                    self.assertEqual(job.result(), dict((x, x * 2) for x in range(20)))
                    support.wait_for_death(workers)
                    self.assertEqual(gates.noted("second"), 20)
                    self.assertEqual([worker.connected for worker in master.list_workers()], [True])


if __name__ == "__main__":
    unittest.main()
