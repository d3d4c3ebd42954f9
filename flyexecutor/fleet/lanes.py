"""What the calls of an executor need of their machines, and how many of these there may be. No thread.

Executors that want the same machines share it, so that limits hold for all of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flyexecutor.errors import SettingsError
from flyexecutor.fleet.config import MachineSpec, make_lane
from flyexecutor.fleet.guests import Prices, guest_of, larger_guests, name_guest
from flyexecutor.lane import Lane
from flyexecutor.settings import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """How many machines of a lane there may be at a time."""

    max_workers: int
    max_cost_per_hour: float | None  # dollars


class Lanes:
    """The lane of one specification, and those of ever larger machines."""

    def __init__(
        self,
        spec: MachineSpec,
        limits: Limits,
        settings: Settings,
        prices: Prices,
        lane: Lane | None = None,
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._prices = prices
        self.limits = limits
        self.lane = lane or self._make(spec, limits)  # given inside a machine: others see to its machines
        self._larger: list[Lane] | None = None  # made when a call needs them

    def of_others(self, **needs: Any) -> "Lanes":
        """The same for machines that differ in this."""
        return Lanes(replace(self._spec, **needs), self.limits, self._settings, self._prices)

    def set_limits(self, limits: Limits) -> Sequence[Lane]:
        """From now on; answers the lanes for which they hold. Raises SettingsError, and then nothing has changed."""
        lane = self._make(self._spec, limits)
        larger = None if self._larger is None else self._make_larger(lane, limits)
        self.limits, self.lane, self._larger = limits, lane, larger
        return [lane, *(larger or ())]

    def larger(self, know: Callable[[Iterable[Lane]], None]) -> Sequence[str]:
        """The names of the lanes of ever larger machines; `know` hears of them before any call does."""
        if self._larger is None:
            larger = self._make_larger(self.lane, self.limits)
            know(larger)
            self._larger = larger
        return [lane.name for lane in self._larger]

    def _make_larger(self, lane: Lane, limits: Limits) -> list[Lane]:
        return [self._make(replace(self._spec, guest=guest), limits) for guest in larger_guests(guest_of(lane.config))]

    def _make(self, spec: MachineSpec, limits: Limits) -> Lane:
        lane = make_lane(spec, self._settings, limits.max_workers)
        if limits.max_cost_per_hour is None:
            return lane
        try:
            number = affordable(lane, self._prices, limits.max_cost_per_hour)
        except ValueError as exc:
            raise SettingsError(f"max_cost_per_hour is {limits.max_cost_per_hour!r}: {exc}") from None
        fewer = min(limits.max_workers, number)
        return replace(lane, max_workers=fewer, others=tuple(replace(one, max_workers=fewer) for one in lane.others))


def affordable(lane: Lane, prices: Prices, max_cost_per_hour: float) -> int:
    """How many machines of a lane cost no more than so many dollars an hour; raises ValueError that says why none."""
    guest = guest_of(lane.config)
    price = prices.per_second(guest, lane.region)
    if price is None:
        raise ValueError(f"the price of a {name_guest(guest)} is not known")
    number = int(max_cost_per_hour / (price * 3600) + 1e-9)
    if number < 1:
        raise ValueError(f"one {name_guest(guest)} costs about ${price * 3600:.4f} an hour (estimated)")
    return number
