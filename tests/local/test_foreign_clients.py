"""Two clients that others have written for Fly's API walk through the local one, as they are.

What they can't do on Fly either is told where it is met: such a call must not work here. `make setup` installs both;
they ask for different versions of httpx, and work with the newer.
"""

import asyncio
import time
import uuid

import flaude.fly_client
import pytest
from flaude import MachineConfig, MachineExitError, run_and_destroy
from flaude.app import create_app, ensure_app, get_app
from flaude.fly_client import FlyAPIError
from flaude.machine import create_machine, destroy_machine, get_machine, start_machine, stop_machine, update_machine
from flaude.runner import wait_for_machine_exit
from flaude.volume import create_volume, destroy_volume, list_volumes
from fly_python_sdk.exceptions import FlyError
from fly_python_sdk.fly import Fly
from fly_python_sdk.fly.api import FlyApi
from fly_python_sdk.models.machine import FlyMachine, FlyMachineConfig, FlyMachineConfigGuest, FlyMachineConfigRestart


@pytest.fixture
def program(tmp_path):
    """Makes the image's own program, since neither client names another: a worker that is none."""

    def make(script):
        package = tmp_path / "flyexecutor"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        # Not in the module: Python may have compiled the one before, which was as long, in the same second.
        (tmp_path / "script").write_text(script)
        (package / "worker.py").write_text(f"import os\nos.execv('/bin/sh', ['sh', {str(tmp_path / 'script')!r}])\n")
        return {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}

    return make


@pytest.fixture
def endless(program, tmp_path):
    """A program without an end, and how to wait until it runs: only then is it ended by a signal, as it should be."""
    running = tmp_path / "running"

    def wait():
        while not running.exists():
            time.sleep(0.01)

    return program(f"touch {running}; exec sleep 600"), wait


@pytest.fixture
def flaude_of(local_fly, monkeypatch):
    """Makes configurations of flaude, which talks to the local Fly."""
    monkeypatch.setattr(flaude.fly_client, "FLY_API_BASE", f"{local_fly.api_url}/v1")
    monkeypatch.setenv("FLY_API_TOKEN", local_fly.token)

    def make(env, **options):
        needed = {"image": local_fly.image, "claude_code_oauth_token": "t", "prompt": "p", "auto_destroy": False}
        return MachineConfig(**{**needed, **options}, env=env)

    return make


def test_flaude_walks_through_apps_machines_and_volumes(flaude_of, endless):
    env, wait_until_it_runs = endless
    config = flaude_of(env, metadata={"colour": "red"})
    name = f"app-{uuid.uuid4().hex}"

    async def walk():
        app = await create_app(name)
        assert await get_app("no-such") is None
        assert await ensure_app(name) == app
        machine = await create_machine(name, config, name="one")
        assert (machine.name, machine.state, machine.region) == ("one", "created", "iad")
        path = f"/apps/{name}/machines"
        assert (await flaude.fly_client.fly_get(f"{path}/{machine.id}/wait?state=started"))["ok"] is True
        assert (await get_machine(name, machine.id)).state == "started"
        assert [one["id"] for one in await flaude.fly_client.fly_get(f"{path}?metadata.colour=red")] == [machine.id]
        wait_until_it_runs()
        await stop_machine(name, machine.id)
        # Its wait names no version, is refused as on Fly, and it goes on by asking.
        assert await wait_for_machine_exit(name, machine.id, poll_interval=0.01) == ("stopped", 130)
        await start_machine(name, machine.id)
        assert (await get_machine(name, machine.id)).state in {"starting", "started"}
        volume = await create_volume(name)
        assert await list_volumes(name) == [volume]
        await destroy_volume(name, volume.id)
        assert await list_volumes(name) == []
        await destroy_machine(name, machine.id)
        assert await flaude.fly_client.fly_get(path) == []
        await destroy_machine(name, machine.id)  # says nothing of one that is gone

    asyncio.run(walk())


def test_flaude_runs_a_program_to_its_end_and_tells_how_it_went(flaude_of, program, local_fly):
    with pytest.raises(MachineExitError) as failed:
        asyncio.run(run_and_destroy(local_fly.app, flaude_of(program("exit 3"))))
    assert (failed.value.exit_code, failed.value.state) == (3, "stopped")
    result = asyncio.run(run_and_destroy(local_fly.app, flaude_of(program("exit 0"))))
    assert (result.exit_code, result.destroyed) == (0, True)


def test_flaude_is_told_what_is_wrong(flaude_of, endless, local_fly):
    config = flaude_of(endless[0])
    app, name = local_fly.app, uuid.uuid4().hex

    async def refused(call):
        with pytest.raises(FlyAPIError) as error:
            await call
        return error.value.status_code

    async def walk():
        machine = await create_machine(app, config, name=name)
        assert await refused(create_machine(app, config, name=name)) == 409
        assert await refused(create_machine("no-such", config)) == 404
        assert await refused(create_machine(app, flaude_of({}, image="no/such"))) == 422
        assert await refused(create_machine(app, config, token="wrong")) == 401
        assert await refused(create_app(app)) == 422
        assert await refused(get_machine(app, "no-such")) == 404
        # It updates by PUT, which Fly's API has not: POST does that.
        assert await refused(update_machine(app, machine.id, config)) == 405
        await flaude.fly_client.fly_get(f"/apps/{app}/machines/{machine.id}/wait?state=started")
        await machine.cleanup()
        assert (await get_machine(app, machine.id)).state == "destroyed"

    asyncio.run(walk())


@pytest.fixture
def sdk(local_fly, monkeypatch):
    """fly-python-sdk, which talks to the local Fly: its address is a default that none of its classes hands on."""
    timeout, version, _ = FlyApi.__init__.__defaults__
    monkeypatch.setattr(FlyApi.__init__, "__defaults__", (timeout, version, local_fly.api_url))
    return Fly(local_fly.token)


def test_fly_python_sdk_walks_through_apps_and_machines(sdk, endless, local_fly):
    env, wait_until_it_runs = endless
    name, organization = f"app-{uuid.uuid4().hex}", sdk.Org(uuid.uuid4().hex)
    config = FlyMachineConfig(
        image=local_fly.image,
        env=env,
        metadata={"colour": "red"},
        guest=FlyMachineConfigGuest(cpu_kind="shared", cpus=1, memory_mb=256),
        restart=FlyMachineConfigRestart(policy="no"),
    )

    async def walk():
        await organization.create_app(name)
        assert [app.name for app in await organization.list_apps()] == [name]
        app = organization.App(name)
        assert (await app.inspect()).organization.slug == organization.org_slug
        made = await app.create_machine(FlyMachine(name="one", region="iad", config=config))
        assert (made.name, made.state, made.config.metadata) == ("one", "created", {"colour": "red"})
        assert made.created_at <= made.updated_at
        machine = app.Machine(made.id)
        await until(machine, "started")
        assert [one.id for one in await app.list_machines(regions=["iad"])] == [made.id]
        wait_until_it_runs()
        # What its own stop sends; that one fails in Python, on a method that it does not have.
        assert (await app._make_api_post_request(f"apps/{name}/machines/{made.id}/stop")).status_code == 200
        await until(machine, "stopped")
        events = await machine.get_events()
        assert events[0].type == "exit"
        assert events[0].request.exit_event["exit_code"] == 130
        await machine.start()
        await until(machine, "started")
        copy = await machine.clone(name="two")
        assert set(await app.list_machines(ids_only=True)) == {made.id, copy.id}
        with pytest.raises(FlyError):
            await machine.destroy()  # a running one, without force
        assert (await app._make_api_delete_request(f"apps/{name}/machines/{copy.id}?force=true")).status_code == 200
        await app._make_api_post_request(f"apps/{name}/machines/{made.id}/stop")
        await until(machine, "stopped")
        await app.destroy_machines([made.id])
        await app.delete()
        assert await organization.list_apps() == []

    asyncio.run(walk())


def test_fly_python_sdk_is_told_what_is_wrong(sdk, local_fly):
    app = sdk.Org().App(local_fly.app)
    image = FlyMachineConfig(image="no/such")

    async def walk():
        for call in (
            sdk.Org().create_app(local_fly.app),
            sdk.Org().App("no-such").inspect(),
            app.create_machine(FlyMachine(config=image)),
            app.Machine("no-such").inspect(),
            app.Machine("no-such").start(),
            app.Machine("no-such").destroy(),
            Fly("wrong").Org().list_apps(),
        ):
            with pytest.raises(FlyError):
                await call

    asyncio.run(walk())


async def until(machine, state):
    while (await machine.inspect()).state != state:
        pass
