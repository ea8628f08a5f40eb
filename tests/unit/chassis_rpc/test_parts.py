"""A service put together from parts."""

import pytest

from tokenomics_chassis.rpc.parts import joined


class Base:
    def Ask(self) -> str:  # noqa: N802 - as generated code names methods
        return "unimplemented"

    def Tell(self) -> str:  # noqa: N802 - as generated code names methods
        return "unimplemented"


class Asking:
    def Ask(self) -> str:  # noqa: N802 - as generated code names methods
        return "asked"


class Shouting:
    def Shout(self) -> str:  # noqa: N802 - as generated code names methods
        return "!"


def test_each_method_is_its_parts_and_the_rest_stays_the_bases() -> None:
    service = joined(Base, [Asking()])
    assert (service.Ask(), service.Tell()) == ("asked", "unimplemented")
    assert Base().Ask() == "unimplemented"


@pytest.mark.parametrize("parts", [[Asking(), Asking()], [Shouting()]])
def test_a_method_served_twice_or_not_in_the_contract_is_refused(parts: list[object]) -> None:
    with pytest.raises(ValueError, match="served already or not in the contract"):
        joined(Base, parts)
