"""huey, the fastest queue on Redis that we know of, as a peer: what its consumer imports."""

import os

from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["HUEY_URL"])


@huey.task()  # type: ignore[untyped-decorator]
def noop() -> int:
    """The call that does nothing; of None huey keeps no result."""
    return 0
