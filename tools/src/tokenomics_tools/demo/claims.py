"""Claims, each checked and printed as one line."""

from rich.console import Console
from rich.text import Text

from tokenomics_chassis.clock import Clock


class Claims:
    """Prints each claim as it is checked, and knows whether all held."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._began = clock.now()
        self._failed = 0
        self._checked = 0

    @property
    def all_held(self) -> bool:
        """Whether at least one claim was checked and none failed."""
        return self._checked > 0 and not self._failed

    def announce(self, step: str) -> None:
        """Say what is done next, so that nobody wonders why it takes a while."""
        self._console.print(Text(f"… {step}", "dim"))

    def check(self, claim: str, *, held: bool, figures: str) -> None:
        """Print a claim with its figures and remember whether it held."""
        self._checked += 1
        self._failed += not held
        elapsed = f"  [{self._seconds():.0f} s]"
        mark = ("✓ ", "bold green") if held else ("✗ ", "bold red")
        self._console.print(Text.assemble(mark, (claim, "bold"), f": {figures}", (elapsed, "dim")))

    def check_time(self, claim: str, *, within_seconds: int) -> None:
        """Claim that all this took no longer."""
        seconds = self._seconds()
        self.check(claim, held=seconds <= within_seconds, figures=f"{seconds:.0f} s")

    def summary(self) -> str:
        """Say how many held."""
        return f"{self._checked - self._failed} of {self._checked} claims held"

    def _seconds(self) -> float:
        return (self._clock.now() - self._began).total_seconds()
