"""Fleets of real processes: helpers that wait for what machines do."""

import pytest

from tests import tasks

WAIT = 30.0


@pytest.fixture
def states(local_fly):
    """The states of an executor's machines, sorted; destroyed ones left out."""

    def ask(executor):
        ours = [m for m in executor.machines() if m.lane == executor._lane.name]
        return sorted(machine.state for machine in ours)

    return ask


@pytest.fixture
def submit_gated(tmp_path):
    """Submit so many calls, each to a gate of its own. Answers their futures and gates."""

    def submit(executor, number):
        gates = []
        for n in range(number):
            folder = tmp_path / f"held{n}"
            folder.mkdir()
            gates.append(tasks.Gate.make(folder))
        return [executor.submit(gate.enter) for gate in gates], gates

    return submit


@pytest.fixture
def hold(submit_gated):
    """Submit so many calls that run until they are told to go on. Answers their futures, and what tells them."""

    def submit(executor, number):
        futures, gates = submit_gated(executor, number)

        def let_go():
            for gate in gates:
                gate.wait_for_entry()
                gate.open()
            return [future.result(WAIT) for future in futures]

        return futures, let_go

    return submit
