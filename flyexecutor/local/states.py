"""A machine's states: which follows which, in which of them an action is taken, and how it is refused in the others.

Owns nothing. From https://fly.io/docs/machines/machine-states/ (August 2026); texts as they were seen there, or like
those [unsure: of actions other than start and destroy].
"""

from flyexecutor.local.problems import Refused

NEXT = {
    "created": {"starting", "stopped", "destroying", "updating"},
    "starting": {"started", "stopping", "stopped", "failed", "destroying"},
    "started": {"stopping", "stopped", "restarting", "destroying", "replacing", "suspending"},
    "stopping": {"stopped", "destroying"},
    "suspending": {"suspended", "starting", "stopped", "destroying"},
    "suspended": {"starting", "stopping", "destroying", "updating"},
    "restarting": {"starting", "stopped", "destroying"},
    "replacing": {"starting", "stopped", "destroying"},
    "updating": {"starting", "stopped", "created", "destroying"},
    "stopped": {"starting", "destroying", "updating"},
    "failed": {"starting", "destroying"},
    "destroying": {"destroyed"},
}  # a state without an entry is final
SETTLED = frozenset({"started", "stopped", "suspended", "failed", "destroyed"})
REPLACED = "replaced"  # what a machine's old versions are

ALLOWED = {
    "start": {"created", "stopped", "failed", "suspended", "suspending"},
    "stop": {"started", "starting", "suspended"},
    "suspend": {"started"},
    "signal": {"started"},
    "update": {"created", "stopped", "started", "suspended"},
    "destroy": {"stopped", "suspended", "created", "failed"},  # any, by force
}
KNOWN_TEXTS = {
    ("start", "starting"): (409, "aborted: machine still attempting to start"),
    ("start", "replacing"): (412, "failed_precondition: machine getting replaced, refusing to start"),
}
STILL_ACTIVE = (412, "failed_precondition: machine still active, refusing to start")  # it has just stopped


def refuse(action: str, state: str) -> Refused:
    """The answer to an action that a machine in this state does not take."""
    if (action, state) in KNOWN_TEXTS:
        return Refused(*KNOWN_TEXTS[action, state])
    if action == "destroy":
        text = "unable to destroy machine, not currently stopped, suspended, failed or created"
    else:
        text = f"unable to {action} machine from current state: '{state}'"
    return Refused(412, f"failed_precondition: {text}")


def check(action: str, state: str) -> None:
    """Raises Refused if a machine in this state does not take the action."""
    if state not in ALLOWED[action]:
        raise refuse(action, state)


def can_reach(state: str, wanted: frozenset[str]) -> bool:
    """Whether a machine in a state may ever be in one of those wanted."""
    found, new = set[str](), {state}
    while new:
        found |= new
        new = {after for each in new for after in NEXT.get(each, ())} - found
    return not wanted.isdisjoint(found)
