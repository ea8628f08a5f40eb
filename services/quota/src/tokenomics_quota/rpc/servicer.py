"""QuotaService, put together from the parts that serve it."""

from tokenomics.quota.v1.quota_pb2_grpc import QuotaServiceServicer
from tokenomics_chassis.rpc.parts import joined
from tokenomics_quota.rpc.advice import Advice
from tokenomics_quota.rpc.balances import Balances
from tokenomics_quota.rpc.budgets import Budgets
from tokenomics_quota.rpc.checks import Checks
from tokenomics_quota.rpc.drifts import Drifts
from tokenomics_quota.rpc.holds import Holds
from tokenomics_quota.rpc.interventions import Interventions
from tokenomics_quota.rpc.leases import Leases
from tokenomics_quota.rpc.looks import Looks
from tokenomics_quota.rpc.policies import Policies
from tokenomics_quota.rpc.simulations import Simulations
from tokenomics_quota.rpc.sources import Sources
from tokenomics_quota.rpc.trails import Trails

PARTS = (
    Checks,
    Balances,
    Budgets,
    Advice,
    Policies,
    Holds,
    Leases,
    Looks,
    Trails,
    Sources,
    Interventions,
    Drifts,
    Simulations,
)
"""Each method of the contract is served by one of them; what none has answers UNIMPLEMENTED."""


def quota_servicer(*parts: object) -> QuotaServiceServicer:
    """Return the service that these parts, one of each class in :data:`PARTS`, serve together."""
    assert {type(part) for part in parts} == set(PARTS)
    return joined(QuotaServiceServicer, parts)  # type: ignore[type-abstract] # only its stubs are abstract
