"""The same attacks against a manager of multiprocessing, of this Python: a column of the table in docs/security.md.

    python3 tools/attack_others.py

Nothing of minimalcluster is used but the tests' relay of bytes. Prints a line for each attack.
"""

import multiprocessing.connection
import multiprocessing.managers
import os
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from tests.attackers import Canary  # noqa: E402

SERVER = """
import sys
from multiprocessing.managers import BaseManager
class Manager(BaseManager):
    pass
Manager.register("get", callable=lambda: [1, 2, 3])
if __name__ == "__main__":
    server = Manager(("127.0.0.1", 0), b"a key of sixteen bytes or more").get_server()
    print(server.address[1], flush=True)
    server.serve_forever()
"""
KEY = b"a key of sixteen bytes or more"


def started():
    file = os.path.join(tempfile.mkdtemp(), "server.py")
    with open(file, "w") as opened:
        opened.write(SERVER)
    process = subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process, int(process.stdout.readline())


def threads_of(process):
    return len(os.listdir("/proc/%d/task" % process.pid))


def silent_peers(process, port):
    before = threads_of(process)
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    time.sleep(12)
    found = threads_of(process) - before
    for sock in socks:
        sock.close()
    return "200 silent connections: %d threads more, also after 12 s" % found


def told_about_a_failure(process, port):
    try:
        multiprocessing.connection.Client(("127.0.0.1", port), authkey=b"a wrong key of many bytes")
        heard = "it let us in"
    except multiprocessing.AuthenticationError as error:
        heard = str(error)
    sock = socket.create_connection(("127.0.0.1", port))
    said = b""
    sock.settimeout(3)
    try:
        sock.sendall(struct.pack("!i", 20) + b"x" * 20)
        while True:
            more = sock.recv(4096)
            if not more:
                break
            said += more
    except OSError:
        pass
    what = ", a traceback with paths" if b"Traceback" in said else ""
    return "a wrong key: %s; bytes to a stranger: %d%s" % (heard, len(said), what)


def pass_on(source, sink):
    for data in iter(lambda: source.recv(4096), b""):
        sink.sendall(data)


def injection(process, port):
    """A relay without the key passes the handshake on, and then sends a pickle of its own."""
    path = os.path.join(tempfile.mkdtemp(), "canary")
    listener = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(("127.0.0.1", port))

    def relay():
        near = listener.accept()[0]
        threading.Thread(target=pass_on, args=(far, near), daemon=True).start()
        pass_on(near, far)

    threading.Thread(target=relay, daemon=True).start()
    multiprocessing.connection.Client(("127.0.0.1", listener.getsockname()[1]), authkey=KEY)  # a good client, proved
    time.sleep(0.5)
    poison = pickle.dumps(Canary(path))
    far.sendall(struct.pack("!i", len(poison)) + poison)
    time.sleep(1)
    return "a frame injected behind the handshake: the server %s" % ("ran it" if os.path.exists(path) else "refused it")


def main():
    print("multiprocessing's managers, Python %d.%d.%d" % sys.version_info[:3])
    for attack in (silent_peers, told_about_a_failure, injection):
        process, port = started()
        try:
            print("  " + attack(process, port), flush=True)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


if __name__ == "__main__":
    main()
