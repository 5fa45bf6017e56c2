"""What tags and TLS cost: for a join, for a round trip of 100 bytes, for a message of 1 MB.

Two processes on this machine, without tasks.

    python3 bench/wire.py [--rounds N]      of this interpreter, and what a certificate costs
    python3 bench/wire.py --table           of each interpreter found: the rows of the table in docs/security.md

plain: as between a node and its own worker processes. tags: a code for each message, no encryption. TLS: encrypted.
Each figure is the CPU time of both sides, the best of N rounds: what else this machine does hardly counts.
"""

from __future__ import absolute_import, division, print_function

import argparse
import os
import platform
import resource
import ssl
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from minimalcluster.compat import perf_counter
from minimalcluster.wire import addresses, certificates, handshakes, keys, protocol, tls
from minimalcluster.wire.connection import Connection
from minimalcluster.wire.listener import Listener
from minimalcluster.wire.loop import Loop

KEY = keys.generate_key(b"k" * 32)
WAYS = ("plain", "tags", "TLS")
JOINS, TRIPS, MEGABYTES = 30, 1000, 100


class Echo(object):
    """The server's side: answers a large message with a small one that tells its CPU time, others with themselves."""

    def opened(self, connection):
        pass

    def received(self, connection, messages):
        for message in messages:
            small = sum(map(len, message.payload)) < 1000
            connection.send(message if small else protocol.ForgetJob(int(cpu_seconds() * 1e6)))

    def closed(self, connection, error):
        pass


class Client(object):
    def __init__(self, port):
        self._loop, self._port = Loop(), port
        self._opened = self._answers = 0

    def opened(self, connection):
        self._opened += 1

    def received(self, connection, messages):
        self._answers += len(messages)
        self.last = messages[-1] if messages else None

    def closed(self, connection, error):
        if error is not None:
            raise SystemExit("the connection ended: %s" % error)

    def join(self):
        """A new connection, proved."""
        handshake = handshakes.ClientHandshake(
            KEY, os.urandom(32), handshakes.NODE, b"i" * 16, sys.version_info[:2], "the server", encrypt=None
        )
        sock = addresses.dial(addresses.resolve("127.0.0.1", self._port)[0])
        connection = Connection(
            self._loop, sock, handshake, self, "the server", True, secured=lambda *rest: tls.Client().stream(*rest)
        )
        wanted = self._opened + 1
        while self._opened < wanted:
            self._loop.cycle()
        return connection

    def ask(self, connection, payload, count=1):
        """Send so many messages, and wait for the answers."""
        wanted = self._answers + count
        for _ in range(count):
            connection.send(protocol.Done(1, 2, 3, 4, 5, [payload]))
        connection.write()
        while self._answers < wanted:
            self._loop.cycle()


def serve(way):
    loop = Loop()
    server = tls.Server() if way == "TLS" else None

    def accepted(sock, where):
        handshake = handshakes.ServerHandshake(
            KEY, os.urandom(16), os.urandom(32), 1, 1, tagged=way != "plain",
            certificate_hash=server.certificate_hash if server else None,
        )  # fmt: skip
        return Connection(loop, sock, handshake, Echo(), where, secured=server.stream if server else None)

    print(Listener(loop, "127.0.0.1", 0, accepted).port)
    sys.stdout.flush()
    loop.run()


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def of_both(client, connection):
    """CPU seconds so far, of this process and the server's."""
    client.ask(connection, b"x" * 1000)
    return cpu_seconds() + client.last.job / 1e6


def measured(way):
    """(ms per join, us per round trip, ms per MB) of one round."""
    server = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--serve", way], stdout=subprocess.PIPE)
    try:
        client = Client(int(server.stdout.readline()))
        connection = client.join()
        client.join().close()
        moments = [of_both(client, connection)]
        for _ in range(JOINS):
            client.join().close()
        moments.append(of_both(client, connection))
        for _ in range(TRIPS):
            client.ask(connection, b"x" * 100)
        moments.append(of_both(client, connection))
        client.ask(connection, os.urandom(1000000), MEGABYTES)
        moments.append(of_both(client, connection))
        joins, trips, large = (after - before for before, after in zip(moments, moments[1:]))
        return joins * 1e3 / JOINS, trips * 1e6 / TRIPS, large * 1e3 / MEGABYTES
    finally:
        server.kill()
        server.wait()


def best(way, rounds):
    return map(min, zip(*[measured(way) for _ in range(rounds)]))


def row(rounds):
    """This interpreter's row of the table in docs/security.md."""
    plain, tags, encrypted = (list(best(way, rounds)) for way in WAYS)
    return "| %d.%d | %.1f ms, %.1f ms | %.0f us, %.0f us, %.0f us | %.1f ms, %.1f ms, %.1f ms |" % (
        sys.version_info[:2] + (tags[0], encrypted[0], plain[1], tags[1], encrypted[1], plain[2], tags[2], encrypted[2])
    )


def table(rounds):
    """Ask each supported interpreter of this machine for its row."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
    from run_tests import find_interpreters

    for each in find_interpreters():
        subprocess.call([each.path, os.path.abspath(__file__), "--row", "--rounds", str(rounds)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    elif arguments.table:
        table(arguments.rounds)
    elif arguments.row:
        print(row(arguments.rounds))
    else:
        report(arguments.rounds)


def report(rounds):
    print("%s %s, %s" % (platform.python_implementation(), platform.python_version(), ssl.OPENSSL_VERSION))
    print("%-6s  %10s  %15s  %8s" % ("", "ms a join", "us a round trip", "ms a MB"))
    for way in WAYS:
        join, trip, megabyte = best(way, rounds)
        print("%-6s  %10.2f  %15.0f  %8.2f" % (way, join, trip, megabyte))
    for make in (certificates.by_cryptography, certificates.by_openssl, certificates.by_ourselves):
        try:
            make()  # the first time, it imports
            began_at = perf_counter()
            make()
            print("a certificate %s: %.0f ms" % (make.__name__, (perf_counter() - began_at) * 1e3))
        except (ImportError, OSError) as error:
            print("a certificate %s: %s" % (make.__name__, error))


if __name__ == "__main__":
    main()
