"""The environment of an attempt's commands: built from an allow-list, never the worker's own.

Keys, broker addresses and whatever else the worker was started with stay out of reach (ATTACKS A03).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

#: What programs need to find themselves, their user's files and their language.
ALLOWED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


def surroundings(
    run: str, node: str, attempt: int, own: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The whole environment of a node's commands; `own` is what the spec gives it."""
    allowed = {name: environ[name] for name in ALLOWED if name in environ}
    return {
        **allowed,
        **own,
        "AGENTFLOW_RUN": run,
        "AGENTFLOW_NODE": node,
        "AGENTFLOW_ATTEMPT": str(attempt),
    }
