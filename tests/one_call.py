"""One call through all its steps in one process and one thread, each by the code that does it: for a debugger.

`python -m pdb -m tests.one_call`, then `s` goes into a step, `n` over it. In real life steps 1 to 3 and 9 are the
client's, 6 and 8 the worker's, and 7 its child's; step 5, which starts the machine, has nothing to do here.
"""

import os

from flyexecutor import FlyFuture, LocalFly
from flyexecutor.call import Call
from flyexecutor.client.watcher import Watcher
from flyexecutor.lane import Lane
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Trust, derive_key
from flyexecutor.store.calls import Intake, Store
from flyexecutor.terms import new_terms
from flyexecutor.worker.context import Channel
from flyexecutor.worker.outcomes import Outcomes
from flyexecutor.worker.pipe import CALL, Given
from flyexecutor.worker.runner import Runner
from flyexecutor.worker.runner_process import Answer

APP, CLIENT, MACHINE = "walked", "client", "machine"
LANE = Lane("lane", {}, (), max_workers=1, concurrency=1, boot_timeout=60.0)


def walk(store: Store) -> object:
    """Answers the result of divmod(7, 2)."""
    trust = Trust(derive_key("a secret of nobody", APP), APP)

    # Step 1: a snapshot, sealed.
    dumped = pickles.dump_call(divmod, (7, 2), {})
    call_id, terms = trust.new_call_id(), new_terms((LANE.name,), result_ttl=60.0)
    call = Call(call_id, trust.seal_call(call_id, terms, dumped.body, dumped.encoding), nonce=terms.nonce)

    # Step 2: who waits for it, first.
    watcher = Watcher(
        store,
        trust,
        client=CLIENT,
        result_ttl=60.0,
        unsent=lambda _id: False,
        moved=lambda _lane: None,
        same=lambda _id, _other: None,
        waiting=lambda _id, _waits: None,
    )
    future: FlyFuture[object] = FlyFuture(call_id, None, keep=True, attached=False, nonce=terms.nonce)  # type: ignore[arg-type]
    watcher.expect(future)

    # Steps 3 and 4: QUEUED.
    store.enqueue(LANE, [call], client=CLIENT, result_ttl=60.0, reservation="batch")

    # Step 6: RUNNING.
    store.join(LANE.name, MACHINE, first=True)
    intake = Intake(more=1, free=1, concurrency=1, read_to="")
    (claimed,) = store.claim(LANE.name, MACHINE, "", intake).calls

    # Step 7: verified, loaded, called, dumped.
    with open(os.devnull, "wb") as nobody:
        runner = Runner(trust, Channel(nobody.fileno()), b"")
        message = runner._answer(Given(CALL, claimed.id, claimed.attempt, 0, claimed.sealed))

    # Step 8: SUCCEEDED.
    outcome = Outcomes(trust, MACHINE, "").answered(Answer(claimed, message, b""))
    store.finish(LANE.name, MACHINE, "", [outcome], intake)

    # Step 9: the future has its result.
    for news in store.outcomes(CLIENT).read(1.0):
        watcher.resolve(news)
    return future.result(0)


def main() -> None:
    with LocalFly(show_output=False) as fly:
        store = Store(fly.redis_url, APP)
        print(walk(store))
        store.close()


if __name__ == "__main__":
    main()
