"""What the calls of an executor need of their machines, and how many of these there may be. No thread.

Executors that want the same machines share it, so that limits hold for all of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flyexecutor.arguments import check_integers, check_numbers
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

    def __post_init__(self) -> None:
        check_integers(1, max_workers=self.max_workers)
        check_numbers(0, max_cost_per_hour=self.max_cost_per_hour)


class Lanes:
    """The lane of one specification, and those of ever larger machines."""

    def __init__(self, spec: MachineSpec, limits: Limits, settings: Settings, prices: Prices) -> None:
        self._spec = spec
        self._settings = settings
        self._prices = prices
        self.limits = limits
        self.lane = _lane_of_this_machine(settings) if settings.lane else self._make(spec, limits)
        self._larger: list[Lane] | None = None  # made when a call needs them

    def of_others(self, **needs: Any) -> "Lanes":
        """The same for machines that differ in this."""
        return Lanes(replace(self._spec, **needs), self.limits, self._settings, self._prices)

    def set_limits(self, max_workers: int | None, max_cost_per_hour: float | None) -> Sequence[Lane]:
        """From now on; what is None stays. Answers the lanes for which they hold.

        Raises SettingsError, and then nothing has changed.
        """
        given: dict[str, Any] = {"max_workers": max_workers, "max_cost_per_hour": max_cost_per_hour}
        limits = replace(self.limits, **{name: value for name, value in given.items() if value is not None})
        lane = self._make(self._spec, limits)
        larger = None if self._larger is None else self._make_larger(lane, limits)
        self.limits, self.lane, self._larger = limits, lane, larger
        return [lane, *(larger or ())]

    def refuse_more_than_may_run(self, number: int) -> None:
        """Raises SettingsError for more machines than there may be at a time."""
        most, wanted = self.lane.max_workers, self.limits.max_workers
        if number > most:
            why = f"max_workers is {wanted}, and no more machines"
            if most < wanted:
                why = f"max_cost_per_hour lets {most} of max_workers={wanted}, and no more machines"
            raise SettingsError(f"number is {number}: {why} run at a time: prepare up to {most}, or raise that limit")

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
        return replace(
            lane, max_workers=fewer, others=tuple(replace(other, max_workers=fewer) for other in lane.others)
        )


def _lane_of_this_machine(settings: Settings) -> Lane:
    # Others see to the machines.
    return Lane(settings.lane, config={}, regions=settings.regions, max_workers=0, concurrency=1, boot_timeout=120.0)


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
