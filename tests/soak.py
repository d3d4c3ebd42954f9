"""Calls of every kind through a faulty wire: `python -m tests.soak [--seconds 120] [--seed N]`, or `make soak`.

Two clients make calls, a third is killed again and again and its calls are adopted. Clients and machines each have a
wire of their own to Redis that misbehaves; machines, runners, clients and Redis are killed or paused, Redis restarts
with its data, scripts are flushed and the Machines API fails. The seed decides what is done and when; how calls and
misfortunes meet is chance. Then all is healed, and what has not ended PATIENCE seconds later hangs.

Prints a table, and ends with 1 if anything is wrong, twice, lost, hung, leaked or left behind; logs, Redis's records of
what hangs, and stacks are then kept in a folder.
"""

import argparse
import json
import math
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.fleet.turns import LOOK_EVERY
from flyexecutor.local.redis import find_server
from tests import chaos
from tests.soak_calls import FOLDER, RESULT_TTL, runs
from tests.soak_client import Orders
from tests.wire import Wire

PATIENCE = 90.0  # seconds after all has healed
SHORT_TTL = 600  # seconds that a key may stay after the last call
MISFORTUNE_EVERY = 2.0  # seconds on average, of machines
THREADS = 5  # of each client
REST_WITHIN = 45.0  # seconds after which no machine runs
# What a quiet run leaves as well: of a lane, and small things that go within days.
STANDING = {"starts", "load", "meter", "lanes", "resting"}
TROUBLE = ("wrong", "twice", "lost", "hung", "leaked", "left")


class Server:
    """A Redis of our own, that can be killed, paused and started again with its data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        self._settings = folder / "redis.conf"
        self._settings.touch(mode=0o600)
        # A write is in the file before its answer is sent, so that SIGKILL loses nothing; the disk may wait.
        self._settings.write_text(
            f'bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\nsave ""\nappendonly yes\nappendfsync no\n'
            f"dir {folder}\nlogfile {folder}/redis.log\n"
        )
        self.client = redis.Redis.from_url(self.url)
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([find_server().path, str(self._settings)])
        for _ in range(1000):
            with suppress(redis.RedisError):
                if self.client.ping():
                    return
            time.sleep(0.01)
        raise RuntimeError("redis-server did not start: see redis.log")

    def end(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)
        self._process.wait()

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        self.client.close()
        self.end(signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Report:
    """What happened."""

    seed: int
    deeds: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)  # submitted, by kind
    right: Counter[str] = field(default_factory=Counter)
    trouble: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in TROUBLE})
    excused: Counter[str] = field(default_factory=Counter)  # crashed, and we had killed the process
    peaks: dict[str, float] = field(default_factory=dict)  # MB, by client
    keys: dict[str, str] = field(default_factory=dict)  # what is in Redis, by kind
    machines: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    settled: float = 0.0  # seconds from the healing until the last call had ended

    def __str__(self) -> str:
        lines = [f"{'kind':14}{'submitted':>10}{'answered':>10}"]
        lines += [f"{kind:14}{self.calls[kind]:10}{self.right[kind]:10}" for kind in sorted(self.calls)]
        lines.append(f"{'all':14}{self.calls.total():10}{self.right.total():10}")
        lines.append(" ".join(f"{name} {len(told)}" for name, told in self.trouble.items()))
        deeds = ", ".join(f"{number} x {deed}" for deed, number in sorted(self.deeds.items()))
        lines.append(f"seed {self.seed}; misfortunes: {deeds}")
        excused = self.excused.total()
        lines.append(f"excused crashes {excused}; slowest {self.slowest:.1f} s; settled {self.settled:.1f} s")
        lines.append(f"memory, peak MB: {', '.join(f'{name} {mb:.0f}' for name, mb in sorted(self.peaks.items()))}")
        lines.append(f"machines at the end: {dict(self.machines)}")
        lines.append("Redis at the end: " + "; ".join(f"{kind} {told}" for kind, told in sorted(self.keys.items())))
        for name, told in self.trouble.items():
            alike = defaultdict(list)  # but for ids and numbers
            for one in told:
                alike[re.sub(r"[0-9a-f]{14,}|[0-9]+", "", one)].append(one)
            for ones in alike.values():
                lines += [f"{name.upper()}: {one}" for one in ones[:3]]
                lines += [f"... and {len(ones) - 3} alike"] * (len(ones) > 3)
        return "\n".join(lines)


class Misfortunes:
    """Threads that do harm until `end`, each with a chance of its own."""

    def __init__(self, seed: int, report: Report) -> None:
        self._seed = seed
        self._report = report
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[Exception] = []

    def begin(self, name: str, every: float, do: Callable[[random.Random], str | None]) -> None:
        """do: answers what it did. It may block, and must have mended it when it returns."""
        thread = threading.Thread(target=self._run, args=(name, every, do), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, name: str, every: float, do: Callable[[random.Random], str | None]) -> None:
        schedule = random.Random(f"{self._seed} {name}")
        while not self._over.wait(min(schedule.expovariate(1 / every), 3 * every)):
            # Each has its own source, so that what one draws does not change the next.
            chance = random.Random(schedule.random())
            try:
                deed = do(chance)
            except Exception as exc:  # noqa: BLE001 - it may have left Redis down: end() tells, and nothing else counts
                self._failures.append(exc)
                return
            if deed:
                self._report.deeds[deed] += 1

    def rest(self, seconds: float) -> bool:
        """For what is being done: wait, but not beyond the end. Answers whether that has come."""
        return self._over.wait(seconds)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise ExceptionGroup("misfortunes failed", self._failures)


class Soak:
    """One run."""

    def __init__(self, seconds: float, seed: int, *, quiet: bool = False) -> None:
        self.seconds = seconds
        self.seed = seed
        self.quiet = quiet
        self.report = Report(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="soak-"))
        (self.folder / "runs").mkdir()
        self.runner_kills: dict[int, float] = {}  # process id -> when
        self.clients: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> Report:
        with ExitStack() as stack:
            self.server = Server(self.folder)
            stack.callback(self.server.close)
            with stderr_in(self.folder / "machines.log"):
                self.fly = stack.enter_context(LocalFly(rate_limits=False))
            wires = [Wire("127.0.0.1", self.server.port, seed=self.seed * 2 + n) for n in range(2)]
            self.machines_wire, self.clients_wire = wires
            for wire in wires:
                stack.enter_context(wire)
            stack.callback(self._end_clients)
            self.settings = {
                "app": self.fly.app,
                "token": self.fly.token,
                "api_url": self.fly.api_url,
                "image": self.fly.image,
                "redis_url": self.machines_wire.url(self.server.url),
                "env": {FOLDER: str(self.folder)},
                "max_workers": 4,
                "concurrency": 2,
                "idle_timeout": 0.5,
                "boot_timeout": 60.0,
                "warm": 2,
                "result_ttl": RESULT_TTL,
            }
            self.began = time.time()
            for name in ("a", "b"):
                self._start_client(name)
            self._misbehave()
            self._wait_for_clients()
            self._judge()
            self._look_at_fly()
            self._look_at_redis()
        self._look_for_processes("after the end")
        return self.report

    # Clients

    def _start_client(self, name: str, *, doomed: bool = False) -> "subprocess.Popen[bytes]":
        orders = Orders(
            name=name,
            folder=str(self.folder),
            seed=self.seed,
            settings=self.settings,
            address=self.machines_wire.port,
            way=self.clients_wire.port,
            began=self.began,
            ends=self.began + self.seconds,
            patience=PATIENCE,
            threads=THREADS,
            doomed=doomed,
        )
        with (self.folder / f"{name}.log").open("ab") as log:
            client = subprocess.Popen(
                [sys.executable, "-m", "tests.soak_client"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ours to end, and never by a terminal.
                start_new_session=True,
            )
        assert client.stdin
        client.stdin.write(json.dumps(asdict(orders)).encode() + b"\n")
        client.stdin.close()
        self.clients[name] = client
        return client

    def _doom(self, chance: random.Random, rest: Callable[[float], bool]) -> str:
        """A third client makes calls, is killed, and others adopt what it had stored."""
        name = f"third-{sum(one.startswith('third') for one in self.clients)}"
        client = self._start_client(name, doomed=True)
        file = self.folder / f"{name}.jsonl"
        ends = time.monotonic() + chance.choice((1.5, 5.0, 30.0))  # some have stored nothing by then
        while time.monotonic() < ends and not (file.exists() and '"stored"' in file.read_text()):
            if rest(0.05):
                break
        rest(chance.uniform(0.0, 1.0))
        client.kill()
        client.wait()
        self._hand_over(name, chance.choice("ab"), "adopted")
        return "third client killed"

    def _hand_over(self, name: str, heir: str, kind: str, seen: int = 0) -> int:
        """Lets a client attach to the calls that another has left word of. Answers how many lines were seen."""
        file = self.folder / f"{name}.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        with (self.folder / f"for-{heir}.jsonl").open("a") as out:
            for line in lines[seen:]:
                told = json.loads(line)
                if "attach" in told:
                    out.write(json.dumps(told | {"kind": kind}) + "\n")
        return len(lines)

    def _wait_for_clients(self) -> None:
        healed = time.time()
        for name in ("a", "b"):
            client = self.clients[name]
            try:
                client.wait(PATIENCE + 60.0)
            except subprocess.TimeoutExpired:
                client.send_signal(signal.SIGUSR1)  # its stacks, into its log
                time.sleep(1.0)
                self._tell("hung", f"client {name} does not end: see {name}.log")
            else:
                if client.returncode:
                    self._tell("wrong", f"client {name} ended with {client.returncode}: see {name}.log")
        self.report.settled = time.time() - healed

    def _end_clients(self) -> None:
        for client in self.clients.values():
            client.kill()
            client.wait()

    # Misfortunes

    def _misbehave(self) -> None:
        misfortunes = Misfortunes(self.seed, self.report)
        ends = self.began + self.seconds
        time.sleep(1.5)  # clients must have reached Redis once: one that never does has wrong settings
        seen: Counter[str] = Counter()

        def introduce(_: random.Random) -> None:
            for one, other in (("a", "b"), ("b", "a")):
                seen[one] = self._hand_over(f"shared-by-{one}", other, "attached", seen[one])

        misfortunes.begin("introductions", 0.2, introduce)
        rest = misfortunes.rest
        misfortunes.begin("third", 6.0, lambda chance: self._doom(chance, rest))
        if not self.quiet:
            machines = chaos.Misfortune(self.fly, random.Random(self.seed), self.report.deeds, every=MISFORTUNE_EVERY)
            machines.start()
            self.machines_wire.misbehave(every=3.0, longest=3.0)
            self.clients_wire.misbehave(every=3.0, longest=3.0)
            misfortunes.begin("workers", 4.0, lambda chance: self._pause_process(chance, rest))
            misfortunes.begin("runners", 6.0, self._kill_runner)
            misfortunes.begin("clients", 10.0, lambda chance: self._pause_client(chance, rest))
            misfortunes.begin("redis", 10.0, lambda chance: self._harm_redis(chance, rest))
            misfortunes.begin("scripts", 5.0, self._flush_scripts)
            misfortunes.begin("api", 6.0, lambda chance: self._harm_api(chance, rest))
        time.sleep(max(0.0, ends - time.time()))
        misfortunes.end()
        if not self.quiet:
            machines.end()
        for wire in (self.machines_wire, self.clients_wire):
            wire.heal()
        self.fly.inject()
        introduce(random.Random())
        (self.folder / "no more").touch()
        for who, wire in (("machines", self.machines_wire), ("clients", self.clients_wire)):
            self.report.deeds.update({f"{kind} ({who})": number for kind, number in wire.faults.items()})

    def _processes(self, program: str) -> list[psutil.Process]:
        """Those of machines that run, by their machines and numbers."""
        found = []
        states = self.fly.states()
        for process in psutil.Process(self.fly.server_pid).children(recursive=True):
            with suppress(psutil.Error):
                machine = process.environ().get("FLY_MACHINE_ID", "")
                if program in process.cmdline() and states.get(machine) == "started":
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def _pause_process(self, chance: random.Random, rest: Callable[[float], bool]) -> str | None:
        program, seconds = chance.choice(("flyexecutor.worker", "flyexecutor.worker.runner")), chance.uniform(1.0, 8.0)
        processes = self._processes(program)
        if not processes:
            return None
        process = chance.choice(processes)
        with suppress(psutil.Error):
            machine = process.environ()["FLY_MACHINE_ID"]
            process.suspend()
            rest(seconds)
            # Fly may have suspended the machine meanwhile: then it is not ours to wake.
            if self.fly.states().get(machine) not in {"suspending", "suspended"}:
                process.resume()
        return f"{program.rpartition('.')[2]} paused"

    def _kill_runner(self, chance: random.Random) -> str | None:
        processes = self._processes("flyexecutor.worker.runner")
        if not processes:
            return None
        with suppress(psutil.Error):
            process = chance.choice(processes)
            self.runner_kills[process.pid] = time.time()
            process.kill()
        return "runner killed"

    def _pause_client(self, chance: random.Random, rest: Callable[[float], bool]) -> str:
        client = self.clients[chance.choice("ab")]
        client.send_signal(signal.SIGSTOP)
        rest(chance.uniform(1.0, 6.0))
        client.send_signal(signal.SIGCONT)
        return "client paused"

    def _harm_redis(self, chance: random.Random, rest: Callable[[float], bool]) -> str:
        deed, seconds = chance.choice(("paused", "restarted", "killed")), chance.uniform(0.2, 4.0)
        if deed == "paused":
            self.server.send_signal(signal.SIGSTOP)
            rest(seconds)
            self.server.send_signal(signal.SIGCONT)
        else:
            self.server.end(signal.SIGTERM if deed == "restarted" else signal.SIGKILL)
            rest(seconds)
            self.server.start()
        return f"redis {deed}"

    def _flush_scripts(self, chance: random.Random) -> str | None:
        with suppress(redis.RedisError):
            self.server.client.script_flush()
            return "scripts flushed"
        return None

    def _harm_api(self, chance: random.Random, rest: Callable[[float], bool]) -> str:
        down = chance.random() < 0.3
        faults: dict[str, Any] = {"broken": 1.0} if down else chaos.FAULTS
        self.fly.inject(seed=chance.randrange(1000), **faults)
        rest(chance.uniform(1.0, 5.0))
        self.fly.inject()
        return "api down" if down else "api faulty"

    # The end

    def _tell(self, what: str, told: str) -> None:
        self.report.trouble[what].append(told)

    def _judge(self) -> None:
        """Of what the clients have written."""
        words: dict[str, set[str]] = defaultdict(set)
        for name in ("a", "b"):
            for line in (self.folder / f"{name}.jsonl").read_text().splitlines():
                told = json.loads(line)
                if job := told.get("job"):
                    self._judge_job(job)
                    for call_id, word in job["words"].items():
                        words[call_id].add(word)
                elif end := told.get("end"):
                    self.report.peaks[name] = end["peak_mb"]
                    self.report.trouble["twice"] += [f"{end['twice']} futures of {name} ended twice"] * bool(
                        end["twice"]
                    )
                    if end["shutdown_hung"]:
                        self._tell("hung", f"shutdown of client {name}: see {name}.log")
                elif "twice" in told:
                    self._tell("twice", told["twice"])
                else:
                    self._tell("wrong", f"client {name}: {told}")
        for call_id, told in words.items():
            if len(told) > 1:
                self._tell("twice", f"call {call_id} has {len(told)} answers")

    def _judge_job(self, job: dict[str, Any]) -> None:
        kind, verdict = job["kind"], job["verdict"]
        self.report.calls[kind] += job["calls"]
        if verdict == "crashed":
            # By its runs; or one was killed meanwhile, and the call was only about to leave word of its run.
            killed = {int(run.split()[0]) for run in runs(str(self.folder), job["token"])} & self.runner_kills.keys()
            began = min([job["began"], *map(self._started, job["ids"])])  # one that is adopted began before
            killed |= {pid for pid, at in self.runner_kills.items() if began - 1.0 < at < job["ended"]}
            if killed and "SIGKILL" in job["detail"]:
                self.report.excused[kind] += 1
                verdict = "right"
            else:
                verdict = "wrong"
        if verdict == "right":
            self.report.right[kind] += job["calls"]
            self.report.slowest = max(self.report.slowest, job["ended"] - job["began"])
        else:
            spent = f"{job['began'] - self.began:.1f} to {job['ended'] - self.began:.1f} s"
            records = " ".join(self._record(call_id) for call_id in job["ids"][:10])
            self._tell(verdict, f"{kind} {job['token']} ({spent}): {job['detail']} {records}")

    def _started(self, call_id: str) -> float:
        at = self.server.client.hget(f"fly:{{{self.fly.app}}}:call:{call_id}", "started")
        return int(at) / 1000 if at else math.inf

    def _record(self, call_id: str) -> str:
        names = ["state", "attempt", "losses", "machine", "entry", "kill", "lane"]
        told = self.server.client.hmget(f"fly:{{{self.fly.app}}}:call:{call_id}", names)
        fields = {name: value.decode() for name, value in zip(names, told, strict=True) if value is not None}
        if machine := fields.get("machine"):
            fields["machine"] += f" ({self.fly.states().get(machine)})"
        return f"[{call_id}: {fields or 'no record'}]"

    def _look_at_fly(self) -> None:
        deadline = time.monotonic() + REST_WITHIN
        with suppress(AssertionError):
            chaos.wait_for_rest(self.fly, REST_WITHIN)
        if self._counts() != (0, 0, 0):
            # A dead client's call on a machine that was stopped waits for the next client of its lane: here it is.
            with FlyMachineExecutor(**self.settings) as executor:
                executor.submit(time.sleep, LOOK_EVERY + 1.0).result(REST_WITHIN)
            deadline = time.monotonic() + REST_WITHIN
        while (counts := self._counts()) != (0, 0, 0) and time.monotonic() < deadline:
            time.sleep(0.2)
        states = self.fly.states()
        self.report.machines = Counter(states.values())
        if counts != (0, 0, 0):
            self._tell("left", f"queued, running, workers by Redis: {counts}")
        for machine, state in states.items():
            if state not in {"suspended", "stopped", "destroyed", "created", "failed"}:
                self._tell("leaked", f"machine {machine} is {state} {REST_WITHIN:.0f} s after the last call")
        with FlyMachineExecutor(**self.settings) as executor:
            known = {machine.id for machine in executor.machines()}
        for machine in {machine for machine, state in states.items() if state != "destroyed"} ^ known:
            self._tell("leaked", f"machine {machine} is {states.get(machine)}, and forgotten")
        self._look_for_processes("at rest", spared={m for m, state in states.items() if state == "suspended"})

    def _counts(self) -> tuple[int, int, int]:
        with FlyMachineExecutor(**self.settings) as executor:
            stats = executor.stats()
        return stats.queued, stats.running, stats.workers

    def _look_for_processes(self, when: str, spared: set[str] | None = None) -> None:
        """Of machines; `spared` ones may have some."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                machine = environment.get("FLY_MACHINE_ID", "")
                if environment.get(FOLDER) == str(self.folder) and machine not in (spared or set()):
                    self._tell("leaked", f"process {process.pid} {process.cmdline()} of machine {machine}, {when}")

    def _look_at_redis(self) -> None:
        client = self.server.client
        kinds: dict[str, list[int]] = defaultdict(list)
        for key in sorted(client.scan_iter(count=1000)):
            kind = key.decode().partition("}:")[2].partition(":")[0]
            if (ttl := client.ttl(key)) == -2:
                continue  # it has expired meanwhile
            kinds[kind].append(ttl)
            if kind == "awake" and set(client.hkeys(key)) <= set(
                client.zrange(key.replace(b":awake:", b":starts:"), 0, -1)
            ):
                continue  # started for calls that have ended meanwhile, and given up soon
            if (kind == "claims" and client.hkeys(key) == [b""]) or (
                kind == "places" and client.zrange(key, 0, -1) == [b"-"]
            ):
                continue  # empty, as they stay
            if kind not in STANDING and not 0 <= ttl <= SHORT_TTL:
                self._tell("left", f"{key.decode()} for {ttl} s more: {self._content(key)}")
        self.report.keys = {kind: f"{len(ttls)} for {min(ttls)} to {max(ttls)} s" for kind, ttls in kinds.items()}

    def _content(self, key: bytes) -> str:
        """Of what holds no payload, machines with their states; else the size."""
        client, machines = self.server.client, self.fly.states()
        if client.type(key) == b"zset":
            now = time.time()
            told = {one.decode(): f"{at / 1000 - now:.0f} s from now" for one, at in client.zscan_iter(key)}
        elif client.type(key) == b"hash" and b":call:" not in key:
            told = {name.decode(): value.decode() for name, value in client.hscan_iter(key)}
        else:
            return f"{client.memory_usage(key)} bytes"
        return str({f"{name} ({machines.get(name)})" if name in machines else name: at for name, at in told.items()})


@contextmanager
def stderr_in(file: Path) -> Iterator[None]:
    """What is started within writes its errors into a file."""
    kept = os.dup(2)
    with file.open("ab") as out:
        os.dup2(out.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--quiet", action="store_true", help="nothing goes wrong, but the third client's end")
    told = parser.parse_args()
    print(f"soak: {told.seconds:.0f} s, seed {told.seed}", file=sys.stderr, flush=True)
    soak = Soak(told.seconds, told.seed, quiet=told.quiet)
    report = soak.run()
    print(report)
    if any(report.trouble.values()):
        print(f"logs: {soak.folder}", file=sys.stderr)
        return 1
    shutil.rmtree(soak.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
