"""The wire: handshakes that hold and that must not, frames whole and in pieces, bytes that mean harm."""
from __future__ import absolute_import, division, print_function

import binascii
import json
import os
import pickle
import random
import struct
import unittest

from minimalcluster import errors
from minimalcluster.wire import protocol
from minimalcluster.compat import joined
from tests import support

KEY = protocol.generate_key(b"k" * 32)
OTHER_KEY = protocol.generate_key(b"o" * 32)
SALT, NONCE = b"s" * 16, b"n" * 32
WHERE = "there:8888"


def server_with(key=KEY, tagged=True, pickle_protocol=4):
    return protocol.ServerHandshake(key, SALT, NONCE, 7, 11, tagged=tagged, pickle_protocol=pickle_protocol)


def client_with(key=KEY, pickle_protocol=4):
    return protocol.ClientHandshake(key, b"c" * 32, protocol.NODE, b"i" * 16, (3, 6), WHERE, pickle_protocol)


def shaken(server, client):
    """The three messages of a handshake that succeeds."""
    hello = server.start()
    auth = client.start() + client.receive(hello)
    ok = server.receive(auth)
    client.receive(ok)
    return hello, auth, ok


def channels(frame_bytes_max=protocol.FRAME_BYTES_MAX, tagged=True):
    """Both ends of a connection that has been proved."""
    return (
        protocol.Channel(b"1" * 32, b"2" * 32, tagged, frame_bytes_max),
        protocol.Channel(b"2" * 32, b"1" * 32, tagged, frame_bytes_max),
    )


def bytes_of(channel, message):
    return b"".join(channel.frame(message))


def plain(message):
    """A received message with bytes in place of views, to compare it."""
    fields = [[view.tobytes() for view in field] if isinstance(field, list) else field for field in message]
    return type(message)(*fields)


def in_pieces(data, size=1):
    return [data[start : start + size] for start in range(0, len(data), size)]


def flips(data):
    """The data with each of its bits wrong in turn."""
    for bit in range(8 * len(data)):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        yield bit // 8, bytes(wrong)


def samples():
    """Messages of every kind, with the extremes of what a layout can hold."""
    found = []
    for kind in sorted(protocol._LAYOUTS, key=lambda kind: protocol._LAYOUTS[kind].number):
        layout = protocol._LAYOUTS[kind]
        for number, info, payload in (
            (0, {}, []),
            (-(2**63), {"a": [1, 2.5, None, True], "text": u"\u00e4\u4e2d"}, [b""]),
            (2**63 - 1, {"deep": {"er": {"est": []}}}, [b"x" * 1000, b"", b"y"]),
        ):
            fields = [number] * layout.integers + [info] * layout.info + [payload] * layout.payload
            found.append(kind(*fields))
    return found


class Canary(object):
    """A pickle that makes a file if anybody loads it."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (self._path, "w")


class Refused(unittest.TestCase):
    """Base of tests that look into an error's text (2.7 has no assertRaisesRegex)."""

    def refused(self, kind, function, *arguments):
        try:
            function(*arguments)
        except kind as error:
            self.assertIs(kind, type(error))
            return error
        raise AssertionError("%s was not raised" % kind.__name__)


class Keys(Refused):
    def test_hkdf_gives_the_vectors_of_rfc_5869(self):
        def span(first, last):
            return bytes(bytearray(range(first, last + 1)))

        vectors = [  # appendices A.1 to A.3
            (
                b"\x0b" * 22, span(0x00, 0x0C), span(0xF0, 0xF9),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                span(0x00, 0x4F), span(0x60, 0xAF), span(0xB0, 0xFF),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
                "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                b"\x0b" * 22, b"", b"",
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ]  # fmt: skip
        for material, salt, info, expected in vectors:
            output = protocol.hkdf_sha256(material, salt, info, len(expected) // 2)
            self.assertEqual(expected.encode("ascii"), binascii.hexlify(output))

    def test_a_generated_key_is_text_of_256_bits(self):
        self.assertEqual("mck-" + "6b" * 32, KEY)
        self.assertIsInstance(KEY, str)
        self.assertRaises(ValueError, protocol.generate_key, b"short")

    def test_a_generated_key_is_not_stretched(self):
        # Whatever the other side wishes for: neither its rounds nor its salt count.
        key = KEY.encode("ascii")
        self.assertEqual(protocol.proof_key(key, SALT, 1), protocol.proof_key(key, b"", 10**9))
        self.assertNotEqual(protocol.proof_key(key, SALT, 1), protocol.proof_key(OTHER_KEY.encode("ascii"), SALT, 1))

    def test_what_only_resembles_a_generated_key_is_stretched(self):
        for key in (b"mck-1234", KEY.encode("ascii")[:-1], KEY.encode("ascii") + b"0", KEY.upper().encode("ascii")):
            # It gets as far as the bounds of the rounds, which a generated key never does.
            self.refused(errors.ProtocolError, protocol.proof_key, key, SALT, 1)

    def test_rounds_out_of_bounds_are_refused_before_a_proof_is_made(self):
        # Few would give a cheap dictionary attack to whoever poses as a master, many would keep us busy.
        for rounds in (0, 1, protocol.KDF_ROUNDS - 1, 10 * protocol.KDF_ROUNDS + 1, 2**32 - 1):
            hello = protocol._HELLO.pack(protocol.MAGIC, protocol.VERSION, 0, SALT, rounds, NONCE)
            error = self.refused(errors.ProtocolError, client_with("a password").receive, hello)
            self.assertIn(str(rounds), str(error))

    def test_passwords_work_as_text_and_as_bytes(self):
        server, client = server_with(u"a p\u00e4ssword"), client_with(u"a p\u00e4ssword".encode("utf-8"))
        shaken(server, client)
        self.assertIsNotNone(client.channel)


class Handshake(Refused):
    def test_both_sides_know_each_other(self):
        server, client = server_with(), client_with()
        shaken(server, client)
        self.assertEqual((protocol.NODE, b"i" * 16, (3, 6), 4, 7, 11), tuple(server.peer))
        self.assertEqual((7, 11), (client.peer.session, client.peer.epoch))
        self.assertEqual((b"", b""), (server.leftover(), client.leftover()))

    def test_then_messages_flow_both_ways(self):
        for tagged in (True, False):
            server, client = server_with(tagged=tagged), client_with()
            shaken(server, client)
            for sender, receiver in ((server, client), (client, server)):
                for number in range(3):
                    data = bytes_of(sender.channel, protocol.Acknowledge(number))
                    self.assertEqual([protocol.Acknowledge(number)], receiver.channel.feed(data))

    def test_the_lower_pickle_protocol_is_chosen(self):
        for ours, theirs in ((2, 4), (4, 2), (5, 5)):
            server, client = server_with(pickle_protocol=ours), client_with(pickle_protocol=theirs)
            shaken(server, client)
            self.assertEqual(min(ours, theirs), server.peer.pickle_protocol)
            self.assertEqual(min(ours, theirs), client.peer.pickle_protocol)

    def test_byte_by_byte(self):
        server, client = server_with(), client_with()
        auth = b"".join(client.receive(byte) for byte in in_pieces(server.start()))
        ok = b"".join(server.receive(byte) for byte in in_pieces(auth))
        self.assertEqual(b"", b"".join(client.receive(byte) for byte in in_pieces(ok)))
        self.assertIsNotNone(client.channel)

    def test_frames_right_behind_it_are_kept(self):
        server, client = server_with(), client_with()
        ok = server.receive(client.receive(server.start()))
        client.receive(ok + bytes_of(server.channel, protocol.ForgetJob(5)))
        self.assertEqual([protocol.ForgetJob(5)], client.channel.feed(client.leftover()))
        self.assertEqual(b"", client.leftover())

    def test_no_prefix_is_enough(self):
        hello, auth, ok = shaken(server_with(), client_with())
        for size in range(len(hello)):
            client = client_with()
            self.assertEqual(b"", client.receive(hello[:size]))
            self.assertIsNone(client.channel)
        for size in range(len(auth)):
            server = server_with()
            self.assertEqual(b"", server.receive(auth[:size]))
            self.assertIsNone(server.channel)
        for size in range(len(ok)):
            client = client_with()
            client.receive(hello)
            client.receive(ok[:size])
            self.assertIsNone(client.channel)

    def test_no_bit_of_it_can_be_changed(self):
        hello, auth, ok = shaken(server_with(), client_with())
        for at, wrong in flips(hello):
            self._nobody_gets_in(at, server_with(), wrong, None, None)
        for at, wrong in flips(auth):
            self._nobody_gets_in(at, server_with(), hello, wrong, None)
        for at, wrong in flips(ok):
            self._nobody_gets_in(at, server_with(), hello, None, wrong)

    def _nobody_gets_in(self, at, server, hello, auth, ok):
        """None: what the side really answers. The client may not get a channel, whatever was changed."""
        client = client_with()
        try:
            answer = client.receive(hello)
            answer = server.receive(auth or answer)
            client.receive(ok or answer)
        except errors.ConnectionFailed:
            pass
        self.assertIsNone(client.channel, "byte %d was changed" % at)

    def test_a_wrong_key_is_refused_with_one_byte(self):
        server, client = server_with(), client_with(OTHER_KEY)
        error = self.refused(errors.AuthenticationError, server.receive, client.receive(server.start()))
        self.assertEqual(struct.pack("B", protocol.REFUSED_KEY), error.reply)
        self.assertIsNone(server.channel)
        told = self.refused(errors.AuthenticationError, client.receive, error.reply)
        self.assertIn(WHERE, str(told))
        self.assertIn("AUTHKEY", str(told))

    def test_nothing_keyed_is_sent_to_a_stranger(self):
        self.assertEqual(server_with(KEY).start(), server_with(OTHER_KEY).start())

    def test_a_master_without_the_key_is_refused(self):
        client = client_with()
        auth = client.receive(server_with().start())
        for answer in (b"\0" * 32, b"\xff" * 32, auth[-32:], NONCE):  # guesses, and the client's own proof
            rogue = client_with()
            rogue.receive(server_with().start())
            error = self.refused(errors.AuthenticationError, rogue.receive, b"\0" + protocol._OK.pack(7, 11, 4, answer))
            self.assertIn("could not prove", str(error))
            self.assertIsNone(rogue.channel)

    def test_a_recorded_proof_is_of_no_use(self):
        _, auth, ok = shaken(server_with(), client_with())
        fresh = protocol.ServerHandshake(KEY, SALT, b"N" * 32, 8, 11)
        self.refused(errors.AuthenticationError, fresh.receive, auth)
        client = protocol.ClientHandshake(KEY, b"C" * 32, protocol.NODE, b"i" * 16, (3, 6), WHERE)
        client.receive(server_with().start())
        self.refused(errors.AuthenticationError, client.receive, ok)

    def test_another_wire_version_is_named(self):
        hello = bytearray(server_with().start())
        hello[8] = 99
        error = self.refused(errors.VersionMismatch, client_with().receive, bytes(hello))
        for part in (WHERE, "99", str(protocol.VERSION)):
            self.assertIn(part, str(error))

    def test_a_peer_of_another_wire_version_is_told(self):
        server, client = server_with(), client_with()
        auth = bytearray(client.receive(server.start()))
        auth[8] = 99
        error = self.refused(errors.ProtocolError, server.receive, bytes(auth))
        self.assertEqual(struct.pack("B", protocol.REFUSED_VERSION), error.reply)
        self.refused(errors.VersionMismatch, client.receive, error.reply)

    def test_an_unknown_refusal_is_an_error_too(self):
        client = client_with()
        client.receive(server_with().start())
        self.assertIn("77", str(self.refused(errors.ProtocolError, client.receive, struct.pack("B", 77))))

    def test_other_protocols_are_named(self):
        challenge = b"#CHALLENGE#" + b"r" * 20
        heard = [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP"),
            (b"POST /x HTTP/1.0\r\n", "HTTP"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
            (b"\x15\x03\x03\x00\x02\x02\x28", "TLS"),
            (struct.pack(">i", len(challenge)) + challenge, "multiprocessing"),
            (b"\xde\xad\xbe\xef", "another protocol"),
        ]
        for data, name in heard:
            for side in (server_with(), client_with()):
                self.assertIn(name, str(self.refused(errors.ProtocolError, side.receive, data)))
        self.assertIn(WHERE, str(self.refused(errors.ProtocolError, client_with().receive, b"SSH-")))

    def test_multiprocessing_gives_up_at_our_first_bytes(self):
        # It reads a length first, and takes no more than 256 bytes before its own proof.
        self.assertGreater(struct.unpack(">i", server_with().start()[:4])[0], 1 << 30)

    def test_a_pickle_from_a_stranger_never_runs(self):
        with support.directory() as folder:
            path = os.path.join(folder, "canary")
            harmful = pickle.dumps(Canary(path), 2)
            hello, auth, _ = shaken(server_with(), client_with())
            for size in range(len(auth) + 1):
                self._ignore_refusals(server_with(), auth[:size] + harmful)
            for size in range(len(hello) + 1):
                self._ignore_refusals(client_with(), hello[:size] + harmful)
            self._ignore_refusals(server_with(), struct.pack(">i", len(harmful)) + harmful)
            self.assertFalse(os.path.exists(path))
            pickle.loads(harmful).close()  # the canary can sing
            self.assertTrue(os.path.exists(path))

    @staticmethod
    def _ignore_refusals(handshake, data):
        try:
            handshake.receive(data)
            if handshake.channel is not None:
                handshake.channel.feed(handshake.leftover())
        except errors.ConnectionFailed:
            pass


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
        self.assertIn("replayed", str(self.refused(errors.ProtocolError, theirs.feed, data)))

    def test_another_order_is_refused(self):
        ours, theirs = channels()
        bytes_of(ours, protocol.ForgetJob(1))
        self.refused(errors.ProtocolError, theirs.feed, bytes_of(ours, protocol.ForgetJob(2)))

    def test_reflection_is_refused(self):
        server, client = server_with(), client_with()
        shaken(server, client)
        for side in (server, client):
            data = bytes_of(side.channel, protocol.ForgetJob(1))
            self.refused(errors.ProtocolError, side.channel.feed, data)

    def test_frames_of_another_session_are_refused(self):
        server, client = server_with(), client_with()
        shaken(server, client)
        later = protocol.ServerHandshake(KEY, SALT, b"N" * 32, 8, 11), client_with()
        shaken(*later)
        self.refused(errors.ProtocolError, later[0].channel.feed, bytes_of(client.channel, protocol.ForgetJob(1)))

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
            error = self.refused(errors.FrameTooLarge, receiver.feed, protocol.head(2, size))
            self.assertIn(str(size), str(error))

    def test_a_length_within_the_limit_takes_no_memory_in_advance(self):
        receiver = channels()[1]
        self.assertEqual([], receiver.feed(protocol.head(2, protocol.FRAME_BYTES_MAX)))
        self.assertLess(len(receiver._buffer), 100)

    def test_a_length_too_short_for_the_message(self):
        untagged = channels(tagged=False)[1]
        self.refused(errors.ProtocolError, untagged.feed, protocol.head(2, 0))


LARGE = [b"x" * 10, bytearray(b"y" * 3 * protocol.PIECE_BYTES), b"", b"z"]


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
        sizes = [0, 1, protocol.PIECE_BYTES - 1, protocol.PIECE_BYTES, protocol.PIECE_BYTES + 1, 5 * protocol.PIECE_BYTES]
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
        frames = [self.wire(ours, 1) for _ in range(4)]
        self.assertEqual(b"", self.wire(ours))
        for frame in frames:
            self.assertLess(len(frame), protocol.PIECE_BYTES + 100)
        for number, frame in enumerate(frames):
            changed = bytearray(frame)
            changed[len(frame) // 2] ^= 1
            receiver = channels()[1]
            for before in frames[:number]:
                receiver.feed(before)
            self.refused(errors.ProtocolError, receiver.feed, bytes(changed))

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
        messages = [grant(number, payload=[b"%d" % number * protocol.PIECE_BYTES]) for number in range(10, 20)]
        self.assertEqual(messages, self.arrived(messages))

    def test_row_51_it_is_known_how_far_they_are(self):
        ours, theirs = channels()
        ours.send(grant(1, payload=LARGE))
        ours.send(grant(2, payload=LARGE))
        theirs.feed(self.wire(ours, 2))
        (first, sent, size), (second, none, _) = ours.sending()
        self.assertEqual((1, 2, 2 * protocol.PIECE_BYTES, 0), (first.attempt, second.attempt, sent, none))
        self.assertGreater(size, 3 * protocol.PIECE_BYTES)
        self.assertEqual(2 * protocol.PIECE_BYTES, theirs.receiving)

    def test_pieces_beyond_the_limit_are_refused_before_they_come(self):
        ours, _ = channels()
        theirs = channels(frame_bytes_max=2 * protocol.PIECE_BYTES)[1]
        ours.send(grant(1, payload=LARGE))
        self.refused(errors.FrameTooLarge, theirs.feed, self.wire(ours))
        self.assertLessEqual(theirs.receiving, 2 * protocol.PIECE_BYTES)

    def test_a_length_that_was_changed_is_not_waited_for(self):
        # Bytes are a sign of life: without a check the connection would live on and say nothing more.
        data = bytes_of(channels()[0], protocol.ForgetJob(1))
        for at, wrong in flips(data[: len(protocol.head(1, 1))]):
            self.refused(errors.ProtocolError, channels()[1].feed, wrong)

    def test_within_one_machine_nothing_is_cut(self):
        ours, theirs = channels(tagged=False)
        ours.send(grant(1, payload=LARGE))
        ours.send(protocol.Acknowledge(1))
        got = theirs.feed(self.wire(ours, 1))
        self.assertEqual([protocol.Grant, protocol.Acknowledge], [type(message) for message in got])


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
