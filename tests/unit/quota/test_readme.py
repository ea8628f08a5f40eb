"""What the README says about the API is what the servicers serve."""

from pathlib import Path

from tokenomics.operations.v1 import operations_pb2
from tokenomics.quota.v1 import quota_pb2
from tokenomics_chassis.rpc.operations import OperationsServicer
from tokenomics_chassis.rpc.parts import methods_of
from tokenomics_quota.rpc.servicer import PARTS

README = Path(__file__).parents[3] / "README.md"
PARTS_OF = {
    quota_pb2.DESCRIPTOR.services_by_name["QuotaService"]: PARTS,
    operations_pb2.DESCRIPTOR.services_by_name["OperationsService"]: (OperationsServicer,),
}


def test_the_readme_lists_the_rpcs_that_are_not_served_yet() -> None:
    section = README.read_text().partition("<!-- unserved rpcs: begin -->")[2].partition("<!--")[0]
    listed = {
        row.split("|")[1].strip(" `"): {name.strip(" `") for name in row.split("|")[2].split(",")}
        for row in section.strip().splitlines()[2:]
    }
    unserved = {
        service.name: {method.name for method in service.methods}.difference(*map(methods_of, parts))
        for service, parts in PARTS_OF.items()
    }
    assert listed == {name: methods for name, methods in unserved.items() if methods}
