"""Checks network addresses of untrusted URLs: only addresses of the public internet are allowed."""

import ipaddress
import socket
from collections.abc import Callable, Sequence

from fetching.errors import DownloadError

Resolver = Callable[[str, int], Sequence[str]]
"""Resolves host and port to addresses as text."""

CLOUD_SERVICES = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
"""Globally routable by number, but inside a cloud: Azure's host service, Oracle's metadata."""
NOT_REACHABLE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.88.99.0/24", "::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "3fff::/20", "5f00::/16", "fec0::/10",
    )
)  # fmt: skip
"""Global by `ipaddress`, but withdrawn or not globally reachable by IANA's registries of special-purpose addresses
(RFC 7526, 4291, 6052, 8215, 9637, 9602, 3879); some contain IPv4 addresses or are routed inside a site."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of `host` by the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether the address is neither private, loopback, link-local (cloud metadata), multicast nor reserved.

    IPv4 addresses embedded in IPv6 (mapped, 6to4, Teredo, NAT64) are checked themselves.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in NAT64:
            wrapped.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(inner is not None and not is_public(str(inner)) for inner in wrapped):
            return False
        if ip.ipv4_mapped is not None:
            return True
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in CLOUD_SERVICES + NOT_REACHABLE)


def public_addresses(host: str, port: int, resolver: Resolver) -> list[str]:
    """Return the addresses of `host`. Raises DownloadError when one of them is not public, and OSError when there is
    none."""
    addresses = list(resolver(host, port))
    inside = [address for address in addresses if not is_public(address)]
    if inside:
        raise DownloadError(
            f"{host}: resolves to {inside[0]}, which is not an address of the public internet. The operator can allow "
            "such addresses with FETCH_ALLOW_PRIVATE_ADDRESSES=1."
        )
    return addresses
