"""Processes, as Linux's /proc tells of them."""

import glob


def words(path, after=""):
    with open(path) as file:
        text = file.read()
    return text[text.rindex(after) + 1 if after else 0 :].split()


def below(pid):
    """Process ids of its children, theirs, and so on."""
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            parents[int(path.split("/")[2])] = int(words(path, after=")")[1])
        except OSError:
            pass  # it has ended
    found = [pid]
    for parent in found:  # grows while it is read
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return found[1:]
