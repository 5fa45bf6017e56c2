"""Names and addresses: what may be one, all addresses of a name on both sides, and a machine without IPv6."""
from __future__ import absolute_import, division, print_function

import contextlib
import errno
import os
import socket
import sys
import unittest

from minimalcluster import MasterNode, WorkerNode
from minimalcluster.compat import as_text, native
from minimalcluster.wire import addresses, keys
from minimalcluster.errors import AuthenticationError, ConnectionFailed
from tests import support
from tests.support import patched, wait_until

ASK, Socket = socket.getaddrinfo, socket.socket
KEY = "thirty-two characters of a key,."


def has_ipv6():
    try:
        probe = socket.socket(socket.AF_INET6)
        probe.bind(("::1", 0))
        probe.close()
        return True
    except (OSError, socket.error, AttributeError):
        return False


ipv6 = unittest.skipUnless(has_ipv6(), "this machine has no IPv6 loopback")


@contextlib.contextmanager
def named(name, *found):
    """As if the name had these addresses, in this order."""

    def getaddrinfo(host, *rest):
        return [each for known in (found if host == name else [host]) for each in ASK(known, *rest)]

    with patched(addresses.socket, "getaddrinfo", getaddrinfo):
        yield


@contextlib.contextmanager
def without_ipv6():
    """As on a machine whose kernel has none, though names have such addresses."""

    class WithoutIPv6(Socket):
        def __init__(self, family=socket.AF_INET, *rest, **terms):
            if family == socket.AF_INET6:
                raise socket.error(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            Socket.__init__(self, family, *rest, **terms)

    with patched(addresses.socket, "socket", WithoutIPv6):
        yield


class Checked(unittest.TestCase):
    def refused(self, kind, function, *arguments, **terms):
        try:
            function(*arguments, **terms)
        except kind as error:
            return str(error)
        raise AssertionError("%r was taken" % (arguments,))

    def test_what_a_host_may_be(self):
        for given, host in (("a.example", "a.example"), ("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("::1", "::1"), ("::", "::")):
            for value in (given, u"%s" % given):
                self.assertEqual(host, addresses.checked_host(value, "HOST"))

    def test_what_is_none_is_named_with_its_remedy(self):
        for given, part in (
            (" 127.0.0.1", "'127.0.0.1'"), ("127.0.0.1\n", "'127.0.0.1'"), ("127.0.0.1:8888", "PORT=8888"),
            ("[::1]:8888", "PORT=8888"), ("a.example:80", "PORT=80"), ("http://a.example", "'//'"), ("", "empty"),
            ("a b", "white space"), ("[::1", "no name"), ("a..b", "'a..b'"), (".a", "before a dot"), (".", "'.'"),
            ("a." + "x" * 64 + ".b", "63 characters"), ("a.\0", "control"), (".".join(["x" * 50] * 6), "254 characters"),
        ):  # fmt: skip
            text = self.refused(ValueError, addresses.checked_host, given, "HOST")
            self.assertIn("HOST", text)
            self.assertIn(part, text)
        for given in (u"x.\xe9" + u"y" * 60, u"a\u2024.b"):  # two that IDNA refuses: too long, and a dot that makes two
            self.assertIn("HOST", self.refused(ValueError, addresses.checked_host, given, "HOST"))
        for given in (5, None, b"127.0.0.1" if str is not bytes else 5, ("127.0.0.1", 8888)):
            self.assertIn(repr(given), self.refused(TypeError, addresses.checked_host, given, "IP"))

    def test_names_that_a_resolver_may_find(self):
        for given in ("a.example.", "a_b", "xn--a", "fe80::1%lo", u"m\xfcnchen.example", "x" * 63, ".".join(["x" * 49] * 5)):
            self.assertEqual(native(given), addresses.checked_host(given, "HOST"))

    def test_what_is_no_port_is_named_on_every_face(self):
        faces = [("PORT", lambda port: MasterNode(PORT=port)), ("PORT", lambda port: WorkerNode("::1", port, KEY, 1))]
        if sys.version_info[0] > 2:
            from minimalcluster import ClusterExecutor

            faces.append(("port", lambda port: ClusterExecutor(1, port=port)))
        for name, make in faces:
            for port in (True, 8888.0, "8888", None, -1, 65536):
                text = self.refused(ValueError, make, port)
                self.assertIn(name, text)
                self.assertIn(repr(port), text)

    def test_only_addresses_of_this_machine_are_loopback(self):
        for host in ("127.0.0.1", "127.1", "127.255.255.254", "localhost", "LOCALHOST", "::1"):
            self.assertTrue(addresses.is_loopback(host), host)
        for host in ("127.example.com", "127.0.0.1.example.com", "127.", "128.0.0.1", "::", "", "localhost.example.com"):
            self.assertFalse(addresses.is_loopback(host), host)

    def test_both_sides_say_it_at_once(self):
        for value in (" 127.0.0.1", "127.0.0.1:8888", "a..b"):
            self.assertIn("HOST", self.refused(ValueError, MasterNode, HOST=value))
            self.assertIn("IP", self.refused(ValueError, WorkerNode, value, 8888, KEY, 1))
        self.assertIn("empty", self.refused(ValueError, WorkerNode, "", 8888, KEY, 1))
        self.assertIn("5", self.refused(TypeError, WorkerNode, 5, 8888, KEY, 1))
        self.assertEqual("::1", WorkerNode("[::1]", 8888, KEY, 1).IP)

    def test_none_and_nothing_are_all_networks(self):
        for value in (None, ""):
            self.assertEqual("", MasterNode(HOST=value).HOST)
            self.assertIn("AUTHKEY", self.refused(ValueError, MasterNode, HOST=value, AUTHKEY=b"short"))

    def test_a_key_with_something_around_it_is_named(self):
        for key, part in (
            ("'%s'" % KEY, "quotes"), ('"%s"\r\n' % KEY, "quotes"), (KEY.encode("utf-16"), "BOM"),
        ):  # fmt: skip
            for make in (lambda: MasterNode(AUTHKEY=key), lambda: WorkerNode("127.0.0.1", 8888, key, 1)):
                with support.Log() as log:
                    make()
                self.assertEqual(1, len(log.having(part)), (key, part))
        with support.Log() as log:
            for key in (KEY, keys.generate_key(b"x" * 32), u"a p\u00e4ssword with blanks inside"):
                MasterNode(AUTHKEY=key)
        self.assertEqual([], log.having("AUTHKEY"))

    def test_a_refused_key_is_told_what_is_odd_about_it(self):
        with listening("127.0.0.1") as master:
            node = WorkerNode("127.0.0.1", master.PORT, "'%s'" % KEY, 1, quiet=True)
            with self.assertRaises(AuthenticationError) as caught:
                node.join_cluster()
            self.assertIn("quotes", str(caught.exception))

    def test_row_46_a_mark_or_white_space_on_one_side_makes_no_other_key(self):
        for key in (u"\ufeff" + as_text(KEY), KEY + "\n", KEY + "\r\n", b"\t" + KEY.encode("ascii"), KEY + " "):
            with support.Log() as log, listening("127.0.0.1") as master:
                joins(master, "127.0.0.1", key)
            self.assertEqual([], log.having("AUTHKEY"))


@contextlib.contextmanager
def listening(host):
    with MasterNode(HOST=host, PORT=0, AUTHKEY=KEY) as master:
        master.start_master_server(if_join_as_worker=False)
        yield master


def joins(master, host, key=KEY):
    node = support.Background(WorkerNode(host, master.PORT, key, 1, quiet=True).join_cluster)
    wait_until(master.list_workers, what="the node at %s" % host)
    master.shutdown()
    node.result()


class Names(unittest.TestCase):
    @ipv6
    def test_row_53_a_node_tries_all_addresses_of_a_name(self):
        with listening("127.0.0.1") as master, named("master.test", "::1", "127.0.0.1"):
            joins(master, "master.test")

    def test_row_53_a_node_without_ipv6_takes_the_other_address(self):
        with listening("127.0.0.1") as master, named("master.test", "::1", "127.0.0.1"), without_ipv6():
            joins(master, "master.test")

    @ipv6
    def test_row_53_a_node_passes_by_another_programs_port(self):
        with listening("127.0.0.1") as master, named("master.test", "::1", "127.0.0.1"):
            with contextlib.closing(socket.socket(socket.AF_INET6)) as other:
                other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                other.bind(("::1", master.PORT))
                other.listen(1)
                answer = support.Background(lambda: other.accept()[0].sendall(b"SSH-2.0-x\r\n"))
                joins(master, "master.test")
                answer.result()

    @ipv6
    def test_row_53_a_master_listens_at_all_addresses_of_a_name(self):
        for host in ("127.0.0.1", "::1", "localhost"):
            with named("localhost", "::1", "127.0.0.1"), listening("localhost") as master:
                joins(master, host)

    def test_row_53_a_master_without_ipv6_listens_at_the_others(self):
        for host in ("localhost", ""):
            with named("localhost", "::1", "127.0.0.1"), without_ipv6(), listening(host) as master:
                joins(master, "127.0.0.1")

    def test_row_53_all_networks(self):
        for host in (None, "", "0.0.0.0"):
            with listening(host) as master:
                joins(master, "127.0.0.1")

    @ipv6
    def test_row_53_all_networks_are_ipv6_too(self):
        for host in (None, "", "::"):
            with listening(host) as master:
                joins(master, "::1")

    def test_row_53_the_address_is_one_that_others_can_use(self):
        for host in (None, "", "0.0.0.0"):
            with listening(host) as master:
                there, port = master.address
                self.assertNotIn(there, addresses.EVERYWHERE)
                self.assertEqual(port, master.PORT)
                joins(master, there)
        with listening("127.0.0.1") as master:
            self.assertEqual(("127.0.0.1", master.PORT), master.address)

    def test_row_53_without_a_way_anywhere_it_is_this_machine(self):
        with patched(addresses, "_FAR_AWAY", ()):
            self.assertEqual("127.0.0.1", addresses.reachable("0.0.0.0"))

    def test_row_53_a_name_may_come_later(self):
        known = []

        def getaddrinfo(host, *rest):
            if host == "later.test" and not known:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return ASK("127.0.0.1" if host == "later.test" else host, *rest)

        with listening("127.0.0.1") as master, patched(addresses.socket, "getaddrinfo", getaddrinfo), support.Log() as log:
            node = support.Background(WorkerNode("later.test", master.PORT, KEY, 1).join_cluster)
            wait_until(lambda: log.having("'later.test' cannot be resolved"), what="a word about the name")
            known.append(True)
            wait_until(master.list_workers, what="the node")
            master.shutdown()
            node.result()

    def test_row_53_all_that_was_tried_is_named(self):
        port = support.free_port()
        with named("master.test", "127.0.0.2", "127.0.0.1"), support.Log() as log:
            node = support.Background(WorkerNode("master.test", port, KEY, 1).join_cluster)
            line = wait_until(lambda: log.having("next try"), what="a word about the try")[0]
            with listening_at(port) as master:
                wait_until(master.list_workers, what="the node")
            node.result()
        for part in ("master.test:%d" % port, "127.0.0.2:%d" % port, "127.0.0.1:%d" % port):
            self.assertIn(part, line)


@contextlib.contextmanager
def listening_at(port):
    with MasterNode(PORT=port, AUTHKEY=KEY) as master:
        master.start_master_server(if_join_as_worker=False)
        yield master


class Listening(unittest.TestCase):
    def error_of(self, function, *arguments):
        try:
            function(*arguments)[0].close()
        except (OSError, socket.error) as error:
            return error
        raise AssertionError("it worked")

    def test_a_busy_port(self):
        sock = addresses.listen("127.0.0.1", 0)[0]
        self.addCleanup(sock.close)
        port = sock.getsockname()[1]
        error = self.error_of(addresses.listen, "127.0.0.1", port)
        self.assertEqual(errno.EADDRINUSE, error.errno)
        for part in ("127.0.0.1:%d" % port, "PORT=0"):
            self.assertIn(part, str(error))

    def test_a_port_that_is_busy_at_one_of_a_names_addresses(self):
        sock = addresses.listen("127.0.0.1", 0)[0]
        self.addCleanup(sock.close)
        with named("two.test", "127.0.0.2", "127.0.0.1"):
            error = self.error_of(addresses.listen, "two.test", sock.getsockname()[1])
        self.assertEqual(errno.EADDRINUSE, error.errno)
        self.assertIn("127.0.0.1:", str(error))

    def test_one_port_for_all_addresses(self):
        with named("two.test", "127.0.0.2", "127.0.0.1"):
            found = addresses.listen("two.test", 0)
        for sock in found:
            self.addCleanup(sock.close)
        self.assertEqual(["127.0.0.2", "127.0.0.1"], [sock.getsockname()[0] for sock in found])
        self.assertEqual(1, len(set(sock.getsockname()[1] for sock in found)))

    def test_an_address_of_another_machine(self):
        error = self.error_of(addresses.listen, "192.0.2.1", 0)  # RFC 5737: nobody's
        self.assertIn("192.0.2.1", str(error))
        self.assertIn("0.0.0.0", str(error))

    def test_a_port_is_free_again_at_once(self):
        with listening("127.0.0.1") as master:
            joins(master, "127.0.0.1")
        addresses.listen("127.0.0.1", master.PORT)[0].close()

    def test_a_name_that_cannot_be_resolved(self):
        def getaddrinfo(*arguments):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        # Nobody is asked: a resolver's answer, and its patience, differ from machine to machine.
        with patched(addresses.socket, "getaddrinfo", getaddrinfo):
            for function in (addresses.listen, addresses.resolve):
                with self.assertRaises((OSError, socket.error, ConnectionFailed)) as caught:
                    function("no-such-host", 8888)
                self.assertIn("'no-such-host'", str(caught.exception))
                self.assertIn("resolved", str(caught.exception))

    def test_a_name_that_is_none(self):
        # Python 3 refuses it before it asks anybody, with a UnicodeError.
        for function, kind in ((addresses.listen, (OSError, socket.error)), (addresses.resolve, ConnectionFailed)):
            with self.assertRaises(kind) as caught:
                function("x" * 64 + ".invalid", 8888)
            self.assertIn("resolved", str(caught.exception))

    @ipv6
    def test_ipv6(self):
        with listening("::1") as master:
            joins(master, "::1")


if __name__ == "__main__":
    unittest.main()
