"""An AI call as commands take it: one set of options for all that ask about one."""

from enum import StrEnum
from typing import Annotated

import typer

from tokenomics.quota.v1 import quota_pb2
from tokenomics_contracts.units import MAX_TOKENS


class ServiceTier(StrEnum):
    """The provider's class of service."""

    STANDARD = "standard"
    BATCH = "batch"
    PRIORITY = "priority"


Caller = Annotated[str, typer.Argument(metavar="SUBJECT", help="who calls the model: an id, or alias:<hex>")]
Provider = Annotated[str, typer.Option(help="e.g. anthropic")]
Model = Annotated[str, typer.Option(help="as the provider writes it")]
InputTokens = Annotated[int, typer.Option(min=0, max=MAX_TOKENS, help="expected, cached ones included")]
CachedInputTokens = Annotated[
    int, typer.Option(min=0, max=MAX_TOKENS, help="of these, expected from the provider's cache")
]
OutputTokens = Annotated[int, typer.Option(min=0, max=MAX_TOKENS, help="expected")]
Tier = Annotated[ServiceTier, typer.Option("--service-tier", help="the provider's class of service")]
Project = Annotated[str, typer.Option(help="project that the call is for")]
UseCase = Annotated[str, typer.Option(help="registered use case that the call serves")]
Experiment = Annotated[
    bool, typer.Option("--experiment", help="it is for trying things out, not for everyday work")
]
DataClass = Annotated[str, typer.Option(help="class of the data in the prompt")]


def call_request(
    subject: str,
    *,
    provider: str,
    model: str,
    input_tokens: int,
    cached_input_tokens: int,
    output_tokens: int,
    service_tier: ServiceTier,
    project: str,
    use_case: str,
    experiment: bool,
    data_class: str,
) -> quota_pb2.CheckQuotaRequest:
    """Return the call that the options name."""
    return quota_pb2.CheckQuotaRequest(
        subject=subject,
        provider=provider,
        model=model,
        estimated_input_tokens=input_tokens,
        estimated_cached_input_tokens=cached_input_tokens,
        estimated_output_tokens=output_tokens,
        service_tier=quota_pb2.ServiceTier.Value(f"SERVICE_TIER_{service_tier.name}"),
        project=project,
        use_case=use_case,
        purpose=quota_pb2.PURPOSE_EXPERIMENT if experiment else quota_pb2.PURPOSE_OPERATIONAL,
        data_class=data_class,
    )
