"""The entry point: hands `serve` over before anything slow is imported, and everything else to the commands.

`serve` must start fast and hold little memory for its whole life: no typer, no rich, no client.
"""

from __future__ import annotations

import sys
from pathlib import Path

from settings.stops import StopSignals, ensure_streams

OPTION = "--config"


def main() -> None:
    """Run `vrambroker`; ends the process."""
    plain, config = serve_arguments(sys.argv[1:])
    if plain:
        sys.exit(serve(config))
    from cli.app import run  # noqa: PLC0415 - typer is not for `serve`
    from cli.streams import prepare  # noqa: PLC0415

    prepare()

    run()


def serve(config: Path | None) -> int:
    """Run a broker in the foreground; the exit status."""
    ensure_streams()
    stops = StopSignals()
    from broker.serving import run  # noqa: PLC0415 - the other commands never need it

    return run(config, stops)


def serve_arguments(arguments: list[str]) -> tuple[bool, Path | None]:
    """Whether these are a well-formed `serve`, and its configuration file. Help and mistakes are typer's to answer."""
    match arguments:
        case ["serve"]:
            return True, None
        case ["serve", "--config", path] if not path.startswith("-"):
            return True, Path(path)
        case ["serve", option] if option.startswith(f"{OPTION}=") and len(option) > len(OPTION) + 1:
            return True, Path(option.removeprefix(f"{OPTION}="))
        case _:
            return False, None


if __name__ == "__main__":
    main()
