from __future__ import absolute_import, division, print_function

import pickle
import unittest

from minimalcluster.compat import joined
from minimalcluster.payload import large, values

LARGE = values.LARGE_BYTES
MAIN = b"\x8c\x08__main__"


def whole(data):
    return data if isinstance(data, bytes) else joined(data.pieces)


class Packed(unittest.TestCase):
    def test_it_is_the_pickle_of_the_value(self):
        for value in (
            b"", b"x" * LARGE, u"\xe9" * LARGE, bytearray(LARGE), [b"a" * LARGE, 1, u"b" * LARGE], {1: (b"c" * 3 * LARGE,)},
            [b"%d" % number * 1000 for number in range(200)], (len, (b"x" * LARGE,), {}), 1 << (8 * LARGE),
        ):  # fmt: skip
            data, needs, held = large.pack(value)
            self.assertEqual((value, "", ()), (pickle.loads(whole(data)), needs, held))

    @unittest.skipUnless(values.IN_PIECES, "before 3.8 the pickler copies all")
    def test_large_bytes_are_not_copied(self):
        value = b"x" * LARGE
        for data in (large.pack(value).data, large.pack((len, (value,), {})).data, values.dumps_in_pieces([1, value])):
            self.assertTrue(any(each is value for each in data.pieces))

    def test_what_can_be_changed_is_copied(self):
        value = bytearray(LARGE)
        data = large.pack([value]).data
        value[0] = 1
        self.assertEqual([bytearray(LARGE)], pickle.loads(whole(data)))

    def test_what_cannot_be_pickled_is_told_as_ever(self):
        with self.assertRaises(Exception) as caught:
            large.pack([b"x" * LARGE, (each for each in ())])
        self.assertIn("[1]", str(caught.exception))

    @unittest.skipUnless(values.IN_PIECES, "before 3.8 the pickler copies all")
    def test_names_are_looked_for_outside_of_the_contents(self):
        contents = MAIN * LARGE
        code = large.opcodes(values.dumps_in_pieces([contents, MAIN, contents, u"__main__"]))
        self.assertEqual(2, code.count(MAIN))  # the short bytes and the text
        # contents that end as if others followed
        contents = b"x" * LARGE + b"B\x00\x00\x01\x00"
        self.assertIn(MAIN, large.opcodes(values.dumps_in_pieces([contents, u"__main__"])))


if __name__ == "__main__":
    unittest.main()
