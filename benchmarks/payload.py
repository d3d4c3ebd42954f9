"""10 MB there and back, as bytes and as a bytearray: against redis-py moving the same bytes, there and back.

The floor is SET, GET, SET, GET of the payload in one process: client to Redis, Redis to worker, worker to Redis, Redis
to client. It neither signs nor pickles, and has no second process.
"""

import redis

from benchmarks._measure import echo, medians, other_database, show, warm_executor
from flyexecutor import LocalFly

PAYLOAD = bytes(range(256)) * (10_000_000 // 256)
ROUNDS = 11


def main() -> None:
    """Measure and print."""
    with (
        LocalFly(rate_limits=False) as local,
        redis.Redis.from_url(other_database(local)) as connection,
        warm_executor(local, 1) as ours,
    ):

        def floor() -> None:
            for key in ("there", "back"):
                connection.set(key, PAYLOAD)
                connection.get(key)

        mutable = bytearray(PAYLOAD)
        taken = medians(
            {
                "flyexecutor, bytes": lambda: ours.submit(echo, PAYLOAD).result(),
                "SET, GET, SET, GET": floor,
                "flyexecutor, bytearray": lambda: ours.submit(echo, mutable).result(),
            },
            ROUNDS,
        )
    floor_name = "SET, GET, SET, GET"
    for kind in ("bytes", "bytearray"):
        rows = {name: taken[name] * 1000 for name in (f"flyexecutor, {kind}", floor_name)}
        show(f"10 MB there and back, {kind}", rows, "ms", f"<= 1.4 of {floor_name}")


if __name__ == "__main__":
    main()
