from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.compat import joined
from minimalcluster.pieces import Pieces
from minimalcluster.wire import protocol


class AsABuffer(unittest.TestCase):
    def test_it_has_the_size_of_all_pieces(self):
        self.assertEqual(5, len(Pieces([b"ab", memoryview(b"cde")])))
        self.assertEqual(0, len(Pieces([])))

    def test_a_message_with_it_is_the_message_with_the_joined_buffer(self):
        whole = protocol.Grant(1, 2, 3, 4, 0, [b"E", b"abcde", b"f"])
        apart = whole._replace(payload=[b"E", Pieces([b"ab", memoryview(b"cde")]), b"f"])
        number, buffers = protocol.encode(apart)
        self.assertEqual((number, joined(protocol.encode(whole)[1])), (protocol.encode(whole)[0], joined(buffers)))

    def test_its_pieces_are_not_copied(self):
        large = b"x" * 100
        buffers = protocol.encode(protocol.Grant(1, 2, 3, 4, 0, [b"E", Pieces([b"a", large])]))[1]
        self.assertTrue(any(each is large for each in buffers))


if __name__ == "__main__":
    unittest.main()
