"""The published JSON Schema of a spec, made from the models so that the two cannot drift apart."""

from __future__ import annotations

from typing import Any

from agentflow.spec.models import Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a spec in our own keys.

    It knows fields and values that are not built yet, marked `x-not-built` where they are whole fields;
    what holds between fields (ids, needs, cycles, roles) only `load_spec` checks.
    """
    schema = Spec.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": DIALECT, **schema, "title": "agentflow spec"}
