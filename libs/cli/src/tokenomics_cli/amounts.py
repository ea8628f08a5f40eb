"""Amounts of money as commands take them: US dollars, exact to the micro-USD."""

from decimal import Decimal

from tokenomics_cli.failures import CommandError, Exit
from tokenomics_cli.output import usd

_MICRO = 1_000_000


def micro_usd(option: str, text: str, *, smallest: int, largest: int) -> int:
    """Read an amount of US dollars.

    Parameters
    ----------
    smallest, largest
        Bounds, in micro-USD.

    Raises
    ------
    CommandError
        It is no amount within the bounds, or has more than six decimals.
    """
    try:
        amount = Decimal(text) * _MICRO
        if smallest <= amount <= largest and amount == int(amount):
            return int(amount)
    except ArithmeticError:
        pass
    raise CommandError(
        f"{option}: {text} should be an amount with six decimals at most, {usd(smallest)} to {usd(largest)}",
        Exit.USAGE,
    )
