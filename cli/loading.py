"""`vrambroker loadgen`: load made on purpose, a report of what it was like, two reports beside each other.

What executes and shows them is imported when the command runs.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import completing
from cli.options import Patience, Processes, ReportFolder, ReportJson, Slo, Thresholds, parsed

if TYPE_CHECKING:
    pass

app = typer.Typer(help="Load a broker on purpose, and report what it was like.", no_args_is_help=True)

Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Most popular first; all if none.", autocompletion=completing.models),
]


@app.command()
def run(
    context: typer.Context,
    scenario: Annotated[Path | None, typer.Argument(help="A scenario's file, JSON or TOML.", dir_okay=False)] = None,
    rate: Annotated[
        str,
        typer.Option("--rate", help="Open loop: commands a second; 10,20,40 are three stages."),
    ] = "",
    concurrency: Annotated[
        str, typer.Option("--concurrency", "-c", help="Closed loop: commands under way; several as with --rate.")
    ] = "",
    seconds: Annotated[float, typer.Option("--seconds", "-s", help="Of each stage.")] = 10.0,
    warm_up: Annotated[float, typer.Option("--warm-up", help="Seconds that are not counted.")] = 2.0,
    mix: Annotated[
        list[str] | None,
        typer.Option("--mix", metavar="ACTION[=WEIGHT]", help="Of these commands; pictures if none."),
    ] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field of every picture's command.")
    ] = None,
    models: Models = None,
    zipf: Annotated[float, typer.Option("--zipf", help="How uneven their popularity is; 0: even.")] = 1.0,
    arrival: Annotated[str, typer.Option("--arrival", help="poisson, gamma or uniform.")] = "poisson",
    burstiness: Annotated[float, typer.Option("--burstiness", help="Of gamma: above 1 in bursts.")] = 1.0,
    cancel: Annotated[float, typer.Option("--cancel", help="Share of the commands that are cancelled.")] = 0.0,
    deadline: Annotated[float, typer.Option("--deadline", help="Seconds, of each command.")] = 0.0,
    slo: Slo = 1.0,
    clients: Annotated[int, typer.Option("--clients", help="Connections.")] = 8,
    churn: Annotated[int, typer.Option("--churn", help="Commands after which a client is replaced.")] = 0,
    processes: Processes = 1,
    probe: Annotated[float, typer.Option("--probe", help="Pings a second beside the load.")] = 10.0,
    patience: Patience = 60.0,
    seed: Annotated[int, typer.Option("--seed", help="The same again for the same.")] = 1,
    thresholds: Thresholds = None,
    output: ReportFolder = None,
    as_json: ReportJson = False,
) -> None:
    """Send what the options, or a scenario's file, ask for; show and write what became of it."""
    from cli.generating import execute, scenario_of
    from cli.options import key_and_value

    given = dict(parsed(key_and_value, text, "--set") for text in fields or [])
    chosen = scenario_of(
        scenario,
        rates=rate,
        levels=concurrency,
        seconds=seconds,
        mix=mix or [],
        fields=given,
        settings={
            "models": models or [],
            "zipf": zipf,
            "warm_up_seconds": warm_up,
            "arrival": arrival,
            "burstiness": burstiness,
            "cancel_share": cancel,
            "deadline_seconds": deadline,
            "slo_seconds": slo,
            "clients": clients,
            "churn_commands": churn,
            "processes": processes,
            "probe_hz": probe,
            "patience_seconds": patience,
            "seed": seed,
            "thresholds": thresholds or [],
        },
    )
    execute(context.obj, chosen, output=output, as_json=as_json)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A report.json.", dir_okay=False)],
    after: Annotated[Path, typer.Argument(help="Another.", dir_okay=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show two reports beside each other."""
    from cli.generating import compare as show

    show(before, after, as_json=as_json)
