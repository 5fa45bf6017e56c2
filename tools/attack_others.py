"""The same attacks against others with their defaults: the columns of the last table in docs/security.md.

    python3 tools/attack_others.py          a manager of multiprocessing; Dask and Ray if they are installed

All of it is on this machine. Nothing of minimalcluster is used but the tests' canary. Prints a line for each attack.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
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
import types

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


def held_by(process):
    """How many threads and descriptors it has."""
    return [len(os.listdir("/proc/%d/%s" % (process.pid, name))) for name in ("task", "fd")]


def silent_peers(process, port):
    before = held_by(process)
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    time.sleep(12)
    more = [now - then for now, then in zip(held_by(process), before)]
    for sock in socks:
        sock.close()
    return "200 silent connections: after 12 s %d threads more, %d descriptors more" % tuple(more)


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


# -- Dask and Ray ---------------------------------------------------------------------------------

MARKER = "nobody may read this"
DASK_STRANGER = """
import json, os, sys
from distributed import Client
class Canary:
    def __init__(self, path):
        self.path = path
    def __reduce__(self):
        return os.mkdir, (self.path,)
address, _, marker, path = json.loads(sys.argv[1])
client = Client(address)
print("on a worker: process", client.submit(os.getpid).result())
print("on the scheduler: process", client.run_on_scheduler(os.getpid))
client.submit(len, marker).result()
client.submit(lambda: Canary(path)).result()
"""
RAY_STRANGER = """
import json, os, sys
import ray
from ray._raylet import GcsClient
relay, address, marker, path = json.loads(sys.argv[1])
GcsClient(address=relay).internal_kv_put(b"key", marker.encode(), True, None)
class Canary:
    def __init__(self, path):
        self.path = path
    def __reduce__(self):
        return os.mkdir, (self.path,)
ray.init(address=address, log_to_driver=False)
print("on a worker: process", ray.get(ray.remote(lambda: os.getpid()).remote()))
ray.get(ray.remote(lambda: Canary(path)).remote())
"""


class Recorder:
    """A relay that keeps what it passes on."""

    def __init__(self, port):
        self.seen, self._port = b"", port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, far = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._port))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source, sink):
        with contextlib.suppress(OSError):
            for data in iter(lambda: source.recv(4096), b""):
                self.seen += data
                sink.sendall(data)


def without_settings():
    """The environment of a user who has set nothing, with a home of its own: no key or token is taken from this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "DASK_"))}
    return dict(kept, HOME=tempfile.mkdtemp(), RAY_USAGE_STATS_ENABLED="0")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def await_port(port):
    for _ in range(300):
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port)).close()
        time.sleep(0.1)
    raise SystemExit("nothing listens on port %d" % port)


def attack_service(port, process, stranger):
    """The lines about a service on this port. stranger: a program of a client that knows the address, nothing else."""
    relay, path = Recorder(port), os.path.join(tempfile.mkdtemp(), "canary")
    told = json.dumps(["127.0.0.1:%d" % relay.port, "127.0.0.1:%d" % port, MARKER, path])
    ran = subprocess.run(
        [sys.executable, "-c", stranger, told], env=without_settings(), timeout=120, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    yield "a stranger without any key runs code: " + (ran.stdout.strip().replace("\n", ", ") or "no")
    yield "reading in the path: " + ("the marker can be read" if MARKER.encode() in relay.seen else "no marker")
    yield "a result that names code: " + ("the client ran it" if os.path.exists(path) else "it did not run")
    yield silent_peers(process, port)


def dask():
    port, environment = free_port(), without_settings()
    address, cli = "127.0.0.1:%d" % port, "from distributed.cli.dask_%s import main; main()"
    words = [
        ["-c", cli % "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        ["-c", cli % "worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"],
    ]
    quiet = {"env": environment, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([sys.executable, *each], **quiet) for each in words]
    try:
        await_port(port)
        yield from attack_service(port, processes[0], DASK_STRANGER)
    finally:
        end(*processes)


def ray():
    port, command = free_port(), os.path.join(os.path.dirname(sys.executable), "ray")
    words = [command, "start", "--head", "--block", "--port", str(port), "--num-cpus", "1", "--include-dashboard=false"]
    process = subprocess.Popen(
        [*words, "--object-store-memory", str(80 << 20)], env=without_settings(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await_port(port)
        time.sleep(5)  # its other processes
        server = int(subprocess.check_output(["pgrep", "-P", str(process.pid), "gcs_server"]))
        yield from attack_service(port, types.SimpleNamespace(pid=server), RAY_STRANGER)
    finally:
        end(process)


def end(*processes):
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


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
    for library, attacked in (("distributed", dask), ("ray", ray)):
        if importlib.util.find_spec(library):
            print("%s %s" % (library, importlib.metadata.version(library)))
            for line in attacked():
                print("  " + line, flush=True)


if __name__ == "__main__":
    main()
