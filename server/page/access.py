"""Who may see the page: the names it answers to, and the token it requires when it listens beyond loopback.

A page on loopback is reached by every web site that its reader opens: a name of theirs may come to mean 127.0.0.1 (DNS
rebinding), and to the browser the page is then that site's own. The browser still says which name it was asked for, so
a page that answers to its own names alone is safe from that. Beyond loopback anybody can call: there the page speaks
TLS with the server's certificate, and wants a token, from people as a cookie and from programs as a bearer token.
"""

import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fedquit.client.requests.keys import check_private
from fedquit.errors import InputError
from fedquit.server.federation import Federation
from fedquit.server.provision.authority import PRIVATE, write

FILE = "page.token"
COOKIE = "__Host-fedquit"  # browsers take a cookie of this name over TLS only, for this host alone
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Access:
    """What a call must have to be answered.

    Attributes:
        hosts: names and addresses that the page answers to, in lower case, without ports.
        token: that everything wants; "": nothing wants one.
    """

    hosts: frozenset[str] = frozenset(LOOPBACK)
    token: str = ""

    @classmethod
    def of(cls, folder: Path, federation: Federation) -> Self:
        """Return what the page of the server in `folder` wants; a token that it needs and lacks is made.

        Raises:
            InputError: others may read the token, or it is too short to be one.
        """
        server = federation.server
        hosts = {*LOOPBACK, *(name.lower() for name in server.page_hosts)}
        if is_loopback(server.page_bind):
            return cls(frozenset({*hosts, server.page_bind.lower()}))
        return cls(frozenset({*hosts, server.page_bind.lower(), server.host.lower()}), read_token(folder))

    def answers_to(self, host: str) -> bool:
        """Say whether the page answers to what a Host header says.

        >>> [Access().answers_to(host) for host in ("localhost:9080", "[::1]:9080", "evil.example", "")]
        [True, True, False, False]
        """
        return name_in(host) in self.hosts

    def lets_in(self, authorization: str, cookies: Mapping[str, str]) -> bool:
        """Say whether a call has the token, in its Authorization header or its cookie, if one is wanted.

        >>> access = Access(token="right")
        >>> access.lets_in("Bearer right", {}), access.lets_in("", {COOKIE: "right"}), access.lets_in("Bearer x", {})
        (True, True, False)
        """
        scheme, _, given = authorization.partition(" ")
        bearer = given.strip() if scheme.lower() == "bearer" else ""
        return not self.token or self.is_token(bearer) or self.is_token(cookies.get(COOKIE, ""))

    def is_token(self, given: str) -> bool:
        """Say whether this is the token; it takes as long for one that is nearly right as for any other."""
        return bool(self.token) and hmac.compare_digest(given.encode(), self.token.encode())


def is_loopback(bind: str) -> bool:
    """Say whether what listens on `bind` is reached from this machine alone.

    >>> is_loopback("127.0.0.2"), is_loopback("0.0.0.0"), is_loopback("fed.example.org")
    (True, False, False)
    """
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"


def name_in(host: str) -> str:
    """Return the name or address in HOST or HOST:PORT, in lower case; "" if it is neither.

    >>> name_in("Fed.Example.Org.:9080"), name_in("[::1]:9080"), name_in("[::1"), name_in("a:b:c")
    ('fed.example.org', '::1', '', '')
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::\d*)?", host)
    return (found[1] or found[2]).lower().removesuffix(".") if found else ""


def read_token(folder: Path) -> str:
    """Return the token in `folder`, made if it is not there, for its owner alone.

    Raises:
        InputError: others may read it, it cannot be read, or it is too short.
    """
    path = folder / FILE
    if not path.exists():
        write(path, f"{secrets.token_urlsafe(32)}\n".encode(), PRIVATE)
    check_private(path)
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; remove it, and another is made") from None
    if len(token) < SHORTEST or not token.isascii():
        raise InputError(f"{path} holds no token of {SHORTEST} characters or more; remove it, and another is made")
    return token


SHORTEST = 32
