"""Which addresses webhooks may reach: public ones alone, and what the administrator allows besides (pure)."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# https://www.iana.org/assignments/iana-ipv4-special-registry, what is not for everybody; multicast; Azure's host agent
NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
    )
)  # fmt: skip
PUBLIC_6 = IPv6Network("2000::/3")
# https://www.iana.org/assignments/iana-ipv6-special-registry: protocol assignments (Teredo too), documentation, 6to4
NOT_PUBLIC_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Allowed:
    """What is allowed although it is not public: host names, and networks."""

    hosts: frozenset[str]
    networks: tuple[Network, ...]

    @classmethod
    def parse(cls, text: str) -> "Allowed":
        """From `BURNISH_WEBHOOK_ALLOWED`: names, addresses and networks in CIDR notation, with commas."""
        hosts, networks = set(), []
        for word in filter(None, (each.strip() for each in text.split(","))):
            try:
                networks.append(ip_network(word, strict=False))
            except ValueError:
                hosts.add(word.lower().rstrip("."))
        return cls(frozenset(hosts), tuple(networks))

    def takes(self, host: str, address: Address) -> bool:
        """Whether a webhook for this host may connect to this address, which is what the host resolves to."""
        if host.lower().rstrip(".") in self.hosts:
            return True
        return any(address.version == net.version and address in net for net in self.networks) or is_public(
            address
        )


def is_public(address: Address) -> bool:
    """Whether an address can be anybody's on the Internet: not this host, its networks, or a cloud's own services."""
    if isinstance(address, IPv6Address):
        if (inner := address.ipv4_mapped) is not None:
            return is_public(inner)
        if address in NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        return address in PUBLIC_6 and not any(address in network for network in NOT_PUBLIC_6)
    return not any(address in network for network in NOT_PUBLIC_4)


def literal(host: str) -> Address | None:
    """The address that a URL's host is, None where it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def all_taken(allowed: Allowed, host: str, addresses: Iterable[str]) -> bool:
    """Whether every address that a name resolves to may be reached: one that may not is reason to doubt the others."""
    return all(allowed.takes(host, ip_address(address)) for address in addresses)
