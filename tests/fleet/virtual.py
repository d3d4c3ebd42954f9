"""Threads and seconds that are virtual: the real fleet runs on them in milliseconds, and each time in the same order.

A thread is a greenlet, and the clock is that of the simulations. A thread that blocks lets the others go on; when all
do, time passes to the next moment for which somebody waits. The test itself is none of these threads: it starts them,
lets time pass, and looks.
"""

from types import SimpleNamespace

from greenlet import getcurrent, greenlet

from benchmarks._clock import Clock

MODULES = ("assurance", "fleet", "launch", "losses", "retirement")
START = 1000.0


class VirtualThreads:
    """A clock, and what modules find in `threading` and `time` that stand on it."""

    def __init__(self, clock):
        self.clock = clock
        self._hub = getcurrent()

    def patch(self, monkeypatch):
        """Let the modules of the fleet have these threads and seconds."""
        threading = SimpleNamespace(Thread=self._thread, Condition=self._condition, Event=self._event)
        time = SimpleNamespace(monotonic=self._now, time=self._now, sleep=self.sleep)
        for name in MODULES:
            monkeypatch.setattr(f"flyexecutor.fleet.{name}.time", time)
            if name != "losses":
                monkeypatch.setattr(f"flyexecutor.fleet.{name}.threading", threading)

    def start(self, target, *args):
        """A thread, which begins as soon as all others block; answers what it has returned, in the end."""
        returned = []
        thread = greenlet(lambda: returned.append(target(*args)), self._hub)
        self.clock.after(0.0, thread.switch)
        return returned

    def sleep(self, seconds):
        """Block for so long."""
        self.block(seconds, [])

    def block(self, seconds, waiters):
        """Block for so long (None: for ever), or until `wake` is called with these waiters."""
        assert getcurrent() is not self._hub, "a test may not block: it starts a thread that does"
        ticket = [getcurrent()]  # emptied when it is used
        waiters.append(ticket)
        if seconds is not None:
            self.clock.after(max(0.0, seconds), self._go_on, ticket)
        self._hub.switch()

    def wake(self, waiters):
        """Let them go on, as soon as all others block."""
        for ticket in waiters:
            self.clock.after(0.0, self._go_on, ticket)
        waiters.clear()

    def _go_on(self, ticket):
        if ticket:
            ticket.pop().switch()

    def _now(self):
        return self.clock.now

    def _thread(self, *, target, name, daemon, args=()):
        assert name.startswith("flyexecutor ")
        assert daemon
        return SimpleNamespace(start=lambda: self.start(target, *args))

    def _condition(self):
        return _Condition(self)

    def _event(self):
        return _Event(self)


class _Condition:
    def __init__(self, threads):
        self._threads = threads
        self._waiters = []

    def __enter__(self):
        return self  # nobody runs in between: no lock is needed

    def __exit__(self, *_):
        pass

    def notify_all(self):
        self._threads.wake(self._waiters)

    def wait(self, timeout=None):
        self._threads.block(timeout, self._waiters)

    def wait_for(self, true, timeout=None):
        ends_at = None if timeout is None else self._threads.clock.now + timeout
        while not true() and (ends_at is None or self._threads.clock.now < ends_at):
            self.wait(None if ends_at is None else ends_at - self._threads.clock.now)
        return true()


class _Event(_Condition):
    def __init__(self, threads):
        super().__init__(threads)
        self._set = False

    def is_set(self):
        return self._set

    def set(self):
        self._set = True
        self.notify_all()

    def clear(self):
        self._set = False

    def wait(self, timeout=None):
        if not self._set:
            super().wait(timeout)
        return self._set


def new_clock():
    """A clock whose first moment is none that means something else, as 0 does."""
    clock = Clock()
    clock.now = START
    return clock
