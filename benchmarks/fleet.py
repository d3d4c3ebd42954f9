"""A fleet's days in virtual time: what our policy costs and how long calls wait, against two other ways.

What a fleet makes of its looks is the package's own (`turns`, `ledger`, `policy`); the lane, the client's requests and
the worker are models that mirror ours (see `_fleet_redis`, `_fleet_ours`, `_fleet_worker`), and so is Fly
(`_fleet_fly`): its documented rate limits, 2 s for a boot, 0.3 s for a resumption, 0.3 s for a suspension or an end,
which is billed, one death per 100 hours of a machine.
Round trips take no time. "billed" counts from the request to the rest, to be on the safe side; "by Fly" from `started`
on, as Fly bills. A wait is from a call's arrival to its first begin. FLAME's pool tries one boot a second after a 429.
"""

import random
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from benchmarks._fleet_fly import Times
from benchmarks._fleet_work import Result, Work, default_rules, fan_out, flame, one_per_call, ours, trickle, web_day

SEED = 1
COLUMNS = ("", "p50", "p95", "billed", "by Fly", "creates", "starts", "429s", "lost")


def simulate_fan_out(
    calls: int,
    seconds: float,
    machines: int,
    *,
    warm: int | None = None,
    boot: float = 2.0,
    resume: float = 0.3,
    rest: float = 0.3,
    create_every: float = 1.0,
    start_cost: float = 0.0,
    call_cost: float = 0.0,
    deaths: float = 0.0,
    idle_timeout: float | None = None,
    seed: int = SEED,
) -> float:
    """The makespan of so many calls at once with our policy: seconds from the first submit to the last end.

    warm: suspended machines that are there before; None: all. create_every: seconds between two creates after the first
    three, of Fly's limit and of our pacing. start_cost: the client's work for each start, one after the other.
    call_cost: what a call takes beside its own `seconds`. deaths: per hour of a machine.
    """
    work = fan_out(calls, seconds + call_cost, machines, machines if warm is None else warm)
    times = Times(boot=boot, resume=resume, rest=rest, deaths=deaths, create_every=create_every)
    rules = replace(default_rules(machines, idle_timeout=idle_timeout), create_every=create_every)
    return ours(work, seed, times, rules, start_cost).makespan


def main() -> None:
    """Simulate and print."""
    print(f"\na fleet in virtual time, seed {SEED}", flush=True)
    _show(trickle(random.Random(SEED)), "none")
    day = web_day(random.Random(SEED))
    slower = {"ours, idle_timeout=2": ours(day, SEED, rules=default_rules(idle_timeout=2.0))}
    slower |= {"ours, warm=1": ours(day, SEED, rules=default_rules(warm=1))}
    results = _show(day, "billed <= 1.15 of the useful seconds", slower)
    _judge(results["ours"].billed_over_useful, 1.15)
    warm = fan_out(500, 10.0, 100, 100)
    results = _show(warm, "a makespan <= 1.1 of the ideal one")
    _judge(results["ours"].makespan / warm.ideal, 1.1)
    _show(fan_out(500, 10.0, 100, 0), "none")
    _show(fan_out(50_000, 60.0, 10_000, 10_000), "none")


def _show(work: Work, goal: str, others: Mapping[str, Result] = MappingProxyType({})) -> Mapping[str, Result]:
    results = {
        "ours": ours(work, SEED),
        **others,
        "one machine per call": one_per_call(work, SEED),
        "FLAME's way": flame(work, SEED),
    }
    at_once = work.calls[-1][0] == 0.0
    what = "makespan / ideal" if at_once else "wait, s"
    print(f"\n{work.name}\n  up to {work.max_workers:,} machines; goal: {goal}", flush=True)
    head = "".join(f"{name:>9}" for name in (*(("makespan",) if at_once else COLUMNS[1:3]), *COLUMNS[3:]))
    print(f"  {what:<34}{head}   at the end", flush=True)
    for name, result in results.items():
        first = [result.makespan / work.ideal] if at_once else [result.wait(0.5), result.wait(0.95)]
        bill = result.bill
        ratios = [*first, result.billed_over_useful, bill.fly_seconds / result.useful]
        counts = [bill.creates, bill.starts, bill.refused, result.lost]
        cells = "".join(f"{ratio:>9.2f}" for ratio in ratios) + "".join(f"{count:>9,}" for count in counts)
        print(f"  {name:<34}{cells}   {_tell_end(result)}", flush=True)
    return results


def _tell_end(result: Result) -> str:
    if result.running:
        return f"{result.running:,} STILL RUN"
    return f"{len(result.at_end):,} rest" if result.at_end else "none"


def _judge(reached: float, goal: float) -> None:
    print(f"  {'goal reached' if reached <= goal else 'GOAL MISSED'}: {reached:.3f} against {goal}", flush=True)


if __name__ == "__main__":
    main()
