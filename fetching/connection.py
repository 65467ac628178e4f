"""HTTP connections to exactly the address that was checked, with a deadline."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.poolmanager import PoolManager
from urllib3.util.connection import create_connection

from fetching.addresses import Resolver, public_addresses
from fetching.errors import DownloadError
from fetching.rules import FetchRules


class Guard:
    """Restricts the addresses of connections, and closes all open connections at the deadline."""

    def __init__(self, rules: FetchRules, resolver: Resolver) -> None:
        self._rules, self._resolver = rules, resolver
        self._sockets: list[socket.socket] = []
        self._deadline = time.monotonic() + rules.max_seconds

    def connect(self, connection: Any) -> socket.socket:
        """Open a socket to a checked address. The name is resolved once, so that the checked address is the one used.

        Raises DownloadError for an address that is not allowed, and OSError when none can be reached.
        """
        host, port = connection.host, connection.port
        if self._rules.allow_private_addresses:
            addresses = list(self._resolver(host, port))
        else:
            addresses = public_addresses(host, port, self._resolver)
        failure: OSError = OSError(f"{host} has no address")
        for address in addresses:
            try:
                opened = create_connection((address, port), connection.timeout)
                self._sockets.append(opened.dup())  # TLS and the response take over the original socket
                return opened
            except OSError as error:
                failure = error
        raise failure

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self._deadline

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Shut down sockets at the deadline, also those of servers that send slowly."""
        timer = threading.Timer(max(0.0, self._deadline - time.monotonic()), self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            for copy in self._sockets:
                copy.close()

    def _cut(self) -> None:
        for copy in self._sockets:
            with contextlib.suppress(OSError):  # already closed by the other side
                copy.shutdown(socket.SHUT_RDWR)


class GuardedAdapter(HTTPAdapter):
    """A requests adapter whose connections are opened by the guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        super().__init__(max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        self.poolmanager = _GuardedPools(self._guard, num_pools=connections, maxsize=maxsize, block=block, **options)


def guarded_session(guard: Guard) -> requests.Session:
    """Return a session that ignores proxies and .netrc: a proxy would resolve names itself, unchecked."""
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", GuardedAdapter(guard))
    session.mount("http://", GuardedAdapter(guard))
    return session


class _GuardedPools(PoolManager):
    def __init__(self, guard: Guard, **options: Any) -> None:
        super().__init__(**options)
        self._guard = guard

    def _new_pool(
        self, scheme: str, host: str, port: int, request_context: dict[str, Any] | None = None
    ) -> HTTPConnectionPool:
        pool: Any = super()._new_pool(scheme, host, port, request_context)
        pool.ConnectionCls = partial(_GuardedHTTPS if scheme == "https" else _GuardedHTTP, guard=self._guard)
        return pool


class _GuardedHTTP(HTTPConnection):
    def __init__(self, *arguments: Any, guard: Guard, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._guard = guard

    def _new_conn(self) -> socket.socket:
        return _guarded_socket(self._guard, self)


class _GuardedHTTPS(HTTPSConnection):
    def __init__(self, *arguments: Any, guard: Guard, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._guard = guard

    def _new_conn(self) -> socket.socket:
        return _guarded_socket(self._guard, self)


def _guarded_socket(guard: Guard, connection: Any) -> socket.socket:
    try:
        return guard.connect(connection)
    except UnicodeError as error:  # a part of the name is empty or longer than 63 characters
        raise DownloadError(f"{connection.host[:100]}: is not a valid host name") from error
    except OSError as error:
        reason = f"{type(error).__name__}: {error.strerror or error}"
        raise DownloadError(f"{connection.host}: cannot be reached ({reason})") from error
