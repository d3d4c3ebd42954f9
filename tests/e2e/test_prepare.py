"""`prepare` as the one who has called it sees it: how far it is, what stays when it ends early, what it refuses."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from flyexecutor import MachineStartError, SettingsError
from flyexecutor.errors import MachinesError
from flyexecutor.fleet import stock
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.lists import Lists
from tests import tasks
from tests.terminal import Terminal

WAIT = 30.0


def test_prepare_makes_no_more_machines_than_may_run(make_executor):
    executor = make_executor(max_workers=2)
    with pytest.raises(SettingsError, match=r"^number is 3: max_workers is 2, .*: prepare up to 2, or"):
        executor.prepare(3)
    with pytest.raises(SettingsError, match="number is 2: max_cost_per_hour lets 1 of max_workers=2, "):
        make_executor(max_workers=2, max_cost_per_hour=0.003).prepare(2)
    assert not [one for one in executor.machines() if one.lane == executor._lane.name]


PREPARE = """
from flyexecutor import FlyMachineExecutor
FlyMachineExecutor(max_workers=9, env={{"TEST": {name!r}}}).prepare({number})
"""


def test_prepare_shows_a_bar_in_a_terminal_and_nothing_elsewhere(local_fly, tmp_path):
    script = PREPARE.format(name=str(tmp_path), number=2)
    with Terminal("-c", script, environ=local_fly.environ()) as terminal:
        terminal.read_until("2 there, 2 ready")
        terminal.read_until(None)
        assert terminal.process.wait(WAIT) == 0
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    ran = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_a_prepare_that_is_interrupted_tells_what_it_has_made_and_how_it_is_removed(
    local_fly, tmp_path, executor, machine_api
):
    with Terminal("-c", PREPARE.format(name=str(tmp_path), number=9), environ=local_fly.environ()) as terminal:
        terminal.read_until("3 there")  # Fly takes three at once, and then one a second
        terminal.press_ctrl_c()
        shown = " ".join(terminal.read_until(None).partition("prepare ended early")[2].split())
        assert terminal.process.wait(WAIT) == -signal.SIGINT
    made = re.search(r"fly machine destroy --force -a local ([0-9a-f ]+)", shown)[1].split()
    assert f"what it made stays: {len(made)} machines, at rest for $0.15" in shown
    assert len(made) >= 3
    assert set(made) <= {machine.id for machine in executor.machines()}
    for machine_id in made:
        machine_api(machine_id, "destroy")


def test_a_prepare_that_fails_tells_what_it_has_made(make_executor, local_fly, monkeypatch, caplog, machine_api):
    executor = make_executor(max_workers=3)
    made = []

    def create(*args, **options):
        if made:
            raise MachineStartError("no room", 412)
        made.append(real(*args, **options))
        return made[0]

    real = stock.create_machine
    monkeypatch.setattr(stock, "create_machine", create)
    with pytest.raises(MachineStartError, match="no room"):
        executor.prepare(3)
    (told,) = caplog.messages
    # Neither a price nor a command, which are Fly's.
    assert told == (
        "prepare ended early, and what it made stays until the local Fly ends: 1 machine, and perhaps one more that it "
        "was just asking for"
    )
    machine_api(made[0].id, "destroy")


@pytest.fixture
def inject(local_fly):
    """Lets the API go wrong, until the test ends."""
    yield local_fly.inject
    local_fly.inject()


def test_a_machine_that_can_not_be_started_is_none_that_was_prepared(make_executor, local_fly, inject, monkeypatch):
    executor = make_executor(max_workers=1)
    executor.prepare(1)
    (lost,) = machines_of(executor)
    local_fly.lose_host(lost)
    inject(stuck=["created"])
    with pytest.raises(MachineStartError, match="did not come to rest in time"):
        executor.prepare(1, timeout=2.0)
    (hung,) = machines_of(executor) - {lost}
    inject()
    monkeypatch.setattr("flyexecutor.fleet.policy.STUCK_AFTER", 0.5)
    executor.prepare(1, timeout=WAIT)
    (made,) = machines_of(executor) - {lost, hung}
    assert executor.submit(tasks.machine_id).result(WAIT) == made


def test_two_clients_that_prepare_at_once_prepare_the_same_machines(make_executor):
    clients = [make_executor() for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        for prepared in [pool.submit(client.prepare, 2) for client in clients]:
            prepared.result(WAIT)
    assert len(machines_of(clients[0])) == 2


def test_a_prepare_that_is_made_again_after_a_lost_answer_makes_no_second_machine(make_executor, monkeypatch):
    executor = make_executor()
    with monkeypatch.context() as lost:
        create = MachinesClient.create

        def create_unheard(*told, **more):
            create(*told, **more)
            raise MachinesError("no answer")

        lost.setattr(MachinesClient, "create", create_unheard)
        lost.setattr(Lists, "since", lambda *_: [])  # nor does a list show it yet
        for _ in range(2):
            with pytest.raises(MachineStartError, match="no answer"):
                executor.prepare(1)
    executor.prepare(1)
    assert len(machines_of(executor)) == 1


def test_a_name_that_a_machine_keeps_at_its_end_is_passed_over(make_executor, monkeypatch):
    executor, ended, create = make_executor(), [], MachinesClient.create

    def create_or_answer_what_has_ended(*told, **more):
        machine = create(*told, **more)
        if ended:
            return machine
        ended.append(machine.id)
        return replace(machine, state="destroyed")

    monkeypatch.setattr(MachinesClient, "create", create_or_answer_what_has_ended)
    executor.prepare(1)
    assert len(machines_of(executor) - set(ended)) == 1


def machines_of(executor):
    return {machine.id for machine in executor.machines() if machine.lane == executor._lane.name}
