"""The same by statsmodels: exponential smoothing with a season of a week, additive, and simulated paths."""

import warnings
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from typing import Any, Final

from tokenomics_contracts.units import MicroUsd
from tokenomics_quota.domain.forecast import Forecast, forecast
from tokenomics_tools.forecast.backtest import Method

_HISTORY: Final = timedelta(weeks=12)
_TWO_SEASONS: Final = 14
_PATHS: Final = 200
_LOW, _HIGH = 0.1, 0.9


def exponential_smoothing() -> Method | None:
    """Return the method; ``None`` where statsmodels is not installed."""
    try:
        numpy, models = import_module("numpy"), import_module("statsmodels.tsa.holtwinters")
    except ModuleNotFoundError:
        return None

    def method(
        days: Mapping[date, MicroUsd], posted: MicroUsd, now: datetime, end: datetime
    ) -> Forecast | None:
        today = now.astimezone(UTC).date()
        first = max(min(days, default=today), today - _HISTORY)
        used = [days.get(first + timedelta(days=number), 0) / 1e6 for number in range((today - first).days)]
        if len(used) <= _TWO_SEASONS:  # it needs two weeks
            return forecast(days, posted, now, end)
        rest = _rest(numpy, models, used, (end - now).days)
        return Forecast(*(MicroUsd(posted + int(each * 1e6)) for each in rest))

    return method


def _rest(numpy: Any, models: Any, used: list[float], days_left: int) -> tuple[float, float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = models.ExponentialSmoothing(
            numpy.array(used), seasonal="add", seasonal_periods=7, initialization_method="estimated"
        )
        fitted = model.fit()
        paths = fitted.simulate(days_left, repetitions=_PATHS, rng=numpy.random.default_rng(1))
    expected = float(numpy.maximum(fitted.forecast(days_left), 0).sum())
    sums = numpy.maximum(paths, 0).sum(axis=0)
    return expected, float(numpy.quantile(sums, _LOW)), float(numpy.quantile(sums, _HIGH))
