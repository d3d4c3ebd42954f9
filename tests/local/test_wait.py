"""A wait ends when its state is reached, when its time is over, and as soon as it can't be reached any more."""

import threading

import pytest

from tests.local.conftest import EXIT_0, SLEEP, Api


def wait(api, machine, query):
    return api("GET", f"/{machine['id']}/wait?{query}")


def refusal(answer):
    return answer.status_code, answer.json()["error"]


class Waiting:
    """A wait that has been sent, in a thread."""

    def __init__(self, fly, machine, query):
        self._answer = None
        self._thread = threading.Thread(target=self._ask, args=(fly, machine, query))
        self._thread.start()

    def _ask(self, fly, machine, query):
        api = Api(fly)
        self._answer = wait(api, machine, query)
        api.session.close()

    def answer(self):
        self._thread.join(70)
        return self._answer


def test_it_answers_the_state_the_version_and_the_event_with_which_it_came(api):
    machine = api.create()
    answer = wait(api, machine, "timeout=20").json()  # for started, if nothing else is said
    (event,) = [one for one in api.get(machine["id"])["events"] if one["status"] == "started"]
    version = machine["instance_id"]
    assert answer == {"ok": True, "state": "started", "version": version, "event_id": event["id"]}


@pytest.mark.parametrize("query", ["state=stopped&state=started", "state=stopped,started", "state=settled"])
def test_the_first_of_several_states_ends_it(api, query):
    machine = api.create(SLEEP)
    answer = wait(api, machine, f"{query}&timeout=20&version={machine['instance_id']}")
    assert answer.json()["state"] == "started"


@pytest.mark.parametrize(("command", "state"), [(["/no/such/program"], "failed"), (EXIT_0, "stopped")])
def test_a_machine_that_does_not_run_any_more_has_settled_too(api, command, state):
    machine = api.create(command)
    assert wait(api, machine, f"state={state}&timeout=20&version={machine['instance_id']}").ok
    assert wait(api, machine, "state=settled&timeout=1").json()["state"] == state


def test_a_machine_whose_image_is_fetched_has_not_settled(api):
    api.fly.inject(stuck=["created"])
    machine = api.create()
    api.fly.inject()
    late = wait(api, machine, "state=settled&timeout=1")
    assert refusal(late) == (
        408,
        "deadline_exceeded: machine failed to reach desired state, settled, currently created",
    )
    api("DELETE", f"/{machine['id']}")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("state=stopped", "instance_id required when waiting for stopped machine"),
        ("state=started,stopped", "instance_id required when waiting for stopped machine"),
        ("state=replacing", "invalid_argument: unknown state 'replacing'"),
        ("state=started,nonsense", "invalid_argument: unknown state 'nonsense'"),
        ("timeout=0", "invalid_argument: timeout must be between 1 and 60 seconds"),
        ("timeout=61", "invalid_argument: timeout must be between 1 and 60 seconds"),
        ("timeout=nan", "invalid_argument: invalid duration 'nan'"),
        ("timeout=soon", "invalid_argument: invalid duration 'soon'"),
        ("from_event_id=nonsense", "invalid_argument: machine {id} has no event 'nonsense'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_value(api, query, text):
    machine = api.make_stock()
    assert refusal(wait(api, machine, query)) == (400, text.format(id=machine["id"]))


def test_in_time_it_says_what_it_did_not_reach(api):
    machine = api.make_stock()
    late = wait(api, machine, "state=destroyed&timeout=1")
    assert refusal(late) == (
        408,
        "deadline_exceeded: machine failed to reach desired state, destroyed, currently stopped",
    )


@pytest.mark.parametrize("state", ["suspended", "failed", "settled", "destroyed"])
def test_only_stopped_needs_the_instance(api, state):
    machine = api.create()
    assert api.wait(machine, "started").ok
    assert wait(api, machine, f"state={state}&timeout=1").status_code in {200, 408}


def test_an_old_version_is_replaced_and_nothing_else_any_more(api):
    machine = api.make_stock()
    old = machine["instance_id"]
    waiting = Waiting(api.fly, machine, f"state=started&version={old}")
    updated = api("POST", f"/{machine['id']}", config={"image": api.fly.image, "init": {"exec": SLEEP}}).json()
    assert api("POST", f"/{machine['id']}/start").ok
    text = "deadline_exceeded: machine failed to reach desired state, {}, currently replaced"
    assert api.wait(updated, "started").ok
    assert refusal(waiting.answer()) == (408, text.format("started"))
    assert refusal(wait(api, machine, f"instance_id={old}")) == (408, text.format("started"))
    assert wait(api, machine, f"version={updated['instance_id']}").json()["version"] == updated["instance_id"]


def test_it_ends_as_soon_as_the_machine_can_t_get_there(api):
    machine = api.make_stock()
    waiting = Waiting(api.fly, machine, "state=started,failed")
    api("DELETE", f"/{machine['id']}")
    status, text = refusal(waiting.answer())  # long before its 60 seconds
    assert (status, text) == (
        408,
        "deadline_exceeded: machine failed to reach desired state, started, failed, currently destroyed",
    )
    assert wait(api, machine, "state=destroyed").json()["state"] == "destroyed"


def test_a_wait_from_an_event_on_sees_what_has_passed_meanwhile(api):
    machine = api.make_stock()
    before = api.get(machine["id"])["events"][0]["id"]
    api("POST", f"/{machine['id']}/start")
    assert api.wait(machine, "started").ok
    api("POST", f"/{machine['id']}/stop")
    assert api.wait(machine, "stopped").ok
    events = {event["status"]: event["id"] for event in api.get(machine["id"])["events"][:4]}
    seen = wait(api, machine, f"state=started&timeout=1&from_event_id={before}").json()
    assert (seen["state"], seen["event_id"]) == ("started", events["started"])
    assert wait(api, machine, f"state=started&timeout=1&from_event_id={seen['event_id']}").status_code == 408
