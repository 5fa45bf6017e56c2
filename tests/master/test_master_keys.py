"""A master's key: weak ones refused, files made so that nobody else can read them."""
from __future__ import absolute_import, division, print_function

import os
import stat
import sys
import threading
import unittest

from minimalcluster import KeyFileError, MasterNode, WorkerNode
from minimalcluster.master import master_keys
from minimalcluster.wire import key_files, keys
from tests import support
from tests.support import mistake

KEY = keys.generate_key(os.urandom(32))
PHRASE = "a phrase of mine that nobody knows"
posix = unittest.skipIf(os.name == "nt", "Windows' modes say nothing of other users")


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = support.directory_for(self)
        self.path = os.path.join(self.folder, "key")

    def mode(self, path):
        return stat.S_IMODE(os.stat(path).st_mode)

    def test_what_is_made_can_be_read(self):
        key = master_keys.make(self.path)
        self.assertTrue(keys.is_generated(keys.as_key(key)))
        self.assertEqual(key, key_files.read(self.path))
        self.assertIs(str, type(key_files.read(self.path)))

    @posix
    def test_only_its_owner_can_read_it_whatever_the_umask(self):
        path = os.path.join(self.folder, "of", "mine", "key")
        before = os.umask(0)
        try:
            master_keys.make(path)
        finally:
            os.umask(before)
        self.assertEqual(0o600, self.mode(path))
        self.assertEqual([0o700, 0o700], [self.mode(os.path.join(self.folder, *parts)) for parts in (["of"], ["of", "mine"])])

    def test_nothing_is_overwritten(self):
        support.write_key(self.path, PHRASE)
        error = mistake(master_keys.make, self.path)
        self.assertIs(KeyFileError, type(error))
        self.assertIn("is there already", str(error))
        self.assertNotIn(PHRASE, str(error))
        self.assertEqual(PHRASE, key_files.read(self.path))

    def test_many_at_once_make_one_key(self):
        found, start = [], threading.Event()

        def read_or_make():
            start.wait()
            found.append(master_keys.master_key("127.0.0.1", None, self.path))

        with support.switching_often():
            threads = [support.Background(read_or_make) for _ in range(8)]
            start.set()
            for thread in threads:
                thread.result()
        self.assertEqual(1, len(set(found)))

    @posix
    def test_row_46_links_are_not_followed(self):
        other = os.path.join(self.folder, "other")
        os.symlink(other, self.path)
        self.assertIn("is there already", str(mistake(master_keys.make, self.path)))
        self.assertFalse(os.path.exists(other))
        support.write_key(other, KEY)
        self.assertIsInstance(mistake(MasterNode, key_file=self.path), KeyFileError)


class Sides(unittest.TestCase):
    """What a master and a node take."""

    def setUp(self):
        self.path = os.path.join(support.directory_for(self), "key")

    def test_a_master_makes_a_file_and_the_next_one_reads_it(self):
        first = MasterNode(key_file=self.path).AUTHKEY
        self.assertEqual(first, MasterNode("0.0.0.0", 0, None, key_file=self.path).AUTHKEY)
        self.assertEqual(first, WorkerNode("127.0.0.1", 8888, key_file=self.path)._authkey)

    def test_a_node_makes_none(self):
        self.assertIn("copy the master's", str(mistake(WorkerNode, "127.0.0.1", 8888, key_file=self.path)))
        self.assertFalse(os.path.exists(self.path))

    def test_one_key_is_enough(self):
        self.assertIsInstance(mistake(MasterNode, AUTHKEY=KEY, key_file=self.path), ValueError)
        self.assertIsInstance(mistake(WorkerNode, "127.0.0.1", 8888, KEY, 1, key_file=self.path), ValueError)
        self.assertFalse(os.path.exists(self.path))

    def test_what_is_no_key_is_named_and_not_shown(self):
        for make in (lambda key: MasterNode(AUTHKEY=key), lambda key: WorkerNode("127.0.0.1", 8888, key, 1)):
            for key in (5012, [u"5012"], True):
                error = mistake(make, key)
                self.assertIsInstance(error, TypeError)
                self.assertIn("AUTHKEY must be text or bytes, not %s" % type(key).__name__, str(error))
                self.assertNotIn("5012", str(error))

    @unittest.skipIf(sys.version_info < (3, 6), "the faces are for Python 3")
    def test_faces(self):
        from minimalcluster import ClusterExecutor, Pool

        with ClusterExecutor(0, join=False, key_file=self.path) as executor:
            self.assertEqual(executor.authkey, key_files.read(self.path))
        with Pool(0, join=False, key_file=self.path) as pool:
            self.assertEqual(pool.authkey, key_files.read(self.path))

    def test_row_46_weak_keys_are_for_this_machine_alone(self):
        for weak, why in (
            ("short", "has 5 bytes"), ("passwordpassword", "attackers"), ("0123456789abcdef", "attackers"), ("Correct Horse Battery Staple", "attackers"),
            ("<the authkey for your cluster>", "attackers"), (b"short\n" + b" " * 20, "has 5 bytes"),
        ):  # fmt: skip
            error = mistake(MasterNode, "0.0.0.0", 8888, weak)
            self.assertIsInstance(error, ValueError)
            self.assertIn(why, str(error))
            self.assertIn("key new FILE", str(error))
            self.assertNotIn(str(weak).strip("b'"), str(error))
            with support.Log() as log:
                MasterNode("127.0.0.1", 8888, weak)
            self.assertEqual(1, len(log.having("WARNING AUTHKEY ")), log.messages)
            self.assertEqual(1, len(log.having(why)), log.messages)

    def test_keys_with_a_pattern_are_warned_of_everywhere(self):
        for key, why in (("x" * 32, "only 1 different"), ("abc123" * 4, "repeats")):
            for host in ("127.0.0.1", "0.0.0.0"):
                with support.Log() as log:
                    MasterNode(host, 0, key)
                self.assertEqual(1, len(log.having(why)), log.messages)

    def test_good_keys_are_for_all(self):
        for good in (KEY, PHRASE, os.urandom(8) + b"-\xe9\xff-" + os.urandom(8), "17 Zwerge, 3 Riesen und 1 Hut"):
            with support.Log() as log:
                MasterNode("0.0.0.0", 0, good)
            self.assertEqual([], log.messages)

    def test_no_key(self):
        for nothing in ("", b"", " \n", u"\ufeff"):
            self.assertIn("empty", str(mistake(MasterNode, AUTHKEY=nothing)))
            self.assertIsInstance(mistake(WorkerNode, "127.0.0.1", 8888, nothing, 1), ValueError)
        self.assertIsInstance(mistake(WorkerNode, "127.0.0.1", 8888), ValueError)


if __name__ == "__main__":
    unittest.main()
