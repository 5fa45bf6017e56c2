"""Handshakes that hold, and that must not."""
from __future__ import absolute_import, division, print_function

import os
import pickle
import struct
import unittest

from minimalcluster import errors
from minimalcluster.wire import handshakes, protocol
from tests import support
from tests.wire.members import (
    Canary, KEY, NONCE, OTHER_KEY, Refused, SALT, WHERE, bytes_of, client_with, flips, in_pieces, server_with, shaken,
)


class Handshake(Refused):
    def test_both_sides_know_each_other(self):
        server, client = server_with(), client_with()
        shaken(server, client)
        self.assertEqual((handshakes.NODE, b"i" * 16, (3, 6), 4, 7, 11), tuple(server.peer))
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

    def test_the_proofs_cover_the_certificates_hash_and_the_flag(self):
        shown, other = b"h" * 32, b"g" * 32
        server, client = server_with(certificate_hash=shown), client_with(encrypt=None)
        self.assertTrue(server.wants_tls)
        self.assertEqual(b"", client.receive(server.start()))
        self.assertTrue(client.wants_tls)
        self.assertEqual(b"", server.secured(None))
        client.receive(server.receive(client.secured(shown)))
        self.assertFalse(server.wants_tls or client.wants_tls)
        for side in (server, client):
            self.assertEqual((False, False), (side.channel.tagged, side.channel.local))
        for theirs in (other, handshakes._NO_CERTIFICATE):
            server, client = server_with(certificate_hash=shown), client_with(encrypt=None)
            client.receive(server.start())
            self.refused(errors.AuthenticationError, server.receive, client.secured(theirs))
        server, client = server_with(certificate_hash=shown), client_with(encrypt=None)
        stripped = bytearray(server.start())
        stripped[9] = 0
        self.refused(errors.AuthenticationError, server.receive, client.receive(bytes(stripped)))

    def test_a_server_that_shows_no_certificate_is_refused(self):
        client = client_with(encrypt=None)
        client.receive(server_with(certificate_hash=b"h" * 32).start())
        self.assertIn(WHERE, str(self.refused(errors.AuthenticationError, client.secured, None)))

    def test_flags_that_are_unknown_or_not_wanted_are_refused(self):
        hello = bytearray(server_with().start())
        for flags, encrypt, kind in (
            (3, None, errors.ProtocolError), (4, None, errors.ProtocolError), (0, True, errors.EncryptionError),
            (handshakes.UNTAGGED, True, errors.EncryptionError), (handshakes.TLS, False, errors.EncryptionError),
        ):
            hello[9] = flags
            self.assertIn(WHERE, str(self.refused(kind, client_with(encrypt=encrypt).receive, bytes(hello))))

    def test_nothing_may_stand_between_hello_and_tls(self):
        hello = server_with(certificate_hash=b"h" * 32).start()
        self.refused(errors.ProtocolError, client_with(encrypt=None).receive, hello + b"x")

    def test_a_wrong_key_is_refused_with_one_byte(self):
        server, client = server_with(), client_with(OTHER_KEY)
        error = self.refused(errors.AuthenticationError, server.receive, client.receive(server.start()))
        self.assertEqual(struct.pack("B", handshakes.REFUSED_KEY), error.reply)
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
            error = self.refused(errors.AuthenticationError, rogue.receive, b"\0" + handshakes._OK.pack(7, 11, 4, answer))
            self.assertIn("could not prove", str(error))
            self.assertIsNone(rogue.channel)

    def test_a_recorded_proof_is_of_no_use(self):
        _, auth, ok = shaken(server_with(), client_with())
        fresh = handshakes.ServerHandshake(KEY, SALT, b"N" * 32, 8, 11)
        self.refused(errors.AuthenticationError, fresh.receive, auth)
        client = handshakes.ClientHandshake(KEY, b"C" * 32, handshakes.NODE, b"i" * 16, (3, 6), WHERE)
        client.receive(server_with().start())
        self.refused(errors.AuthenticationError, client.receive, ok)

    def test_another_wire_version_is_named(self):
        hello = bytearray(server_with().start())
        hello[8] = 99
        error = self.refused(errors.VersionMismatch, client_with().receive, bytes(hello))
        for part in (WHERE, "99", str(handshakes.VERSION)):
            self.assertIn(part, str(error))

    def test_a_peer_of_another_wire_version_is_told(self):
        server, client = server_with(), client_with()
        auth = bytearray(client.receive(server.start()))
        auth[8] = 99
        error = self.refused(errors.ProtocolError, server.receive, bytes(auth))
        self.assertEqual(struct.pack("B", handshakes.REFUSED_VERSION), error.reply)
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


if __name__ == "__main__":
    unittest.main()
