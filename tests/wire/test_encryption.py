"""What may be asked for, and what comes of it."""
from __future__ import absolute_import, division, print_function

import subprocess
import sys
import unittest

from minimalcluster.errors import EncryptionError
from minimalcluster.wire import encryption, tls
from tests import support
from tests.support import patched

LOOPBACK, BEYOND = "127.0.0.1", "192.168.1.5"


class Encryption(unittest.TestCase):
    def test_a_port_encrypts_as_asked_for(self):
        context = tls._context_of_a_server()
        for host in (LOOPBACK, BEYOND):
            self.assertIsInstance(encryption.server(host, True, None), tls.Server)
            self.assertIsInstance(encryption.server(host, None, context), tls.Server)
            self.assertIsNone(encryption.server(host, False, None))

    def test_by_default_a_port_encrypts_if_other_machines_can_reach_it(self):
        for host in (LOOPBACK, "::1", "localhost", "127.0.0.7"):
            self.assertIsNone(encryption.server(host, None, None))
        for host in (BEYOND, "", "0.0.0.0", "::", "master.example"):
            self.assertIsInstance(encryption.server(host, None, None), tls.Server)

    def test_each_start_has_a_certificate_of_its_own(self):
        self.assertNotEqual(*[encryption.server(BEYOND, True, None).certificate_hash for _ in range(2)])

    def test_a_node_leaves_it_to_the_master_unless_asked(self):
        context = tls._context_of_a_client()
        self.assertIsNone(encryption.of_client(None, None))
        self.assertIs(False, encryption.of_client(False, None))
        for wish in ((True, None), (None, context), (True, context)):
            self.assertIs(True, encryption.of_client(*wish))

    def test_what_was_asked_for_and_cannot_be_had_is_an_error(self):
        with patched(tls, "ssl", None):
            self.assertRaises(EncryptionError, encryption.check, True, None)
            for wish in (True, None):
                self.assertRaises(EncryptionError, encryption.server, BEYOND, wish, None)
            encryption.check(None, None)
            encryption.check(False, None)

    def test_what_cannot_be_meant(self):
        for kind, wish in ((TypeError, ("on", None)), (TypeError, (None, object())), (ValueError, (False, object()))):
            self.assertRaises(kind, encryption.check, *wish)

    def test_ssl_is_imported_only_when_needed(self):
        code = (
            "import sys, minimalcluster.node.link, minimalcluster.node.worker, minimalcluster.master.masternode;"
            "from minimalcluster import MasterNode; m = MasterNode(PORT=0); m.start_master_server(False); m.shutdown();"
            "print([name for name in ('ssl', 'minimalcluster.wire.tls') if name in sys.modules])"
        )
        self.assertEqual("[]", subprocess.check_output([sys.executable, "-c", code], cwd=support.ROOT).decode().strip())


if __name__ == "__main__":
    unittest.main()
