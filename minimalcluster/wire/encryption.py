"""What users say of encryption (``encrypt=`` and ``ssl_context=`` of masters and nodes), and what holds by default.

``tls.py``, and with it the module ``ssl``, is imported only when something is to be encrypted.
"""
from __future__ import absolute_import, division, print_function

from .addresses import is_loopback

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    import socket  # noqa: F401
    import ssl  # noqa: F401
    from typing import Callable  # noqa: F401 # novm

    from . import tls  # noqa: F401


def check(encrypt, ssl_context):
    # type: (object, object) -> None
    """Raises TypeError or ValueError for what cannot be meant, EncryptionError if this Python cannot do it."""
    if encrypt not in (None, True, False):
        raise TypeError("encrypt must be True, False, or None for the default, not %r" % (encrypt,))
    if ssl_context is not None and encrypt is False:
        raise ValueError("ssl_context is for encryption, and encrypt=False forbids it")
    if encrypt or ssl_context is not None:
        from .tls import check_context

        check_context(ssl_context)


def server(host, encrypt, ssl_context):
    # type: (str, bool | None, ssl.SSLContext | None) -> tls.Server | None
    """The encryption of a port on this host; None if it has none. By default it has one if other machines can reach it.

    Raises EncryptionError if this Python has none, also by default: messages are sent in plain text on demand only.
    """
    if encrypt is False or not (_asked_for(encrypt, ssl_context) or not is_loopback(host)):
        return None
    from .tls import Server

    return Server(ssl_context)


def of_client(encrypt, ssl_context):
    # type: (bool | None, ssl.SSLContext | None) -> bool | None
    """What a node wants of its master (``ClientHandshake``). None: the master decides, and its proof covers that."""
    return True if _asked_for(encrypt, ssl_context) else encrypt


def client(host, ssl_context):
    # type: (str, ssl.SSLContext | None) -> Callable[[socket.socket, bytes, str], tls.TlsStream]
    """Makes the stream that encrypts, to a master on this host (``Connection``)."""

    def stream(sock, plain, where):
        # type: (socket.socket, bytes, str) -> tls.TlsStream
        from .tls import Client

        return Client(ssl_context, host).stream(sock, plain, where)

    return stream


def _asked_for(encrypt, ssl_context):
    # type: (bool | None, ssl.SSLContext | None) -> bool
    return bool(encrypt) or ssl_context is not None
