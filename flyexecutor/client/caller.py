"""Step 1: a function and its arguments become a call, in the thread of whoever submits it: a snapshot, sealed.

No thread, no network: the client takes the call from here. What can't be pickled is the exception of its future.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flyexecutor.call import Call, Part
from flyexecutor.client.batch import Batch
from flyexecutor.client.client import Client
from flyexecutor.client.fanout import FanOut, Sizes
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.sharing import Sharing, dump_function
from flyexecutor.client.stream import ItemStream
from flyexecutor.errors import NotStartedError
from flyexecutor.fleet.lanes import Lanes
from flyexecutor.names import label
from flyexecutor.options import Options
from flyexecutor.payload import pickles, plain
from flyexecutor.payload.trust import Encoding, Trust
from flyexecutor.states import State
from flyexecutor.terms import NONCE_BYTES, UNFINISHED_TTL, CallTerms, answer_to, new_terms


class Caller:
    """Makes the calls of one executor: of its options, for its lanes."""

    def __init__(self, client: Client, trust: Trust, lanes: Lanes, options: Options, life: object) -> None:
        """life: what ends with the executor once nobody holds it; a fan-out, which sends on its own, holds it too."""
        self._client = client
        self._trust = trust
        self._lanes = lanes
        self._options = options
        self._life = life

    def submit(
        self,
        fn: "Callable[..., Any] | pickles.Pickled | pickles.PartReference",
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Options | None = None,
        *,
        keep: bool = True,
        call_id: str = "",
        name: str | None = None,
        parts: Sequence[Part] = (),
        take: Callable[[int, int, bytes], None] | None = None,
    ) -> FlyFuture[Any]:
        """See `FlyMachineExecutor.submit`. options: others than the executor's; the rest as `Call` has it."""
        if not (callable(fn) or isinstance(fn, pickles.Pickled | pickles.PartReference)):
            raise TypeError(f"{fn!r} is not callable: give submit the function and its arguments apart")
        self._client.refuse_if_closed()
        options = options or self._options
        call_id = call_id or self._trust.new_call_id(options.key)
        name = options.name_call(fn) if name is None else name
        try:
            with pickles.shipping(options.ship):
                dumped = pickles.dump_call(fn, args, kwargs, options.manner(streams=take is not None))
            pickles.check_size(dumped, "the call with its arguments", options.max_payload)
        except Exception as exc:  # noqa: BLE001 - user code pickles itself and may raise anything
            return self._client.failed(call_id, name, exc)
        call = self._seal(call_id, name, dumped, options, keep=keep, parts=parts)
        return self._client.send(call, self._lanes.lane, take=take)

    def fan_out(self, fn: Callable[..., Any], items: Iterator[Any], sizes: Sizes, return_exceptions: bool) -> FanOut:
        """See `FlyMachineExecutor.map`."""
        self.check_function(fn)
        sharing = Sharing(fn, self._trust, self._options, drop=self._client.drop_part)
        name = self._options.name_call(fn)  # a chunk has another function

        def send(
            fn: Callable[..., Any], args: Sequence[Any], options: Options, parts: Sequence[Part]
        ) -> FlyFuture[Any]:
            return self.submit(fn, args, {}, options, keep=False, name=name, parts=parts)

        return FanOut(
            items, sharing, sizes, self._options, send, self._client.cancel_all, return_exceptions=return_exceptions
        )

    def stream(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> ItemStream[Any]:
        """See `FlyMachineExecutor.stream`."""
        self.check_function(fn)
        stream: ItemStream[Any] = ItemStream(self._trust)
        stream.future = self.submit(fn, args, kwargs, keep=False, take=stream.take)
        stream.future.add_done_callback(stream.end)
        return stream

    def submit_batch(self, fn: Callable[..., Any], iterables: Iterable[Iterable[Any]]) -> Batch[Any]:
        """See `FlyMachineExecutor.submit_batch`."""
        self.check_function(fn)
        items = list(zip(*iterables, strict=False))  # all: whatever an iterable raises, nothing was submitted
        batch_id = self._trust.new_batch_id(len(items))
        pickled = dump_function(fn, self._options)
        function = fn if pickled is None else pickles.Pickled(pickled)
        name = self._options.name_call(fn)
        futures = [
            self.submit(function, args, {}, call_id=call_id, name=name)
            for call_id, args in zip(self._trust.calls_of_batch(batch_id), items, strict=True)
        ]
        return Batch(batch_id, futures, self._client.batch)

    def check_function(self, fn: Callable[..., Any]) -> None:
        """What can't be the function of a fan-out or a stream is refused at once, and so is each one after shutdown."""
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable: give the function first")
        if self._options.key is not None:
            raise ValueError(f"key={self._options.key!r} names one call with one outcome: it is for submit only")
        self._client.refuse_if_closed()

    def _seal(
        self, call_id: str, name: str, dumped: pickles.Dumped, options: Options, *, keep: bool, parts: Sequence[Part]
    ) -> Call:
        bigger = self._lanes.larger(self._client.fleets.know) if options.retry.on_oom == "bigger" else ()
        terms = new_terms(
            (self._lanes.lane.name, *bigger),
            result_ttl=self._client.result_ttl,
            retries=options.retry.lost,
            timeout=options.timeout or 0.0,
            expires=options.expires or 0.0,
            # An id that no key has given is new at each submit: no further random bytes are asked of the system.
            nonce=bytes.fromhex(call_id)[:NONCE_BYTES] if options.key is None else b"",
        )
        return Call(
            call_id,
            self._trust.seal_call(call_id, terms, dumped.body, dumped.encoding),
            options.retry.lost,
            keep,
            expires=terms.expires,
            expired=self._seal_expired(call_id, name, terms) if terms.expires else b"",
            keyed=options.key is not None,
            pointers=self._trust.pointers(options.key) if options.key is not None else (),
            bigger=bigger,
            parts=parts,
            name=name,
            nonce=terms.nonce,
        )

    def _seal_expired(self, call_id: str, name: str, terms: CallTerms) -> bytes:
        called = label(call_id, name)
        error = NotStartedError(f"no worker began the call {called} within {terms.expires:g} s (expires): it never ran")
        # Nobody may be there to notice it for as long as the call is kept.
        answer = answer_to(terms._replace(result_ttl=UNFINISHED_TTL + terms.result_ttl), State.FAILED)
        return self._trust.seal_outcome(call_id, 0, answer, plain.dump(error), Encoding.TEXT)
