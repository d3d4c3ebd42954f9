"""10 MB there and back: against SET + GET of the same bytes, there and back."""

import redis

from benchmarks._measure import echo, seconds, show, warm_executor
from flyexecutor import LocalFly

PAYLOAD = bytes(range(256)) * 40_000


def main() -> None:
    """Measure and print."""
    with LocalFly(rate_limits=False) as local:
        with warm_executor(local, 1) as ours:
            our = seconds(lambda: ours.submit(echo, PAYLOAD).result()) * 1000
        with redis.Redis.from_url(local.redis_url) as connection:

            def there_and_back() -> None:
                for key in ("there", "back"):
                    connection.set(key, PAYLOAD)
                    connection.get(key)

            floor = seconds(there_and_back) * 1000
    show("10 MB there and back", {"flyexecutor": our, "2 x (SET + GET)": floor}, "ms", "<= 1.4")


if __name__ == "__main__":
    main()
