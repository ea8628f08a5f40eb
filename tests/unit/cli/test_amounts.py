"""Amounts of money are read exactly, or refused with the option's name."""

import pytest

from tokenomics_cli.amounts import micro_usd
from tokenomics_cli.failures import CommandError, Exit

LARGEST = 10**15


@pytest.mark.parametrize(
    ("text", "amount"),
    [("50", 50_000_000), ("0.000001", 1), ("1e3", 1_000_000_000), ("12.345678", 12_345_678)],
)
def test_an_amount_is_exact_to_the_micro_usd(text: str, amount: int) -> None:
    assert micro_usd("--amount-usd", text, smallest=1, largest=LARGEST) == amount


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "0.0000001", "NaN", "Infinity", "1e999999999", "1000000001", "$5", "1,5"]
)
def test_what_is_no_amount_within_its_bounds_is_refused(text: str) -> None:
    with pytest.raises(
        CommandError, match=r"--amount-usd: .* \$0.000001 to \$1,000,000,000.000000"
    ) as refused:
        micro_usd("--amount-usd", text, smallest=1, largest=LARGEST)
    assert refused.value.exit_code is Exit.USAGE
