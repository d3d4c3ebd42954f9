"""500 calls on 100 machines, ten times faster than Fly: real processes, the rate limits on, against the simulation.

The machines are there and suspended, as a warm pool is. Time runs ten times faster (`LocalFly(speed=10)`): calls take a
second for ten, a resumption 0.03 s, and creates and lists are limited to ten a second. What the computer itself needs
for 500 calls and 100 resumptions is measured, and told to the simulation: it is not scaled.
"""

import time

from benchmarks.fleet import simulate_fan_out
from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.fleet import launch, lists

CALLS, MACHINES = 500, 100
SECONDS = 1.0  # of a call; ten, scaled
SPEED = 10.0
RESUME = 0.3  # of Fly


def fan_out(executor: FlyMachineExecutor, seconds: float) -> float:
    """The makespan."""
    began = time.perf_counter()
    for future in [executor.submit(time.sleep, seconds) for _ in range(CALLS)]:
        future.result()
    return time.perf_counter() - began


def main() -> None:
    """Measure, simulate and print."""
    launch.CREATE_EVERY = lists.LIST_EVERY = 1.0 / SPEED
    with (
        LocalFly(speed=SPEED, resume=RESUME, show_output=False) as local,
        FlyMachineExecutor(local=local, max_workers=MACHINES, warm=MACHINES) as executor,
    ):
        began = time.perf_counter()
        executor.prepare(MACHINES)
        prepared = time.perf_counter() - began
        overhead = fan_out(executor, 0.0)
        executor.prepare(MACHINES)  # until all rest again
        makespan = fan_out(executor, SECONDS)
        executor.prepare(MACHINES)
        billed = sum(local.billed().values())
    ideal = CALLS * SECONDS / MACHINES
    told = simulate_fan_out(
        CALLS,
        SECONDS,
        MACHINES,
        resume=RESUME / SPEED,
        rest=RESUME / SPEED,
        boot=2.0 / SPEED,
        create_every=1.0 / SPEED,
        start_cost=overhead / MACHINES,
    )
    print(f"\n{CALLS} calls of {SECONDS:g} s on {MACHINES} machines, real processes, time ten times faster")
    print("  goal: <= 1.1 of the ideal makespan; real and simulated agree within 15 %")
    print(f"  {'100 machines made, warmed up and suspended':<46}{prepared:>8.1f} s")
    print(f"  {'the same fan-out of calls that take no time':<46}{overhead:>8.2f} s")
    for name, seconds in (("makespan", makespan), ("simulated", told), ("ideal", ideal)):
        print(f"  {name:<46}{seconds:>8.2f} s{seconds / ideal:>8.2f} of the ideal")
    print(f"  {'real over simulated':<46}{makespan / told:>8.2f}")
    print(f"  {'billed so far':<46}{billed:>8.1f} s", flush=True)


if __name__ == "__main__":
    main()
