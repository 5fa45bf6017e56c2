"""What a stranger may take: the numbers fit together, and each of them is kept."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster import errors
from minimalcluster.wire import handshakes, limits
from tests.wire.members import Refused, client_with, server_with


class Numbers(Refused):
    def test_the_handshake_fits(self):
        auth = client_with().receive(server_with().start())
        self.assertEqual(93, len(auth))  # as the comment says
        self.assertLess(len(auth), limits.HANDSHAKE_BYTES_MAX)

    def test_row_40_no_more_bytes_than_that_before_the_proof(self):
        for size in (limits.HANDSHAKE_BYTES_MAX + 1, 1 << 20):
            server = server_with()
            error = self.refused(errors.ProtocolError, server.receive, (handshakes.MAGIC + b"x" * size)[:size])
            self.assertIn("no proof", str(error))
            self.assertIsNone(server.channel)

    def test_a_listener_takes_a_cycles_new_ones_without_dropping_them_all(self):
        self.assertLess(limits.ACCEPTS_PER_CYCLE, limits.HALF_OPEN_MAX)

    def test_1000_strangers_a_second_leave_a_peer_time_for_its_answer(self):
        self.assertGreater(limits.HALF_OPEN_MAX / 1000.0, 0.2)


if __name__ == "__main__":
    unittest.main()
