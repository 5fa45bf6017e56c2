"""Which results are plain by their bytes: those of ``values.encode_results``, and nothing that runs code or takes time."""
from __future__ import absolute_import, division, print_function

import pickle
import unittest

from minimalcluster.payload import values
from tests.sent import PYTHON_3, faces

if PYTHON_3:
    from minimalcluster.faces.plain import BYTES_MAX, is_plain

PLAIN = [None, True, False, 0, 255, 70000, -1, 2**31, -(2**80), 1.5, float("nan"), "", "text", u"\xe9\n" * 50, b"", b"a.\x94"]
OTHERS = [1j, [1], {}, object(), ValueError, OSError("x"), "x" * 256, "x" * 70000, 2**3000]


@faces
class PlainTest(unittest.TestCase):
    def test_plain_values(self):
        for value in PLAIN:
            buffers = values.encode_results([value])
            self.assertTrue(is_plain(buffers), buffers)
            self.assertTrue(is_plain([memoryview(each) for each in buffers]), buffers)

    def test_others(self):
        for value in OTHERS:
            self.assertFalse(is_plain([b"P", pickle.dumps([value])]), value)
            self.assertFalse(is_plain([b"E", pickle.dumps(value)]), value)
        for buffers in ([], [b"P"], [b"P", b""], [b"E", pickle.dumps(1)], [b"P", pickle.dumps([1, 2])], [b"P", pickle.dumps(1)]):
            self.assertFalse(is_plain(buffers), buffers)
        self.assertFalse(is_plain([b"P", pickle.dumps(["x" * BYTES_MAX])]))

    def test_what_hides_behind_a_length(self):
        """The bytes of a text may be opcodes, if the length before them is wrong."""
        code = b"cbuiltins\nexit\n"
        for opcode in (b"\x8c", b"C"):
            honest = b"\x80\x04]\x94" + opcode + bytes([len(code)]) + code + b"\x94a."
            self.assertTrue(is_plain([b"P", honest]))
            for length in (0, 1, len(code) - 1, len(code) + 1, 255):
                lying = b"\x80\x04]\x94" + opcode + bytes([length]) + code + b"\x94a."
                self.assertFalse(is_plain([b"P", lying]), lying)
        self.assertFalse(is_plain([b"P", b"\x80\x04]\x94\x8a\x01" + code + b"a."]))

    def test_each_byte_matters(self):
        """No byte can be changed so that something else than a plain value comes out."""
        for value in ("text", 70000, 1.5, -(2**80)):
            data = bytearray(values.encode_results([value])[1])
            for index in range(len(data)):
                for byte in range(256):
                    changed = bytes(data[:index] + bytearray([byte]) + data[index + 1 :])
                    if is_plain([b"P", changed]):
                        (found,) = values.decode_results([b"P", changed], 1)
                        self.assertTrue(values.all_scalars([found]) or isinstance(found, values.Misfit), changed)


if __name__ == "__main__":
    unittest.main()
