"""Certificates made in three ways: each is one that OpenSSL takes, and the module ssl can serve."""
from __future__ import absolute_import, division, print_function

import os
import ssl
import stat
import subprocess
import sys
import unittest

from minimalcluster.wire import certificates
from tests import support
from tests.support import patched

FORBIDDEN_TO_OTHERS = 0o077


def has_openssl():
    try:
        return not subprocess.call(["openssl", "version"], stdout=subprocess.PIPE)
    except OSError:
        return False


def said(*command):
    """What openssl prints of a certificate. It must succeed."""
    process = subprocess.Popen(("openssl",) + command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = process.communicate()[0].decode("utf-8", "replace")
    if process.returncode:
        raise AssertionError("openssl %s: %s" % (" ".join(command), output))
    return output


class Certificates(unittest.TestCase):
    def check(self, make):
        """OpenSSL takes what was made; the module ssl finds that key and certificate belong together."""
        pems = [make(), make()]
        self.assertNotEqual(*pems)
        for pem in pems:
            with certificates.in_file(pem) as path:
                ssl.SSLContext(getattr(ssl, "PROTOCOL_TLS_SERVER", ssl.PROTOCOL_SSLv23)).load_cert_chain(path)
                if has_openssl():
                    self.assertIn("OK", said("verify", "-CAfile", path, path))
                    text = said("x509", "-in", path, "-noout", "-text")
                    for part in ("CN", "minimalcluster", "ecdsa-with-SHA256", "prime256v1", "CA:TRUE"):
                        self.assertIn(part, text)
                    said("pkey", "-in", path, "-noout", "-check")

    def test_by_cryptography(self):
        try:
            import cryptography  # noqa: F401
        except ImportError:
            self.skipTest("this Python has no cryptography")
        self.check(certificates.by_cryptography)

    @unittest.skipUnless(has_openssl(), "this machine has no openssl")
    def test_by_the_command(self):
        self.check(certificates.by_openssl)

    def test_by_the_standard_library(self):
        self.check(certificates.by_ourselves)

    def test_many_by_the_standard_library(self):
        # Numbers whose first bytes are 0 or above 127 are written in another way.
        for _ in range(20 if sys.version_info[0] > 2 else 5):
            with certificates.in_file(certificates.by_ourselves()) as path:
                ssl.SSLContext(getattr(ssl, "PROTOCOL_TLS_SERVER", ssl.PROTOCOL_SSLv23)).load_cert_chain(path)

    def test_multiples_of_the_base_point_are_the_known_ones(self):
        # From "Mathematical routines for the NIST prime elliptic curves" (NSA, 2010): the test vectors for P-256.
        known = {
            2: 0x7CF27B188D034F7E8A52380304B51AC3C08969E277F21B35A60B48FC47669978,
            3: 0x5ECBE4D1A6330A44C8F7EF951D4BF165E6C6B721EFADA985FB41661BC6E7FD6C,
            certificates._N - 1: certificates._G[0],
        }
        for factor, x in known.items():
            self.assertEqual(x, certificates._times(factor, certificates._G)[0])

    def test_what_is_broken_or_missing_is_passed_over(self):
        def broken():
            raise RuntimeError("broken on purpose")

        made = []
        ways = [(name, getattr(certificates, name)) for name in ("by_cryptography", "by_openssl", "by_ourselves")]
        for number, (name, way) in enumerate(ways):
            with patched(certificates, name, lambda name=name: made.append(name) or b"pem"):
                self.assertEqual(b"pem", certificates.make())
            setattr(certificates, name, broken)
            self.addCleanup(setattr, certificates, name, way)
        self.assertEqual([name for name, _ in ways], made)
        self.assertRaises(RuntimeError, certificates.make)

    @unittest.skipUnless(os.name == "posix", "the failing program is a shell script")
    def test_an_openssl_that_fails_is_no_way(self):
        with support.directory() as folder:
            path = os.path.join(folder, "openssl")
            with open(path, "w") as file:
                file.write("#!/bin/sh\necho no such curve\nexit 3\n")
            os.chmod(path, 0o755)  # noqa: S103
            before = os.environ["PATH"]
            self.addCleanup(os.environ.__setitem__, "PATH", before)
            os.environ["PATH"] = folder
            with self.assertRaises(ValueError) as caught:
                certificates.by_openssl()
        self.assertIn("no such curve", str(caught.exception))

    def test_the_key_is_in_a_file_of_its_owner_and_not_for_long(self):
        with certificates.in_file(b"secret") as path:
            with open(path, "rb") as file:
                self.assertEqual(b"secret", file.read())
            if os.name == "posix":
                for each in (path, os.path.dirname(path)):
                    self.assertFalse(stat.S_IMODE(os.stat(each).st_mode) & FORBIDDEN_TO_OTHERS, each)
        self.assertFalse(os.path.exists(os.path.dirname(path)))
        with self.assertRaises(ZeroDivisionError):
            with certificates.in_file(b"secret") as path:
                1 // 0
        self.assertFalse(os.path.exists(os.path.dirname(path)))

    @unittest.skipUnless(has_openssl(), "this machine has no openssl")
    def test_the_programs_own_variables_are_not_for_the_command(self):
        os.environ["MINIMALCLUSTER_KEY"] = "secret"
        self.addCleanup(os.environ.pop, "MINIMALCLUSTER_KEY")
        started = []
        real = subprocess.Popen

        def noting(*arguments, **options):
            started.append(options["env"])
            return real(*arguments, **options)

        with patched(certificates.subprocess, "Popen", noting):
            certificates.by_openssl()
        self.assertNotIn("MINIMALCLUSTER_KEY", started[0])


if __name__ == "__main__":
    unittest.main()
