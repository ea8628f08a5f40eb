"""Every method of the contracts is served."""

from tokenomics.operations.v1 import operations_pb2
from tokenomics.quota.v1 import quota_pb2
from tokenomics_chassis.rpc.operations import OperationsServicer
from tokenomics_chassis.rpc.parts import methods_of
from tokenomics_quota.rpc.servicer import PARTS

PARTS_OF = {
    quota_pb2.DESCRIPTOR.services_by_name["QuotaService"]: PARTS,
    operations_pb2.DESCRIPTOR.services_by_name["OperationsService"]: (OperationsServicer,),
}


def test_every_rpc_is_served() -> None:
    unserved = {
        service.name: {method.name for method in service.methods}.difference(*map(methods_of, parts))
        for service, parts in PARTS_OF.items()
    }
    assert not any(unserved.values()), unserved
