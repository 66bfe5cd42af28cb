"""Reading the report that pytest leaves: which tests there were, and how each ended.

The file was written by the code under test as far as anybody can know: its size is capped, entities are
refused, and what cannot be read is no report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

#: Bytes of a report (some 200,000 tests).
REPORT_MAX_BYTES = 64 * 1024 * 1024
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_RANK = {PASSED: 0, SKIPPED: 1, FAILED: 2}


class _RefusedError(Exception):
    """The report declares an entity."""


@dataclass(slots=True)
class _Parsing:
    """The test that is being read, and those before it."""

    outcomes: dict[str, str] = field(default_factory=dict)
    test: str = ""
    outcome: str = PASSED

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if tag == "testcase":
            names = (attributes.get(name, "") for name in ("file", "classname", "name"))
            self.test = "::".join(name for name in names if name)
            self.outcome = PASSED
        elif tag in {"failure", "error"}:
            # A file that could not be imported is listed as a test; it is none.
            is_file = attributes.get("message") == "collection failure"
            self.test, self.outcome = ("" if is_file else self.test), FAILED
        elif tag == "skipped" and self.outcome == PASSED:
            self.outcome = SKIPPED

    def end(self, tag: str) -> None:
        """An element ends."""
        if tag == "testcase" and self.test:
            known = self.outcomes.get(self.test, PASSED)
            self.outcomes[self.test] = max(known, self.outcome, key=_RANK.__getitem__)


def read_report(path: Path) -> dict[str, str] | None:
    """Outcome (`passed`, `failed`, `skipped`) of each test id; None when there is no readable report."""
    parsing = _Parsing()
    parser = expat.ParserCreate()
    parser.StartElementHandler = parsing.start
    parser.EndElementHandler = parsing.end
    parser.EntityDeclHandler = _refuse
    try:
        if path.is_symlink() or path.stat().st_size > REPORT_MAX_BYTES:
            return None
        parser.Parse(path.read_bytes(), True)
    except (OSError, expat.ExpatError, _RefusedError):
        return None
    return parsing.outcomes


def _refuse(*_: object) -> None:
    raise _RefusedError
