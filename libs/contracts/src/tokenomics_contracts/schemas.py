"""JSON Schema export, for producers that don't use Python."""

from typing import Any

from tokenomics_contracts.events.policy import DOCUMENT_MODELS
from tokenomics_contracts.registry import EVENT_MODELS

JsonSchema = dict[str, Any]


def schemas() -> dict[str, JsonSchema]:
    """Export every event type's data as `<type>` and every policy document as `policy_document.<kind>`."""
    models = {model.type_name: model for model in EVENT_MODELS} | {
        f"policy_document.{kind}": model for kind, model in DOCUMENT_MODELS.items()
    }
    return {
        name: {"$schema": "https://json-schema.org/draft/2020-12/schema"} | model.model_json_schema()
        for name, model in models.items()
    }
