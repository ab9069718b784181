"""The command line: its root, the commands that look, and all the others from their rooms; each turns words into a
command of the protocol and hands it on.

What executes and shows them is imported when the command runs, so that `--help` and mistakes are answered fast.
"""

# ruff: noqa: PLC0415 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import (
    admin,
    cataloguing,
    configuring,
    decisions,
    drawing,
    enduring,
    keys,
    loading,
    measuring,
    mending,
    recording,
    requests,
    residing,
)
from cli.options import Json, OneDevice, OneModel

app = typer.Typer(
    name="vrambroker",
    help="One address behind which GPUs full of diffusion models are driven. Starts a broker, and talks to one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> None:
    """Parse the command line and run its command; ends the process."""
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def show_version(wanted: bool) -> None:
    """`--version`, before anything else is looked at."""
    from protocol.version import VERSION

    if wanted:
        typer.echo(f"vrambroker {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", "-e", help="The broker's command address; without it, this machine's broker."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", "-k", help="The key to connect with: its file, or its name in this broker's folder."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The broker's TOML file, which says where it is.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Show the version, and end.")
    ] = False,
) -> None:
    """Starts a broker, and talks to one."""
    from settings.config import choose_file
    from settings.keys import choose

    context.obj = endpoint
    if config:
        choose_file(config)
    if key:
        choose(key)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option("--config", help="The TOML file.", dir_okay=False)] = None,
) -> None:
    """Run a broker in the foreground until SIGINT or SIGTERM."""
    from cli.main import serve as run_broker

    raise typer.Exit(run_broker(config))


@app.command()
def selftest(
    device: Annotated[str, typer.Option("--device", "-d", help="cuda:0, cpu or virtual.")] = "",
    as_json: Json = False,
) -> None:
    """Prove a device in two minutes, in a broker of its own: memory, speed, pictures, options, recovery; a verdict."""
    from cli.selftest.verdict import selftest as prove

    prove(device, as_json=as_json)


@app.command()
def status(
    context: typer.Context,
    model_id: OneModel = "",
    wait: Annotated[
        float | None, typer.Option("--wait", min=0, help="Seconds to wait until every worker is ready.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the broker, its devices and what they hold."""
    from cli.watching import status as show

    show(context.obj, as_json, model_id=model_id, wait_seconds=wait)


@app.command()
def ps(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until interrupted.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between looks.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Show memory, models and running work."""
    from cli.watching import ps as show

    show(context.obj, as_json, watch=watch, interval_seconds=interval)


@app.command()
def devices(
    context: typer.Context,
    device_id: OneDevice = "",
    as_json: Json = False,
) -> None:
    """Show each device as hardware and as a process."""
    from cli.watching import devices as show

    show(context.obj, as_json, device_id=device_id)


@app.command()
def events(
    context: typer.Context,
    topics: Annotated[
        list[str] | None, typer.Argument(help="Beginnings such as telemetry. or job.; all if none.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many.")] = None,
    events_endpoint: Annotated[
        str | None, typer.Option("--events-endpoint", help="The broker's events address.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the broker publishes.

    A line for each event; with --json one JSON document a line.
    """
    from cli.watching import events as show

    show(context.obj, as_json, topics=topics or [], count=count, events_endpoint=events_endpoint)


@app.command()
def schema(
    name: Annotated[str | None, typer.Argument(help="An action, an event or a record; all if none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The schema is JSON in any case.")] = False,
) -> None:
    """Print the JSON Schema of the protocol."""
    from cli.browsing import schema as show

    show(name)


app.add_typer(keys.app, name="keys")
app.add_typer(mending.app, name="catalog")
app.add_typer(configuring.app, name="config")
app.add_typer(loading.app, name="loadgen")

for command in (
    residing.load,
    residing.unload,
    residing.pin,
    residing.unpin,
    drawing.generate,
    requests.cancel,
    requests.result,
    cataloguing.models,
    cataloguing.info,
    cataloguing.scan,
    cataloguing.search,
    cataloguing.register,
    cataloguing.unregister,
    cataloguing.edit,
    decisions.plan,
    decisions.explain,
    measuring.validate,
    measuring.benchmark,
    measuring.optimize,
    recording.record,
    recording.replay,
    enduring.soak,
    admin.drain,
    admin.resume,
    admin.restart,
):
    app.command()(command)
