"""Bytes to messages to sockets: what two machines say to each other, and how it is proved and carried."""
from __future__ import absolute_import, division, print_function
