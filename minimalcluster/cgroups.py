"""How many processors a container may use, from the quotas of its control groups (Linux).

A process is in one group of each hierarchy; the quotas of that group and of all groups above it apply. In version 2 of
control groups, the file ``cpu.max`` has the microseconds that a group may use in each period, or "max", and the period.
Version 1 has a file for each.
"""
from __future__ import absolute_import, division, print_function

import io
import os
import posixpath


def quota(root=""):
    # type: (str) -> float | None
    """The number of processors by quota, a fraction too; None: no quota. root: a prefix of all paths, for tests."""
    try:
        found = [_quota_of(folder) for folder in _folders(root)]
    except (OSError, IOError, ValueError):
        return None  # not Linux, or without control groups
    limits = [processors for processors in found if processors is not None]
    return min(limits) if limits else None


def _folders(root):
    # type: (str) -> list
    """The folders of this process's group and of the groups above it, as far as they are visible."""
    folders = []
    for version, mounted, point in _mounts(_lines(root, "/proc/self/mountinfo")):
        for line in _lines(root, "/proc/self/cgroup"):
            _, controllers, path = line.split(":", 2)
            if version == (2 if not controllers else 1 if "cpu" in controllers.split(",") else None):
                # In a container its own group may be mounted as the root, while ``path`` is its path on the machine.
                below = posixpath.relpath(path, mounted).split("/")
                below = [] if below[0] in (".", "..") else below
                for depth in range(len(below) + 1):
                    folders.append(root + posixpath.join(point, *below[:depth]))
    return folders


def _mounts(lines):
    # type: (list) -> list
    """Mounted hierarchies that limit processors: (version, the path in the hierarchy that is mounted, mount point)."""
    found = []
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted, point = [field.replace("\\040", " ") for field in before.split(" ")[3:5]]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            found.append((2, mounted, point))
        elif kind == "cgroup" and "cpu" in options.split(","):
            found.append((1, mounted, point))
    return found


def _quota_of(folder):
    # type: (str) -> float | None
    words = _words(folder, "cpu.max") or _words(folder, "cpu.cfs_quota_us") + _words(folder, "cpu.cfs_period_us")
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()) or not int(words[0]) or not int(words[1]):
        return None  # "max", or -1
    return int(words[0]) / int(words[1])


def _words(folder, name):
    # type: (str, str) -> list
    try:
        with io.open(os.path.join(folder, name), encoding="ascii") as file:
            return file.read().split()
    except (OSError, IOError):
        return []


def _lines(root, path):
    # type: (str, str) -> list
    with io.open(root + path, encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()
