"""The ledger's scripts with a change in their text: broken on purpose, or under another clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources

from agentflow.store import scripts


def all_texts() -> dict[str, str]:
    """Every script as it is sent to the server, by name; shared pieces are part of each."""
    folder = resources.files("agentflow.store") / "lua"
    names = [file.name.removesuffix(".lua") for file in folder.iterdir() if file.name.endswith(".lua")]
    return {name: scripts.source(name) for name in names}


@contextmanager
def rewritten(edit: Callable[[str], str]) -> Iterator[None]:
    """Run the block with every script's text passed through `edit`."""
    whole = scripts.source

    def source(name: str) -> str:
        return edit(whole(name))

    scripts.source = source  # type: ignore[assignment]
    scripts._digest.cache_clear()
    try:
        yield
    finally:
        scripts.source = whole
        scripts._digest.cache_clear()


@contextmanager
def broken(old: str, new: str) -> Iterator[None]:
    """Run the block with `old` replaced by `new`, wherever it stands. It must stand somewhere."""
    assert any(old in text for text in all_texts().values()), f"no script has {old!r} any more"
    with rewritten(lambda text: text.replace(old, new)):
        yield
