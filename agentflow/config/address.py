"""The address of a Redis: what is accepted, and how each client spells it.

redis-py, kombu and Celery's result backend read the same URL differently. The worst of it: kombu takes
`rediss://` without a TLS option in its query as plain text and only logs a warning, so that the password
would travel in the clear. `for_celery` always writes the option.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from agentflow.explain import did_you_mean

_HERE = "redis://[[USER:]PASSWORD@]HOST[:PORT][/DB], rediss://… (TLS) or unix:///PATH?db=0"
_QUOTING = "for example host:6379; in a password write @ as %40, : as %3A, / as %2F and # as %23"
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
_OPTIONS = {
    "redis": {"db"}, "rediss": {"db", *_TLS_OPTIONS}, "unix": {"db"}, "redis+socket": {"virtual_host"},
}  # fmt: skip
_REFUSED = {
    "sentinel": (
        "Sentinel is not built yet",
        "name the primary itself: redis://PRIMARY:6379/0; after a failover change the address",
    ),
    "redis+sentinel": (
        "Sentinel is not built yet",
        "name the primary itself: redis://PRIMARY:6379/0; after a failover change the address",
    ),
    "redis+cluster": ("Redis Cluster is not supported", "use a single server: its scripts span keys"),
    "rediss+cluster": ("Redis Cluster is not supported", "use a single server: its scripts span keys"),
    "http": ("this is a web address", f"Redis is {_HERE}"),
    "https": ("this is a web address", f"Redis is {_HERE}"),
    "amqp": ("this is a RabbitMQ address", f"agentflow needs Redis: {_HERE}"),
}


def address_problem(url: str) -> tuple[str, str] | None:
    """(reason, fix) when a text is not an address of a Redis that agentflow can use."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        near = f"redis://{url}" if re.fullmatch(r"[\w.-]+(?::\d+)?(?:/\d+)?", url) else _HERE
        return "the address has no redis:// before it", f"for example {near}"
    if scheme in _REFUSED:
        return _REFUSED[scheme]
    if scheme not in _OPTIONS:
        return f"{scheme}:// is not an address of Redis", did_you_mean(scheme, _OPTIONS) or _HERE
    if not rest or re.search(r"\s", url):
        return "the address is cut short or holds a space", _HERE
    return _options_problem(url, scheme) or _place_problem(url, scheme)


def _place_problem(url: str, scheme: str) -> tuple[str, str] | None:
    """What is wrong with host, port or database number."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the port is no port", _QUOTING
    if scheme in {"unix", "redis+socket"}:
        if parts.path in {"", "/"}:
            return "the path of the socket is missing", f"{scheme}:///run/redis/redis.sock"
        return None
    if not parts.hostname or parts.fragment or port == 0:
        what = "the port is no port" if port == 0 else "the host is missing or cut off by a #"
        return what, _QUOTING
    if not re.fullmatch(r"/?\d*", parts.path):
        return "the database is not a number", "for example …:6379/0; in a password write / as %2F"
    return None


def _options_problem(url: str, scheme: str) -> tuple[str, str] | None:
    """What is wrong with what stands behind the `?`."""
    known = _OPTIONS[scheme]
    for name, value in parse_qsl(url.partition("?")[2], keep_blank_values=True):
        if name in _TLS_OPTIONS and scheme == "redis":
            return f"{name} is for TLS, and redis:// is plain", "write rediss:// for TLS"
        if name not in known:
            near = did_you_mean(name, known) or f"known here: {', '.join(sorted(known))}"
            return f"the address has an unknown option {name!r}", near
        if name == "ssl_cert_reqs" and value not in {"required", "none"}:
            return f"ssl_cert_reqs={value} means nothing", "required (the default), or none: trust anybody"
        if name in {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"} and not Path(value).is_absolute():
            return f"{name} must be an absolute path", "workers read it from other directories"
        if name in {"db", "virtual_host"} and not value.isdigit():
            return f"the database {value!r} is not a number", f"for example ?{name}=0"
    return None


def for_redis(url: str) -> str:
    """The address as redis-py writes it."""
    if not url.startswith("redis+socket://"):
        return url
    path, _, query = url.removeprefix("redis+socket://").partition("?")
    return f"unix://{path}?db={query.removeprefix('virtual_host=') or 0}"


def for_celery(url: str) -> str:
    """The address as kombu and Celery's result backend write it; TLS is always asked for in so many words."""
    if url.startswith("unix://"):
        path, _, query = url.removeprefix("unix://").partition("?")
        return f"redis+socket://{path}?virtual_host={query.removeprefix('db=') or 0}"
    if not url.startswith(("redis://", "rediss://")):
        return url
    base, _, query = url.partition("?")
    options = dict(parse_qsl(query))
    database = options.pop("db", "")
    if database:
        parts = urlsplit(base)
        base = f"{parts.scheme}://{parts.netloc}/{database}"
    if url.startswith("rediss://"):
        options.setdefault("ssl_cert_reqs", "required")
    tail = "&".join(f"{name}={quote(value, safe='/')}" for name, value in options.items())
    return f"{base}?{tail}" if tail else base
