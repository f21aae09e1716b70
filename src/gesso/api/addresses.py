"""Addresses that others give us to call, and which of them may be called.

One parser, here; a name is resolved once, and the connection goes to the address that was looked at, so that a name
that changes its mind between the two leads nowhere.
"""

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from gesso.errors import GessoError
from gesso.serving.settings import Webhooks

MAX_URL = 2048
_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?(/[!$-;=?-Z_a-z~%]*)?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
# Networks that lead somewhere else than they say: addresses of IPv4 inside of IPv6.
_WRAPPING = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("2002::/16"), ip_network("2001::/32"))


@dataclass(frozen=True)
class Address:
    """An address that may be called.  target: path and query"""

    scheme: str
    host: str
    port: int
    target: str


def check_address(url: str, policy: Webhooks) -> Address:
    """The parts of an address, as far as it can be judged without asking for its name. Raises GessoError."""
    if policy == "off":
        raise _refused("webhooks are switched off on this server")
    match = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if match is None:
        raise _refused("not an address of the form https://name/path; without user, fragment and spaces")
    scheme, host, port_text, target = match.groups()
    port = int(port_text) if port_text else {"http": 80, "https": 443}[scheme]
    if not 1 <= port <= 65_535 or (port < 1024 and port not in (80, 443)):
        raise _refused("the port may be 80, 443, or 1024 and above")
    if host.startswith("["):
        try:
            literal: IPv4Address | IPv6Address = IPv6Address(host[1:-1])
        except ValueError:
            raise _refused("the host is no address of IPv6") from None
        _check_literal(literal, policy)
        return Address(scheme, host[1:-1], port, target or "/")
    name = host.removesuffix(".").lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("the host is no name")
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):  # also 0x7f.1 and 2130706433
        try:
            _check_literal(IPv4Address(name), policy)
        except ValueError:
            raise _refused("the host is no address of IPv4") from None
    elif policy != "any" and (
        len(labels) == 1 or labels[-1] in ("localhost", "local", "internal", "lan", "home", "arpa")
    ):
        raise _refused("the host is a private name")
    return Address(scheme, name, port, target or "/")


def resolve(address: Address, policy: Webhooks) -> str:
    """The IP address to connect to. Raises GessoError for a private one, OSError where the name has none."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    ips = list(dict.fromkeys(str(info[4][0]) for info in found))
    for ip in ips:  # all of them, since a name that has both kinds is up to something
        _check_literal(ip_address(ip.partition("%")[0]), policy)
    return ips[0]


def _check_literal(ip: IPv4Address | IPv6Address, policy: Webhooks) -> None:
    if policy != "any" and not is_public(ip):
        raise _refused("the host is a private address")


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the internet at large."""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(ip.ipv4_mapped)
        if any(ip in network for network in _WRAPPING):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _refused(why: str) -> GessoError:
    return GessoError(f"url: {why}", code="url_not_allowed", field="url")
