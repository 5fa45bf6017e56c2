"""Bodies of messages that mean harm."""
from __future__ import absolute_import, division, print_function

import binascii
import json
import random
import struct
import unittest

from minimalcluster import errors
from minimalcluster.compat import joined
from minimalcluster.wire import protocol
from tests.wire.members import Refused, plain, samples


class Bodies(Refused):
    """What a member (it holds the key) may put into a frame: it costs him the connection, nothing else."""

    def decoded(self, kind, body):
        return protocol.decode(protocol._LAYOUTS[kind].number, memoryview(bytearray(body)))

    def malformed(self, kind, body):
        error = self.refused(errors.ProtocolError, self.decoded, kind, body)
        self.assertIn(kind.__name__, str(error))

    def body(self, message):
        return joined(protocol.encode(message)[1])

    def test_an_unknown_number(self):
        for number in (0, 99, 255):
            error = self.refused(errors.ProtocolError, protocol.decode, number, memoryview(bytearray()))
            self.assertIn(str(number), str(error))

    def test_too_short_and_too_long(self):
        for message in samples():
            body = self.body(message)
            self.assertEqual(message, plain(self.decoded(type(message), body)))
            for size in range(min(len(body), 200)):
                self.malformed(type(message), body[:size])
            self.malformed(type(message), body + b"\0")

    def test_information_that_is_no_object(self):
        for text in (b"", b"1", b"[]", b"null", b'"a"', b"{", b"{}{}", b"{'a': 1}", b'{"a": }', b'{"\xff": 1}', b"\0"):
            self.malformed(protocol.Joined, struct.pack(">I", len(text)) + text)

    def test_deep_nesting(self):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            text = b'{"a":' + opening * 100000 + b"1" + closing * 100000 + b"}"
            self.malformed(protocol.Joined, struct.pack(">I", len(text)) + text)

    def test_nesting_that_the_reader_of_json_allows(self):
        # Where the message is sent on, some calls deeper, it was a RecursionError.
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            for depth in (protocol.NESTED_MAX, 900):
                text = b'{"a":' + opening * depth + b"1" + closing * depth + b"}"
                self.malformed(protocol.Joined, struct.pack(">I", len(text)) + text)
        text = b'{"a":' + b"[" * (protocol.NESTED_MAX - 1) + b"1" + b"]" * (protocol.NESTED_MAX - 1) + b"}"
        self.decoded(protocol.Joined, struct.pack(">I", len(text)) + text)

    def test_what_is_not_nested_may_have_many_parts(self):
        info = {"chain": [{"notes": ["[{", "x"], "text": "[" * 1000}] * 1000}
        self.assertEqual(protocol.Joined(info), self.decoded(protocol.Joined, self.body(protocol.Joined(info))))

    def test_a_number_of_many_digits(self):
        # Before 3.11, three million digits held the loop for minutes.
        for digits in (b"1" * 3000000, b"-" + b"9" * protocol.DIGITS_MAX):
            text = b'{"a":' + digits + b"}"
            self.malformed(protocol.Joined, struct.pack(">I", len(text)) + text)

    def test_lengths_that_lie(self):
        integers = b"\0" * 8 * protocol._LAYOUTS[protocol.Grant].integers
        for count, lengths in (
            (1, [1]), (1, [2**63]), (1, [2**64 - 1]), (2, [0, 2**64 - 1]), (2, [2**64 - 1, 1]), (0, [0]), (3, [0]),
            (2**32 - 1, []), (protocol.BUFFERS_MAX + 1, []), (protocol.BUFFERS_MAX, []),
        ):  # fmt: skip
            self.malformed(protocol.Grant, integers + struct.pack(">I%dQ" % len(lengths), count, *lengths))
        self.malformed(protocol.Joined, struct.pack(">I", 2**32 - 1) + b"{}")

    def test_too_many_buffers(self):
        before, protocol.BUFFERS_MAX = protocol.BUFFERS_MAX, 3
        try:
            for count in (3, 4):
                body = self.body(protocol.Grant(0, 0, 0, 0, 0, [b""] * count))
                if count > 3:
                    self.malformed(protocol.Grant, body)
                else:
                    self.assertEqual(count, len(self.decoded(protocol.Grant, body).payload))
        finally:
            protocol.BUFFERS_MAX = before

    def test_random_bytes(self):
        seed = random.randrange(2**32)
        draw = random.Random(seed)
        valid = [(type(message), self.body(message)) for message in samples()]
        for turn in range(6000):
            kind, body = valid[turn % len(valid)]
            body = bytearray(body[:300])
            if turn % 2:
                body = bytearray(draw.getrandbits(8) for _ in range(draw.randrange(120)))
            for _ in range(draw.randrange(1, 6)):
                if body:
                    body[draw.randrange(len(body))] = draw.getrandbits(8)
            self._decode_or_refuse(kind, body, seed, turn)

    def _decode_or_refuse(self, kind, body, seed, turn):
        try:
            message = self.decoded(kind, body)
        except errors.ProtocolError:
            return
        except Exception as error:
            self.fail("seed %d, turn %d: %r for %s %r" % (seed, turn, error, kind.__name__, bytes(body)))
        # What is accepted means the same again when it is passed on (JSON may be spaced otherwise).
        again = self.decoded(kind, self.body(message))
        self.assertEqual(json.dumps(_readable(message), sort_keys=True), json.dumps(_readable(again), sort_keys=True))


def _readable(message):
    return [binascii.hexlify(b"|".join(f)).decode() if isinstance(f, list) else f for f in plain(message)]


if __name__ == "__main__":
    unittest.main()
