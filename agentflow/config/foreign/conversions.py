"""What values of older systems become."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from agentflow.agents import builtin_roles, find_role
from agentflow.config.foreign.rules import Convert, Draft, Steps, Unfit, put
from agentflow.fields import slug
from agentflow.places import masked

#: Slots of one worker process, as `fleet.slots_per_worker` says when nobody else does.
SLOTS_PER_WORKER = 32
#: Command-line agents, told to work without asking and to read the prompt from a file.
AGENT_COMMANDS: Mapping[str, str] = {
    "claude": 'claude -p --permission-mode acceptEdits < "$1"',
    "codex": 'codex exec --sandbox workspace-write - < "$1"',
    "gemini": 'gemini --approval-mode auto_edit -p "$(cat "$1")"',
}
#: Endpoints by the name of their provider, and the variable with the key.
ENDPOINTS: Mapping[str, tuple[str | None, str]] = {
    "openai": (None, "OPENAI_API_KEY"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "ollama": ("http://localhost:11434/v1", "OLLAMA_API_KEY"),
}
_PRIORITIES = ("critical", "high", "medium", "low")
_FROM_ENVIRONMENT = re.compile(r"\$\{[A-Za-z_]\w*(?::-[^}]*)?\}")


def number(value: Any, *, whole: bool = False, least: float = 0) -> Any:
    """A number; one that comes from the environment stays as it is written. Raises `Unfit`."""
    if isinstance(value, str) and _FROM_ENVIRONMENT.fullmatch(value):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Unfit(f"expected a number, got {value!r}")
    if value < least:
        raise Unfit(f"{value} is below {least:g}")
    return round(value) if whole else value


def text(value: Any) -> str:
    """A string that is not empty. Raises `Unfit`."""
    if not isinstance(value, str) or not value.strip():
        raise Unfit("nothing is given" if value in (None, "") else f"expected a text, got {value!r}")
    return value


def to_name(ours: str) -> Convert:
    """A name of ours made of any text."""

    def convert(draft: Draft, steps: Steps, value: Any) -> str:
        return put(ours)(draft, steps, slug(text(value)))

    return convert


def to_text(ours: str) -> Convert:
    """A text as it is."""

    def convert(draft: Draft, steps: Steps, value: Any) -> str:
        return put(ours)(draft, steps, text(value))

    return convert


def to_number(
    ours: str, *, per: float = 1, whole: bool = False, least: float = 0, remark: str = ""
) -> Convert:
    """A number divided by `per` (60: seconds become minutes)."""

    def convert(draft: Draft, steps: Steps, value: Any) -> str:
        found = number(value, whole=whole and per == 1, least=least)
        if not isinstance(found, str) and per != 1:
            found = round(found / per, 3)
        return put(ours)(draft, steps, found) + (f"; {remark}" if remark else "")

    return convert


def to_slots(ours: str, remark: str = "their worker does one task at a time: that is a slot here") -> Convert:
    """A count of their workers, which are our slots."""
    return to_number(ours, whole=True, least=1, remark=remark)


def to_processes(ours: str) -> Convert:
    """A count of their workers as worker processes of ours, which have many slots each."""

    def convert(draft: Draft, steps: Steps, value: Any) -> str:
        found = number(value, whole=True)
        if isinstance(found, str):
            raise Unfit("a count of agents from the environment cannot be turned into processes")
        processes = math.ceil(found / SLOTS_PER_WORKER)
        ours_key = put(ours)(draft, steps, processes)
        return f"{ours_key}; processes of {SLOTS_PER_WORKER} slots, for {found} agents"

    return convert


def to_flag(ours: str) -> Convert:
    """True or false."""

    def convert(draft: Draft, steps: Steps, value: Any) -> str:
        if not isinstance(value, bool):
            raise Unfit(f"expected true or false, got {value!r}")
        return put(ours)(draft, steps, value)

    return convert


# -- Redis -----------------------------------------------------------------------------------------


def redis_part(part: str) -> Convert:
    """One part of the address; the parts are put together when all are known."""

    def convert(draft: Draft, _steps: Steps, value: Any) -> str:
        if value is None or value == "":
            raise Unfit("nothing is given")
        if part == "ssl" and not isinstance(value, bool):
            raise Unfit(f"expected true or false, got {value!r}")
        draft.redis[part] = value
        draft.sources.setdefault(("redis", "url"), []).append(draft.key)
        if part == "password" and not _from_environment(value):
            return "redis.url; the password itself is not written: set REDIS_PASSWORD"
        return "redis.url"

    return convert


def redis_url(draft: Draft, _steps: Steps, value: Any) -> str:
    """A whole address; its password is taken from the environment."""
    address = text(value)
    secret = re.search(r"(?<=//)([^/@\s:]*):(.+)@", address)
    remark = ""
    if secret and not _FROM_ENVIRONMENT.search(secret[2]):
        address = address.replace(f":{secret[2]}@", ":${REDIS_PASSWORD:-}@", 1)
        remark = "; the password itself is not written: set REDIS_PASSWORD"
    return draft.set(("redis", "url"), address) + remark


def put_redis_together(draft: Draft) -> None:
    """The address out of its parts, when the file gave parts."""
    parts = draft.redis
    if not parts or ("redis", "url") in draft.values:
        return
    secret = parts.get("password")
    if secret is not None and not _from_environment(secret):
        secret = "${REDIS_PASSWORD:-}"  # noqa: S105 (names the variable)
    user = quote(str(parts["username"]), safe="${}:-") if "username" in parts else ""
    login = f"{user}:{secret}@" if secret is not None else (f"{user}@" if user else "")
    scheme = "rediss" if parts.get("ssl") else "redis"
    place = f"{parts.get('host', 'localhost')}:{parts.get('port', 6379)}"
    draft.values["redis", "url"] = f"{scheme}://{login}{place}/{parts.get('db', 0)}"


def _from_environment(value: Any) -> bool:
    return isinstance(value, str) and bool(_FROM_ENVIRONMENT.fullmatch(value))


# -- roles -----------------------------------------------------------------------------------------


def role_of(word: str) -> str:
    """Our role for a word of theirs, else a new role's name."""
    roles = builtin_roles()
    return find_role(word, roles) or find_role(slug(word), roles) or slug(word)


def role(key: str) -> Convert:
    """A text, number or list of a role; `steps[0]` is their word for the role."""

    def convert(draft: Draft, steps: Steps, value: Any) -> str:
        if value is None or value in ("", []):
            raise Unfit("nothing is given")
        if key in {"instructions", "model"}:
            value = text(value)
        elif key == "temperature":
            value = number(value)
        elif key == "max_tokens":
            value = number(value, whole=True, least=1)
        return draft.set(("roles", role_of(steps[0]), key), value)

    return convert


def role_limit(draft: Draft, steps: Steps, value: Any) -> str:
    """Attempts of a role at once, over all workers."""
    name = role_of(steps[0])
    found = number(value, whole=True, least=1)
    if name not in builtin_roles():
        draft.values.setdefault(("roles", name), {})
    return draft.set(("limits", "roles", name), found)


def role_tokens(draft: Draft, steps: Steps, value: Any) -> str:
    """Tokens that a role may spend, of one run here."""
    name = role_of(steps[0])
    found = number(value, whole=True, least=1)
    if name not in builtin_roles():
        draft.values.setdefault(("roles", name), {})
    return draft.set(("budget", "roles", name, "tokens"), found) + "; of each run"


def role_priority(draft: Draft, steps: Steps, value: Any) -> str:
    """`high`, or a number of which 1 is the most urgent."""
    word = value.lower() if isinstance(value, str) else None
    if word is None and isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        word = _PRIORITIES[min(value, len(_PRIORITIES)) - 1]
    if word not in _PRIORITIES:
        raise Unfit(f"expected one of {', '.join(_PRIORITIES)} or a number from 1, got {value!r}")
    return draft.set(("roles", role_of(steps[0]), "priority"), word)


def role_edges(key: str) -> Convert:
    """What a role depends on (roles of ours) or provides (names)."""

    def convert(draft: Draft, steps: Steps, value: Any) -> str:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise Unfit(f"expected a list of names, got {value!r}")
        if not value:
            raise Unfit("the list is empty")
        names = [role_of(item) if key == "depends_on" else slug(item) for item in value]
        return draft.set(("roles", role_of(steps[0]), key), names)

    return convert


# -- runners ---------------------------------------------------------------------------------------


def provider(draft: Draft, _steps: Steps, value: Any) -> str:
    """An endpoint by its provider's name."""
    word = text(value).lower()
    if word not in ENDPOINTS:
        raise Unfit(f"no endpoint is known for {word!r}: set runners.agno.base_url and api_key_env")
    address, variable = ENDPOINTS[word]
    path = ("runners", "agno")
    if address:
        draft.set((*path, "base_url"), address)
    return draft.set((*path, "api_key_env"), variable) + f"; put the key into {variable}"


def openai_runner(key: str, convert: Convert | None = None) -> Convert:
    """A key of the runner that stands for their model; it becomes the default runner."""

    def apply(draft: Draft, steps: Steps, value: Any) -> str:
        made = (convert or to_text(f"runners.agno.{key}"))(draft, steps, value)
        here, draft.key = draft.key, ""
        draft.set(("runners", "agno", "type"), "openai")
        draft.set(("default_runner",), "agno")
        draft.key = here
        return made

    return apply


def agent_command(draft: Draft, steps: Steps, value: Any) -> str:
    """A command-line agent; one that is switched off is left out."""
    word = text(value)
    if draft.at("providers", steps[0], "enabled", default=True) is False:
        raise Unfit("the provider is switched off")
    line = AGENT_COMMANDS.get(word, f'{word} < "$1"')
    remark = "" if word in AGENT_COMMANDS else "; the prompt goes to its input: look whether it wants that"
    path = ("runners", slug(steps[0]))
    _default_agent(draft)
    return draft.set((*path, "command"), ["sh", "-c", line, "sh", "{prompt_file}"]) + remark


def agent_timeout(draft: Draft, steps: Steps, value: Any) -> str:
    """Milliseconds of one call, as seconds."""
    if draft.at("providers", steps[0], "enabled", default=True) is False:
        raise Unfit("the provider is switched off")
    if not draft.at("providers", steps[0], "command"):
        raise Unfit("the provider has no command")
    found = number(value, least=1)
    if isinstance(found, str):
        raise Unfit("milliseconds from the environment cannot be turned into seconds")
    return draft.set(("runners", slug(steps[0]), "timeout"), round(found / 1000, 3))


def agent_priority(draft: Draft, steps: Steps, value: Any) -> str:
    """The first in rank is the default runner; falling back to the others is not built yet."""
    number(value)
    first = _default_agent(draft)
    if first is None or slug(steps[0]) != first:
        raise Unfit("falling back from one runner to another is not built yet")
    return draft.set(("default_runner",), first)


def _default_agent(draft: Draft) -> str | None:
    """The enabled provider with a command that is first in rank."""
    able = {
        name: given
        for name, given in (draft.at("providers", default={}) or {}).items()
        if isinstance(given, dict) and given.get("enabled", True) is not False and given.get("command")
    }
    if not able:
        return None
    first = slug(min(able, key=lambda name: _rank(able[name])))
    draft.values.setdefault(("default_runner",), first)
    return first


def _rank(given: Mapping[str, Any]) -> float:
    priority = given.get("priority")
    return float(priority) if isinstance(priority, (int, float)) else math.inf


def shown(value: Any) -> str:
    """A value in the table: short, passwords masked."""
    line = masked(str(value)).replace("\n", " ")
    return line if len(line) <= 40 else f"{line[:37]}..."  # noqa: PLR2004 (columns)
