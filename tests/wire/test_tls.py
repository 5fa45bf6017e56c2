"""TLS on real sockets: messages, harm, somebody in the middle, contexts of the user's own."""
from __future__ import absolute_import, division, print_function

import os
import ssl
import subprocess
import unittest

from minimalcluster.errors import AuthenticationError, ConnectionFailed, EncryptionError, HandshakeTimeout, ProtocolError
from minimalcluster.wire import certificates, handshakes, protocol, tls
from minimalcluster.wire import connection as connection_module
from tests import support
from tests.support import patched, wait_until
from tests.wire import links, test_connection, test_listener
from tests.wire.links import OTHER_KEY, Owner, connect, connected, heard, in_loop, open_descriptors, running, serve, silent
from tests.wire.middlemen import MiddleMan

SERVER = tls.Server()


def context_of(protocol_name, pem):
    """An ssl_context that a user might make; pem: with key and certificate."""
    context = ssl.SSLContext(getattr(ssl, protocol_name, ssl.PROTOCOL_SSLv23))
    with certificates.in_file(pem) as path:
        if protocol_name == "PROTOCOL_TLS_SERVER":
            context.load_cert_chain(path)
        else:
            context.verify_mode = ssl.CERT_REQUIRED
            context.check_hostname = True
            context.load_verify_locations(path)
    return context


def for_localhost():
    """Key and certificate of a server with this name."""
    with support.directory() as folder:
        path = os.path.join(folder, "pem")
        command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost", "-keyout", path]
        command += ["-addext", "subjectAltName=DNS:localhost", "-out", path + "2"]
        try:
            support_output = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).communicate()[0]
        except OSError:
            raise unittest.SkipTest("this machine has no openssl")
        if not os.path.exists(path + "2"):
            raise unittest.SkipTest("openssl is too old: %r" % support_output[-100:])
        with open(path, "rb") as key, open(path + "2", "rb") as certificate:
            return key.read() + certificate.read()


class Encrypted(unittest.TestCase):
    """Base of the tests of connections, with TLS."""

    def setUp(self):
        links.encrypting = SERVER
        self.addCleanup(setattr, links, "encrypting", None)


class Messages(Encrypted, test_connection.Messages):
    def test_it_is_tls_and_frames_have_no_tag(self):
        server, client = Owner(), Owner()
        with running() as loop:
            for end in connected(loop, server, client):
                self.assertTrue(end._stream.encrypts)
                self.assertFalse(end._channel.tagged)
                self.assertFalse(end._channel.local)
                tls_of = end._stream._pipe.tls
                self.assertIn(tls_of.cipher()[1], ("TLSv1.3", "TLSv1.2", "TLSv1/SSLv3"))  # the last one: what 2.7 says of 1.2
                self.assertIsNone(tls_of.compression())

    def test_nobody_on_the_way_can_read_them(self):
        class Recording(support.Proxy):
            passed = b""

            def _pump(self, source, sink, direction):
                outer = self

                class Source(object):
                    def recv(self, size):
                        data = source.recv(size)
                        outer.passed += data
                        return data

                    def __getattr__(self, name):
                        return getattr(source, name)

                support.Proxy._pump(self, Source(), sink, direction)

        marker = b"nobody may read this"
        for encrypting in (SERVER, None):
            links.encrypting = encrypting
            server, client = Owner(), Owner()
            with running() as loop, Recording(serve(loop, server)) as proxy:
                near, far = connected(loop, server, client, proxy.port)
                for end in (near, far):
                    loop.call(end.send, protocol.Done(1, 2, 3, 4, 5, [marker]))
                wait_until(lambda: server.messages and client.messages, what="both messages")
            self.assertEqual(encrypting is None, marker in proxy.passed)


class Ends(Encrypted, test_connection.Ends):
    def is_of_a_changed_bit(self, error):
        self.assertIn("broke", str(error))

    @unittest.skipUnless(os.path.exists("/proc/self/fd"), "this system has no /proc to count descriptors in")
    def test_descriptors_go_with_a_connection(self):
        before = open_descriptors()
        with running() as loop:
            port = serve(loop, Owner())
            for _ in range(20):
                client = Owner()
                connection = connect(loop, port, client)
                wait_until(lambda: client.connections, what="a connection")
                in_loop(loop, connection.close)
        self.assertEqual(before, open_descriptors())


class Life(Encrypted, test_connection.Life):
    pass


class WrongKey(Encrypted, test_listener.WrongKey):
    pass


class Strangers(Encrypted):
    def test_one_that_is_silent_has_ten_seconds_and_costs_nothing(self):
        server = Owner()
        made = []
        with running() as loop, patched(tls, "_pipe", lambda *arguments: made.append(arguments)):
            port = serve(loop, server)
            with patched(connection_module, "TLS_SECONDS", 0.2), patched(connection_module, "HANDSHAKE_SECONDS", 0.2):
                sock = silent(port)
                self.assertTrue(sock.recv(1000).startswith(handshakes.MAGIC))
                self.assertIsInstance(server.end(), HandshakeTimeout)
                sock.close()
        self.assertEqual([], made)
        self.assertEqual(10.0, connection_module.HANDSHAKE_SECONDS + connection_module.TLS_SECONDS)

    def test_one_that_stops_in_the_middle_of_tls_is_closed(self):
        client_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        for said in (client_hello[:1], client_hello):
            server = Owner()
            with running() as loop, patched(connection_module, "TLS_SECONDS", 0.2):
                with patched(connection_module, "HANDSHAKE_SECONDS", 0.2):
                    sock = silent(serve(loop, server))
                    sock.sendall(said)
                    self.assertIsInstance(server.end(), HandshakeTimeout)
                    sock.close()

    def test_another_protocol_is_named(self):
        for said, name in ((b"GET / HTTP/1.1\r\n\r\n", "HTTP"), (b"SSH-2.0-a\r\n", "SSH"), (handshakes.MAGIC + b"x" * 100, "minimalcluster")):
            server = Owner()
            with running() as loop:
                sock = silent(serve(loop, server))
                sock.sendall(said)
                self.assertIsInstance(server.end(), ProtocolError)
                self.assertIn("speaks %s, not TLS" % name, str(server.end()))
                heard(sock)

    def test_rubbish_in_tls_is_refused(self):
        for said in (b"\x16\x03\x01\x00\x05hello", b"\x16\x03\xff\xff\xff" + b"x" * 70000, b"\x16\x03" + b"\0" * 100):
            server = Owner()
            with running() as loop, patched(connection_module, "TLS_SECONDS", 0.2):
                with patched(connection_module, "HANDSHAKE_SECONDS", 0.2):
                    sock = silent(serve(loop, server))
                    sock.sendall(said)
                    self.assertIsInstance(server.end(), ConnectionFailed)
                    heard(sock)
            self.assertEqual([], server.connections)

    def test_an_old_version_of_tls_is_refused(self):
        context = tls._context("PROTOCOL_TLS_CLIENT")
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if hasattr(ssl, "TLSVersion"):
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        else:
            context.options &= ~(ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1)
            context.options |= ssl.OP_NO_TLSv1_2 | getattr(ssl, "OP_NO_TLSv1_3", 0x20000000)
        server, client = Owner(), Owner()
        with running() as loop:
            connect(loop, serve(loop, server), client, context=context)
            self.assertIn("TLS with the master failed", str(client.end()))
        self.assertEqual([], server.connections)


class Middle(unittest.TestCase):
    """Row 45: nobody gets a connection, and the one in the middle reads no more than greetings."""

    def refused(self, server, flags, near, far, encrypt=None):
        """The errors of both sides."""
        ours, theirs = Owner(), Owner()
        with running() as loop, MiddleMan(serve(loop, ours, server=server), flags, near, far) as man:
            connect(loop, man.port, theirs, encrypt=encrypt)
            errors = ours.end(), theirs.end()
        self.assertEqual([], ours.connections + theirs.connections)
        self.assertEqual([], ours.messages + theirs.messages)
        return errors

    def test_a_certificate_of_his_own(self):
        ours, theirs = self.refused(SERVER, None, True, True)
        self.assertIsInstance(ours, AuthenticationError)
        self.assertIsInstance(theirs, AuthenticationError)

    def test_even_if_the_master_does_not_look(self):
        """The node does: a false master, behind a certificate of its own, that takes any proof and knows no key."""
        client = Owner()
        with running() as loop:
            connect(loop, serve(loop, Owner(), OTHER_KEY, tls.Server()), client)
            self.assertIsInstance(client.end(), AuthenticationError)

    def test_the_flag_taken_away(self):
        ours, theirs = self.refused(SERVER, 0, False, True)
        self.assertIsInstance(ours, AuthenticationError)
        self.assertIsInstance(theirs, AuthenticationError)
        ours, _ = self.refused(SERVER, 0, False, False)
        self.assertIn("minimalcluster, not TLS", str(ours))

    def test_the_flag_added(self):
        ours, theirs = self.refused(None, handshakes.TLS, True, False)
        self.assertIsInstance(ours, AuthenticationError)
        self.assertIsInstance(theirs, AuthenticationError)

    def test_tags_taken_away(self):
        for server, near in ((SERVER, False), (None, False)):
            ours, theirs = self.refused(server, handshakes.UNTAGGED, near, server is not None)
            self.assertIsInstance(ours, AuthenticationError)
            self.assertIsInstance(theirs, AuthenticationError)

    def test_who_asks_for_encryption_says_nothing_without_it(self):
        ours, theirs = Owner(), Owner()
        with running() as loop, MiddleMan(serve(loop, ours, server=SERVER), 0, False, True) as man:
            connect(loop, man.port, theirs, encrypt=True)
            self.assertIsInstance(theirs.end(), EncryptionError)
        self.assertEqual([], man.said)

    def test_bytes_slipped_in_before_tls(self):
        ours, theirs = Owner(), Owner()
        with running() as loop, MiddleMan(serve(loop, ours, server=SERVER), None, False, False, b"x") as man:
            connect(loop, man.port, theirs)
            self.assertIsInstance(theirs.end(), ProtocolError)
            self.assertIn("before the encryption began", str(theirs.end()))

    def test_who_only_passes_it_on_changes_nothing(self):
        ours, theirs = Owner(), Owner()
        with running() as loop, MiddleMan(serve(loop, ours, server=SERVER), None, False, False) as man:
            connect(loop, man.port, theirs, encrypt=True)
            wait_until(lambda: ours.connections and theirs.connections, what="a connection")


class Wishes(unittest.TestCase):
    def end(self, server, encrypt):
        client = Owner()
        with running() as loop:
            connect(loop, serve(loop, Owner(), server=server), client, encrypt=encrypt)
            return client.end()

    def test_a_wish_that_the_other_side_does_not_share_is_an_error(self):
        for server, encrypt, text in ((None, True, "does not encrypt"), (SERVER, False, "encrypts")):
            error = self.end(server, encrypt)
            self.assertIsInstance(error, EncryptionError)
            self.assertIn(text, str(error))
            self.assertIn("encrypt=%s" % encrypt, str(error))

    def test_without_a_module_ssl(self):
        with patched(tls, "ssl", None):
            for make in (tls.Server, tls.Client):
                self.assertRaises(EncryptionError, make)

    def test_a_context_that_is_none(self):
        for make in (tls.Server, tls.Client):
            self.assertRaises(TypeError, make, "certificate.pem")

    def test_a_context_without_a_certificate_is_no_servers(self):
        with self.assertRaises(ValueError) as caught:
            tls.Server(tls._context("PROTOCOL_TLS_SERVER"))
        self.assertIn("ssl_context", str(caught.exception))


class OwnContexts(unittest.TestCase):
    """For people with certificates of their own."""

    def test_certificate_and_name_are_checked_and_the_proof_is_made_all_the_same(self):
        pem = for_localhost()
        server, client = Owner(), Owner()
        encrypted = tls.Server(context_of("PROTOCOL_TLS_SERVER", pem))
        with running() as loop:
            port = serve(loop, server, server=encrypted)
            connect(loop, port, client, context=context_of("PROTOCOL_TLS_CLIENT", pem))
            wait_until(lambda: server.connections and client.connections, what="a connection")
            stranger = Owner()
            connect(loop, port, stranger, OTHER_KEY, context=context_of("PROTOCOL_TLS_CLIENT", pem))
            self.assertIsInstance(stranger.end(), AuthenticationError)

    def test_what_the_context_does_not_trust_is_named(self):
        mine, other = certificates.make(), certificates.make()
        for trusted in (mine, other):  # without the right name, and not at all
            client = Owner()
            with running() as loop:
                port = serve(loop, Owner(), server=tls.Server(context_of("PROTOCOL_TLS_SERVER", mine)))
                connect(loop, port, client, context=context_of("PROTOCOL_TLS_CLIENT", trusted))
                error = client.end()
            self.assertIsInstance(error, AuthenticationError)
            self.assertIn("ssl_context does not trust", str(error))

    @unittest.skipUnless(getattr(ssl, "HAS_TLSv1_3", False), "before TLS 1.3 a server asks first")
    def test_a_server_that_asks_for_certificates(self):
        pem = certificates.make()
        context = context_of("PROTOCOL_TLS_SERVER", pem)
        context.verify_mode = ssl.CERT_REQUIRED
        with certificates.in_file(pem) as path:
            context.load_verify_locations(path)
        theirs = tls._context_of_a_client()
        encrypted = tls.Server(context)
        self.assertEqual(tls.Server(context_of("PROTOCOL_TLS_SERVER", pem)).certificate_hash, encrypted.certificate_hash)
        server, client = Owner(), Owner()
        with running() as loop:
            port = serve(loop, server, server=encrypted)
            connect(loop, port, client, context=theirs)
            self.assertIn("TLS with", str(server.end()))
            client.end()
            with certificates.in_file(pem) as path:
                theirs.load_cert_chain(path)
            client = Owner()
            connect(loop, port, client, context=theirs)
            wait_until(lambda: server.connections and client.connections, what="a connection")


if __name__ == "__main__":
    unittest.main()
