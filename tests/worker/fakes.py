"""The other sides of a worker's parts, recorded: a clock, a store, its readers, and the process of a runner."""

import inspect
import io
import os
import signal
import subprocess
import time
from collections import defaultdict
from copy import copy
from pathlib import Path

from flyexecutor.call import ClaimedCall, Mail
from flyexecutor.store.calls import Store
from flyexecutor.store.reader import LATE
from flyexecutor.terms import new_terms
from flyexecutor.worker.pipe import RETURNED, FrameReader, Message, pack_message, unpack_given, write_frames


class Clock:
    """Stands for `time.monotonic`."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class RecordedStore:
    """Takes what the verbs of the store take, records it by the names of the arguments, and answers as it was told.

    answers: by verb, what comes next; the last one stays. An exception is raised.
    """

    address = "redis://recorded"

    def __init__(self, **answers):
        self.asked = []
        self.answers = defaultdict(lambda: [None], {verb: list(each) for verb, each in answers.items()})

    def __getattr__(self, verb):
        signature = inspect.signature(getattr(Store, verb))

        def ask(*args, **kwargs):
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            # Copies: what a worker keeps in a list or deque it changes when the store has taken it.
            self.asked.append((verb, {name: copy(value) for name, value in bound.arguments.items() if name != "self"}))
            answers = self.answers[verb]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return ask

    def verbs(self):
        """What it was asked, in order."""
        return [verb for verb, _ in self.asked]

    def last(self, verb):
        """What it was asked last with this verb."""
        return next(arguments for name, arguments in reversed(self.asked) if name == verb)


class RecordedInbox:
    """A blocking read that is answered when a test does it."""

    def __init__(self):
        self.waiting = False
        self.ends_at = self.due_at = 0.0  # when there is an answer although there is nothing, and the latest for that
        self.blocks = []  # for how long it was asked to block, each time
        self.calls, self.kills = [], []
        self.read_to = ""
        self.rewound = 0

    def ask(self, block):
        self.blocks.append(block)
        self.waiting = True
        self.ends_at = time.monotonic() + block
        self.due_at = self.ends_at + LATE

    def receive(self, known):
        self.waiting = False
        self.known = known
        calls, self.calls = self.calls, []
        kills, self.kills = self.kills, []
        return Mail(calls, kills)

    def rewind(self):
        self.rewound += 1

    def note_removed(self):
        self.read_to = ""

    def give_up_if_overdue(self):
        pass

    def close(self):
        self.waiting = False


class FakeProcess:
    """Stands for the process of a runner: it has the ends of the pipes, and does what a test says."""

    def __init__(self, args, *, pass_fds, stdout, **_):
        *_, self.mark, given, messages, tokens, faults = args
        self._tokens, self._faults = int(tokens), int(faults)  # closed by our end
        self._given, self._messages, self._output = os.dup(int(given)), os.dup(int(messages)), os.dup(stdout)
        self._ends = [self._given, self._messages, self._output]
        self._reader = FrameReader(self._given)
        self.stdin = io.BytesIO()
        self.pid = 0
        self.code = None
        self.signals = []
        self._begun = 0

    # What `subprocess` has

    def poll(self):
        return self.code

    def wait(self, timeout=None):
        if self.code is None:
            raise subprocess.TimeoutExpired("runner", timeout)
        return self.code

    def send_signal(self, number):
        self.signals.append(number)

    def kill(self):
        if self.code is None:
            self.signals.append(signal.SIGKILL)
            self.die(-signal.SIGKILL)

    # What the runner does

    def read(self):
        """What it was given."""
        return [unpack_given(frame) for frame in self._reader.read_some()]

    def begin(self):
        """Begin the next call: take its token."""
        assert os.read(self._tokens, 1)
        self._begun += 1

    def say(self, kind, call=None, **rest):
        """Tell something of a call."""
        message = Message(kind, call.id if call else "", call.attempt if call else 0, **rest)
        write_frames(self._messages, [pack_message(message)])

    def answer(self, call, kind=RETURNED, **rest):
        """Answer a call; begin it before, if none has begun."""
        if not self._begun:
            self.begin()
        self._begun -= 1
        os.write(self._output, self.mark.encode())
        self.say(kind, call, **rest)

    def close_pipe(self):
        """As user code may: nothing that it says can be heard any more."""
        self._ends.remove(self._messages)
        os.close(self._messages)

    def die(self, code):
        """End with this code; negative: the signal."""
        self.code = code
        for fd in self._ends:
            os.close(fd)


def make_call(name, *, sealed=b"sealed", timeout=0.0, terms=None, **rest):
    """A claimed call; its id begins with its name, and is as long as all are."""
    terms = terms or new_terms(("lane",), result_ttl=60.0, timeout=timeout)
    return ClaimedCall(name.ljust(48, "."), 1, sealed, terms, **rest)


def open_files():
    """How many files this process has open."""
    return len(list(Path("/dev/fd").iterdir()))
