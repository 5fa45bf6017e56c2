"""Frames whole and in pieces, bytes that mean harm."""
from __future__ import absolute_import, division, print_function

import binascii
import hashlib
import hmac
import os
import struct
import unittest

from minimalcluster import errors
from minimalcluster.compat import joined
from minimalcluster.wire import frames, handshakes, protocol
from tests.wire.members import (
    KEY, Refused, SALT, bytes_of, channels, client_with, flips, in_pieces, plain, samples, server_with, shaken,
)


class Frames(Refused):
    def test_every_message_in_one_piece(self):
        for tagged in (True, False):
            ours, theirs = channels(tagged=tagged)
            for message in samples():
                self.assertEqual([message], [plain(each) for each in theirs.feed(bytes_of(ours, message))])

    def test_every_message_byte_by_byte(self):
        ours, theirs = channels()
        for message in samples():
            data = bytes_of(ours, message)
            for byte in in_pieces(data[:-1]):
                self.assertEqual([], theirs.feed(byte))
            self.assertEqual([message], [plain(each) for each in theirs.feed(data[-1:])])

    def test_all_messages_glued_in_pieces_of_any_size(self):
        for size in (2, 7, 16, 25, 1000, 1 << 20):
            ours, theirs = channels()
            stream = b"".join(bytes_of(ours, message) for message in samples())
            got = [plain(message) for piece in in_pieces(stream, size) for message in theirs.feed(piece)]
            self.assertEqual(samples(), got)

    def test_a_frame_with_a_tail(self):
        ours, theirs = channels()
        first, second = bytes_of(ours, protocol.ForgetJob(1)), bytes_of(ours, protocol.ForgetJob(2))
        for cut in range(len(second)):
            ours, theirs = channels()
            self.assertEqual([protocol.ForgetJob(1)], theirs.feed(first + second[:cut]))
            self.assertEqual([protocol.ForgetJob(2)], theirs.feed(second[cut:]))

    def test_a_payload_outlives_the_next_frames(self):
        # Its buffers are views of what was received; what comes later must not be written over them.
        ours, theirs = channels()
        kept = theirs.feed(bytes_of(ours, protocol.Done(1, 2, 3, 4, 5, [b"payload" * 100])))[0]
        for _ in range(10):
            theirs.feed(bytes_of(ours, protocol.Done(1, 2, 3, 4, 5, [b"another" * 100])))
        self.assertEqual(b"payload" * 100, kept.payload[0].tobytes())

    def test_a_payload_is_not_copied_to_be_sent(self):
        large = b"x" * (1 << 20)
        self.assertTrue(any(buffer is large for buffer in channels()[0].frame(protocol.Grant(1, 2, 3, 4, 0, [large]))))

    def test_no_bit_of_a_frame_can_be_changed(self):
        # A small limit and a long tail: a length made larger is refused at once, or completed and refused.
        for message in (protocol.ForgetJob(1), protocol.Failed(1, 2, 3, 4, {"type": "E"}, [b"trace"])):
            data = bytes_of(channels()[0], message)
            for at, wrong in flips(data):
                receiver = channels(frame_bytes_max=1000)[1]
                try:
                    got = receiver.feed(wrong + b"\0" * 1100)
                except errors.ProtocolError:
                    continue
                self.fail("byte %d of %r was changed and gave %r" % (at, message, got))

    def test_replay_is_refused(self):
        ours, theirs = channels()
        data = bytes_of(ours, protocol.ForgetJob(1))
        theirs.feed(data)
        self.assertIn("replayed", str(self.refused(frames.ChangedOnTheWay, theirs.feed, data)))

    def test_another_order_is_refused(self):
        ours, theirs = channels()
        bytes_of(ours, protocol.ForgetJob(1))
        self.refused(frames.ChangedOnTheWay, theirs.feed, bytes_of(ours, protocol.ForgetJob(2)))

    def test_reflection_is_refused(self):
        server, client = server_with(), client_with()
        shaken(server, client)
        for side in (server, client):
            data = bytes_of(side.channel, protocol.ForgetJob(1))
            self.refused(frames.ChangedOnTheWay, side.channel.feed, data)

    def test_frames_of_another_session_are_refused(self):
        server, client = server_with(), client_with()
        shaken(server, client)
        later = handshakes.ServerHandshake(KEY, SALT, b"N" * 32, 8, 11), client_with()
        shaken(*later)
        self.refused(frames.ChangedOnTheWay, later[0].channel.feed, bytes_of(client.channel, protocol.ForgetJob(1)))

    def test_a_frame_too_large_to_send(self):
        ours, theirs = channels(frame_bytes_max=100)
        error = self.refused(errors.FrameTooLarge, ours.frame, protocol.Grant(1, 2, 3, 4, 0, [b"x" * 101]))
        self.assertIn("Grant", str(error))
        self.assertIn("100", str(error))
        # Nothing was sent: the connection goes on.
        self.assertEqual([protocol.ForgetJob(1)], theirs.feed(bytes_of(ours, protocol.ForgetJob(1))))

    def test_a_frame_too_large_to_take(self):
        for size in (101, 2**31 - 1, 2**63, 2**64 - 1):
            receiver = channels(frame_bytes_max=100)[1]
            error = self.refused(errors.FrameTooLarge, receiver.feed, frames.head(2, size))
            self.assertIn(str(size), str(error))

    def test_a_length_within_the_limit_takes_no_memory_in_advance(self):
        receiver = channels()[1]
        self.assertEqual([], receiver.feed(frames.head(2, protocol.FRAME_BYTES_MAX)))
        self.assertLess(len(receiver._buffer), 100)

    def test_a_length_too_short_for_the_message(self):
        untagged = channels(tagged=False)[1]
        self.refused(errors.ProtocolError, untagged.feed, frames.head(2, 0))


LARGE = [b"x" * 10, bytearray(b"y" * 3 * frames.PIECE_BYTES), b"", b"z"]


def grant(attempt, job=7, payload=(b"",)):
    return protocol.Grant(attempt, job, 0, 1, 0, list(payload))


class Pieces(Refused):
    """Large messages, and what passes them."""

    def wire(self, channel, pulls=10**6):
        """What so many pulls give, as one stream."""
        data = b""
        for _ in range(pulls):
            more = joined(channel.pull())
            if not more:
                break
            data += more
        return data

    def arrived(self, messages):
        """As they come out of the other end when all were sent before anything could be written."""
        ours, theirs = channels()
        for message in messages:
            ours.send(message)
        got = [plain(message) for message in theirs.feed(self.wire(ours))]
        self.assertEqual([], ours.sending())
        self.assertEqual(0, theirs.receiving)
        return got

    def test_row_51_it_arrives_as_it_was(self):
        sizes = [0, 1, frames.PIECE_BYTES - 1, frames.PIECE_BYTES, frames.PIECE_BYTES + 1, 5 * frames.PIECE_BYTES]
        for size in sizes:
            message = grant(1, payload=[os.urandom(size), b"", os.urandom(size // 2)])
            self.assertEqual([message], self.arrived([message]))

    def test_row_51_in_reads_of_any_size_with_others_between_its_pieces(self):
        for size in (1000, 65536, 1 << 20):
            ours, theirs = channels()
            ours.send(grant(1, payload=LARGE))
            data, small = b"", [protocol.Acknowledge(number) for number in range(6)]
            for message in small:
                ours.send(message)
                data += self.wire(ours, 1)
            got = [plain(message) for piece in in_pieces(data, size) for message in theirs.feed(piece)]
            self.assertEqual([grant(1, payload=[bytes(buffer) for buffer in LARGE])], [m for m in got if m not in small])
            self.assertEqual(small, [m for m in got if m in small])

    def test_row_51_no_frame_is_larger_than_a_piece_and_each_has_its_tag(self):
        ours, theirs = channels()
        ours.send(grant(1, payload=LARGE))
        taken = [self.wire(ours, 1) for _ in range(4)]
        self.assertEqual(b"", self.wire(ours))
        for frame in taken:
            self.assertLess(len(frame), frames.PIECE_BYTES + 100)
        for number, frame in enumerate(taken):
            changed = bytearray(frame)
            changed[len(frame) // 2] ^= 1
            receiver = channels()[1]
            for before in taken[:number]:
                receiver.feed(before)
            self.refused(frames.ChangedOnTheWay, receiver.feed, bytes(changed))

    def test_row_51_nothing_is_copied_to_be_sent(self):
        large = b"x" * 10**6
        ours, _ = channels()
        ours.send(grant(1, payload=[large]))
        pulled = ours.pull()
        self.assertIs(large, [buffer for buffer in pulled if isinstance(buffer, memoryview)][0].obj if hasattr(memoryview, "obj") else large)

    def test_row_51_what_is_small_passes(self):
        small = [
            protocol.Heartbeat({}), protocol.Acknowledge(1), protocol.Revoke(2, 1), protocol.Farewell({}), grant(2),
            protocol.DefineJob(8, {}, []), protocol.Fetched(1, {}, []), protocol.Fetch(1, {}), protocol.Done(1, 1, 1, 1, 1, []),
        ]  # fmt: skip
        got = self.arrived([grant(1, payload=LARGE)] + small)
        self.assertEqual(small, got[:-1])

    def test_row_51_what_must_not_pass_stays_behind(self):
        define, report = protocol.DefineJob(7, {}, LARGE), protocol.Done(1, 2, 3, 4, 5, LARGE)
        for first, second in (
            (define, grant(1)), (define, protocol.ForgetJob(7)), (grant(1, payload=LARGE), protocol.Revoke(1, 0)),
            (grant(1, payload=LARGE), protocol.ForgetJob(7)), (define, protocol.Joined({})),
            (protocol.Fetched(1, {}, LARGE), protocol.Drop({})), (report, protocol.Done(2, 3, 3, 4, 5, [])),
            (report, protocol.Failed(2, 2, 7, 4, {}, [])), (report, protocol.Released(2, 2, 7)), (report, protocol.Died(2, 2, 7, {})),
            (report, protocol.Unfit(2, 9, 7, {})), (protocol.Output({"lines": ["x" * 10**6]}), protocol.Output({"lines": []})),
        ):  # fmt: skip
            self.assertEqual([type(first), type(second)], [type(message) for message in self.arrived([first, second])])

    def test_row_51_nor_behind_what_waits_itself(self):
        # A grant behind its definition, its revocation behind the grant; what has nothing to do with them passes.
        messages = [protocol.DefineJob(7, {}, LARGE), grant(1), protocol.Revoke(1, 1), protocol.ForgetJob(7), protocol.Acknowledge(1)]
        self.assertEqual([messages[4]], self.arrived(messages)[:1])
        self.assertEqual(messages[1:4], self.arrived(messages)[2:])

    def test_row_51_large_ones_come_one_after_the_other(self):
        messages = [grant(number, payload=[b"%d" % number * frames.PIECE_BYTES]) for number in range(10, 20)]
        self.assertEqual(messages, self.arrived(messages))

    def test_row_51_it_is_known_how_far_they_are(self):
        ours, theirs = channels()
        ours.send(grant(1, payload=LARGE))
        ours.send(grant(2, payload=LARGE))
        theirs.feed(self.wire(ours, 2))
        (first, sent, size), (second, none, _) = ours.sending()
        self.assertEqual((1, 2, 2 * frames.PIECE_BYTES, 0), (first.attempt, second.attempt, sent, none))
        self.assertGreater(size, 3 * frames.PIECE_BYTES)
        self.assertEqual(2 * frames.PIECE_BYTES, theirs.receiving)

    def test_pieces_beyond_the_limit_are_refused_before_they_come(self):
        ours, _ = channels()
        theirs = channels(frame_bytes_max=2 * frames.PIECE_BYTES)[1]
        ours.send(grant(1, payload=LARGE))
        self.refused(errors.FrameTooLarge, theirs.feed, self.wire(ours))
        self.assertLessEqual(theirs.receiving, 2 * frames.PIECE_BYTES)

    def test_a_length_that_was_changed_is_not_waited_for(self):
        # Bytes are a sign of life: without a check the connection would live on and say nothing more.
        data = bytes_of(channels()[0], protocol.ForgetJob(1))
        for at, wrong in flips(data[: len(frames.head(1, 1))]):
            self.refused(frames.ChangedOnTheWay, channels()[1].feed, wrong)

    def test_within_one_machine_nothing_is_cut(self):
        ours, theirs = channels(tagged=False)
        ours.send(grant(1, payload=LARGE))
        ours.send(protocol.Acknowledge(1))
        got = theirs.feed(self.wire(ours, 1))
        self.assertEqual([protocol.Grant, protocol.Acknowledge], [type(message) for message in got])


class Tags(unittest.TestCase):
    def test_they_are_the_first_half_of_the_vectors_of_rfc_4231(self):
        vectors = [  # section 4: key, data, the first 16 bytes of HMAC-SHA-256
            (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b"),
            (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c7"),
            (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a7"),
            (bytes(bytearray(range(1, 26))), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a"),
            (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
            (b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First", "60e431591ee0b67f0d8a26aacbf5b77f"),
            (
                b"\xaa" * 131,
                b"This is a test using a larger than block-size key and a larger than block-size data. "
                b"The key needs to be hashed before being used by the HMAC algorithm.",
                "9b09ffa71b942fcb27635fbcd5b0e944",
            ),
        ]
        for key, data, expected in vectors:
            sequence = struct.unpack(">Q", data[:8])[0]  # the tag's own first bytes
            keyed = hmac.new(key, None, hashlib.sha256)
            for buffers in ([data[8:]], [data[8:9], b"", data[9:]]):
                self.assertEqual(expected.encode("ascii"), binascii.hexlify(frames._tag(keyed, sequence, buffers)))


if __name__ == "__main__":
    unittest.main()
