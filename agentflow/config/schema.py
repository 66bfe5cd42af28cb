"""The published JSON Schema of agentflow.yaml, made from the models so that the two cannot drift apart."""

from __future__ import annotations

from typing import Any

from agentflow.config.sections import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of agentflow.yaml; sections of later versions are marked `x-not-built`."""
    schema = Settings.model_json_schema(mode="validation")
    # How many slots a machine has by itself is no part of the form.
    schema["properties"]["slots"].pop("default", None)
    return {"$schema": DIALECT, **schema, "title": "agentflow configuration"}
