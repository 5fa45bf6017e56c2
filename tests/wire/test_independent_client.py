"""The page docs/protocol.md is complete and true: a client that was written from it alone works with a real master."""
from __future__ import absolute_import, division, print_function

import ast
import io
import os
import re
import unittest

from minimalcluster import MasterNode
from minimalcluster.wire import handshakes, keys, limits, protocol
from tests import support
from tests.wire import independent_client
from tests.wire.independent_client import Client

KEY = keys.generate_key(os.urandom(32))
SOURCE = "import math\ndef f(x):\n    return (x, math.factorial(x) if isinstance(x, int) else [x])\n"


def page():
    with io.open(os.path.join(support.ROOT, "docs", "protocol.md"), encoding="utf-8") as file:
        return file.read()


class RealMaster(unittest.TestCase):
    def served(self, key, given, arguments, encrypt=None):
        """What execute() returns when only the independent client works; and how many tasks that did."""
        with MasterNode(PORT=0, AUTHKEY=key, encrypt=encrypt) as master:
            master.start_master_server(if_join_as_worker=False)
            client = Client(master.PORT, given)
            self.addCleanup(client.close)
            self.assertIs(client.tls, bool(encrypt))
            client.join()
            node = support.Background(client.serve)
            results = support.run(master, SOURCE, "f", arguments)
            self.assertEqual(["independent"], [worker.hostname for worker in master.list_workers()])
        return results, node.result()

    def test_it_joins_gets_a_job_and_answers_it(self):
        for arguments in (range(5, 105, 2), [1, "a", 2.5], [(1, 2), "b"], list(range(20))):
            results, done = self.served(KEY, KEY.encode("ascii"), arguments)
            expected = [(x, __import__("math").factorial(x) if isinstance(x, int) else [x]) for x in arguments]
            self.assertEqual(expected, list(results.values()))
            self.assertEqual(len(expected), done)

    def test_large_messages_travel_in_parts(self):
        results, _ = self.served(KEY, KEY.encode("ascii"), ["x" * (1 << 20)])
        self.assertEqual([1 << 20], [len(x) for x in results])

    def test_in_tls(self):
        results, done = self.served(KEY, KEY.encode("ascii"), ["x" * (1 << 20), "y", "z"], encrypt=True)
        self.assertEqual([1 << 20, 1, 1], [len(x) for x in results])
        self.assertEqual(3, done)

    def test_passphrases(self):
        phrase = u"a phr\u00e4se of some length"
        results, _ = self.served(phrase, b"\xef\xbb\xbf" + phrase.encode("utf-8") + b"\r\n", [3])
        self.assertEqual({3: (3, 6)}, results)

    def test_a_wrong_key_is_refused_with_a_byte(self):
        with MasterNode(PORT=0, AUTHKEY=KEY) as master:
            master.start_master_server(if_join_as_worker=False)
            error = support.mistake(Client, master.PORT, b"mck-" + b"0" * 64)
        self.assertIsInstance(error, independent_client.Refused)
        self.assertEqual((1,), error.args)


class Page(unittest.TestCase):
    def test_the_client_uses_nothing_of_the_package(self):
        tree = ast.parse(support.read(independent_client.__file__.replace(".pyc", ".py")))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        self.assertEqual([], [name for name in names if name.partition(".")[0] in ("minimalcluster", "tests")])

    def test_the_table_of_messages_is_the_codes(self):
        rows = re.findall(r"^\| (\d+) \| (\w+) \| [\w ]+ \|([\w, ]*)\| (yes|no) \| (yes|no) \|$", page(), re.MULTILINE)
        said = {int(number): (name, integers.replace(",", "").split(), info, buffers) for number, name, integers, info, buffers in rows}
        words = {True: "yes", False: "no"}
        known = {
            layout.number: (kind.__name__, list(kind._fields[: layout.integers]), words[layout.info], words[layout.payload])
            for kind, layout in protocol._LAYOUTS.items()
        }
        self.assertEqual(known, said)

    def test_its_sizes_and_numbers_are_the_codes(self):
        auth = handshakes._AUTH.size + handshakes._PROOF_BYTES
        for text in (
            "**HELLO**, %d bytes" % handshakes._HELLO.size, "**AUTH**, %d bytes" % auth, "**OK**, %d bytes" % (1 + handshakes._OK.size),
            "the wire version: %d |" % handshakes.VERSION, "The master uses {:,} rounds".format(keys.KDF_ROUNDS),
            "before its proof | %d |" % limits.HANDSHAKE_BYTES_MAX, "without a proof | %d, " % limits.HALF_OPEN_MAX,
            "| {:,} |".format(protocol.BUFFERS_MAX),
        ):  # fmt: skip
            self.assertIn(text, page())


if __name__ == "__main__":
    unittest.main()
