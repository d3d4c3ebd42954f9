"""The command `flyexecutor`, for those who operate an app. Needs the extra `cli` (click, rich).

Each file beside this one is a command or two; `common` is what they share. This one names them, and turns our errors
into one sentence and exit code 1. No command starts a thread or a machine that its work does not need. Knows all rooms
below; nothing of ours knows it.
"""

import sys
from typing import Any

try:
    import click
    import rich as _rich  # noqa: F401 - asked for here, so that one sentence tells of both
except ModuleNotFoundError as exc:
    sys.exit(f"the command flyexecutor needs {exc.name}: pip install 'flyexecutor[cli]'")

from flyexecutor.cli import calls, doctor, local, machines, ps, schedules
from flyexecutor.errors import FlyExecutorError


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlyExecutorError as exc:
            raise click.ClickException(str(exc)) from None


@click.group(cls=_Group)
@click.version_option(package_name="flyexecutor")
def main() -> None:
    """Run Python calls on Fly Machines: see what runs, stop it, find out what is wrong.

    Settings come from the environment, as those of FlyMachineExecutor: FLY_TASKS_APP, FLY_API_TOKEN, REDIS_URL,
    WORKER_IMAGE (or FLY_IMAGE_REF), FLY_API_HOSTNAME, FLY_REGION, FLYEXECUTOR_SECRET. A token is never an argument:
    other users of a computer see those.

    Exit codes: 0 done, 1 it could not be done (one sentence on standard error says why), 2 wrong usage.
    """


for _command in (
    ps.ps,
    calls.logs,
    calls.kill,
    schedules.schedules,
    machines.reap,
    machines.prepare,
    doctor.doctor,
    local.local,
):
    main.add_command(_command)
