"""Keys: the vectors of the RFCs, what is stretched and what is not."""
from __future__ import absolute_import, division, print_function

import binascii
import unittest

from minimalcluster import errors
from minimalcluster.wire import handshakes, keys
from tests.wire.members import KEY, NONCE, OTHER_KEY, Refused, SALT, client_with, server_with, shaken


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
            output = keys.hkdf_sha256(material, salt, info, len(expected) // 2)
            self.assertEqual(expected.encode("ascii"), binascii.hexlify(output))

    def test_a_generated_key_is_text_of_256_bits(self):
        self.assertEqual("mck-" + "6b" * 32, KEY)
        self.assertIsInstance(KEY, str)
        self.assertRaises(ValueError, keys.generate_key, b"short")

    def test_a_generated_key_is_not_stretched(self):
        # Whatever the other side wishes for: neither its rounds nor its salt count.
        key = KEY.encode("ascii")
        self.assertEqual(keys.proof_key(key, SALT, 1), keys.proof_key(key, b"", 10**9))
        self.assertNotEqual(keys.proof_key(key, SALT, 1), keys.proof_key(OTHER_KEY.encode("ascii"), SALT, 1))

    def test_what_only_resembles_a_generated_key_is_stretched(self):
        for key in (b"mck-1234", KEY.encode("ascii")[:-1], KEY.encode("ascii") + b"0", KEY.upper().encode("ascii")):
            # It gets as far as the bounds of the rounds, which a generated key never does.
            self.refused(errors.ProtocolError, keys.proof_key, key, SALT, 1)

    def test_rounds_out_of_bounds_are_refused_before_a_proof_is_made(self):
        # Few would give a cheap dictionary attack to whoever poses as a master, many would keep us busy.
        for rounds in (0, 1, keys.KDF_ROUNDS - 1, 10 * keys.KDF_ROUNDS + 1, 2**32 - 1):
            hello = handshakes._HELLO.pack(handshakes.MAGIC, handshakes.VERSION, 0, SALT, rounds, NONCE)
            error = self.refused(errors.ProtocolError, client_with("a password").receive, hello)
            self.assertIn(str(rounds), str(error))

    def test_fingerprints_are_of_generated_keys_alone(self):
        self.assertEqual(8, len(keys.fingerprint(KEY)))
        self.assertEqual(keys.fingerprint(KEY), keys.fingerprint(KEY + "\n"))
        self.assertNotEqual(keys.fingerprint(KEY), keys.fingerprint(OTHER_KEY))
        for other in ("a password", KEY[:-1], KEY + "0", b"\xff" * 32):
            self.assertEqual("", keys.fingerprint(other))

    def test_row_46_a_refusal_names_the_fingerprints_and_no_key(self):
        server, client = server_with(KEY), client_with(OTHER_KEY)
        error = self.refused(errors.AuthenticationError, server.receive, client.receive(server.start()))
        told = self.refused(errors.AuthenticationError, client.receive, error.reply)
        self.assertIn("(fingerprint %s)" % keys.fingerprint(KEY), str(error))
        self.assertIn("(fingerprint %s)" % keys.fingerprint(OTHER_KEY), str(told))
        for text in (str(error), str(told)):
            self.assertNotIn("mck-", text)
        server, client = server_with("a password"), client_with("another password")
        error = self.refused(errors.AuthenticationError, server.receive, client.receive(server.start()))
        self.assertNotIn("fingerprint", str(error))

    def test_passwords_work_as_text_and_as_bytes(self):
        server, client = server_with(u"a p\u00e4ssword"), client_with(u"a p\u00e4ssword".encode("utf-8"))
        shaken(server, client)
        self.assertIsNotNone(client.channel)


if __name__ == "__main__":
    unittest.main()
