"""`vrambroker keys`: who may connect to this broker from another host, and as what.

Works on the keys folder beneath the data folder; a broker that runs sees a change within a second.
"""

# ruff: noqa: PLC0415 - commands import what they run when they run

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import Struct

from cli.streams import write_json
from settings.keys import PublicKey, Role
from settings.printable import printable

if TYPE_CHECKING:
    from settings.keys import KeyFolder

app = typer.Typer(help="Make, list, show and remove the CURVE keys of this broker.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '.', '_' and '-'.")]
Config = Annotated[Path | None, typer.Option("--config", help="The broker's TOML file.", dir_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Shown(Struct, frozen=True, kw_only=True):
    """A key as this command prints it; what it does not show or have is empty."""

    name: str
    role: str
    z85: str
    hex: str
    file: str = ""
    secret_z85: str = ""
    secret_hex: str = ""


@app.command()
def make(
    name: Name,
    role: Annotated[Role, typer.Option("--role", help="An admin is a client that may also drain and restart.")],
    public: Annotated[
        str | None, typer.Option("--public", help="Admit this public key, Z85 or hex, whose secret its holder keeps.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and admit it."""
    with _folder(config) as folder:
        key = folder.make(name, role, public)
        _print([_shown(key, folder), _server(folder)], as_json)


@app.command("list")
def list_keys(config: Config = None, as_json: AsJson = False) -> None:
    """List the keys that are admitted, and the broker's own."""
    with _folder(config) as folder:
        found = folder.read()
        keys = [_shown(key, folder) for key in found.keys]
        for problem in found.problems:
            sys.stderr.write(f"warning: {printable(problem)}\n")
        _print([*keys, _server(folder)] if keys else [], as_json)


@app.command()
def show(
    name: Name,
    secret: Annotated[bool, typer.Option("--secret", help="The secret key too.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show a key, and the broker's own, which its holder needs too."""
    from settings.keys import SERVER

    with _folder(config) as folder:
        own = _server(folder)
        _print([own] if name == SERVER else [_shown(folder.find(name), folder, secret=secret), own], as_json)


@app.command()
def remove(name: Name, config: Config = None) -> None:
    """Admit a key no more, and delete its file here."""
    with _folder(config) as folder:
        folder.remove(name)
        sys.stdout.write(f"{name} is admitted no more\n")


@contextmanager
def _folder(config: Path | None) -> Iterator[KeyFolder]:
    """The keys folder of the settings in force; what is wrong with it ends the process."""
    from cli.session import FAILED, fail
    from settings.config import load
    from settings.file import ConfigError
    from settings.keys import KeyFolder

    try:
        yield KeyFolder(load(config).keys)
    except ConfigError as error:
        fail(str(error), FAILED)


def _shown(key: PublicKey, folder: KeyFolder, *, secret: bool = False) -> Shown:
    from settings.keys import hexadecimal, read_key

    file = folder.secret_file(key.name)
    held = read_key(file).secret if secret and file is not None else ""
    return Shown(
        name=key.name,
        role=key.role.value,
        z85=key.public,
        hex=hexadecimal(key.public),
        file=str(file or ""),
        secret_z85=held,
        secret_hex=hexadecimal(held) if held else "",
    )


def _server(folder: KeyFolder) -> Shown:
    from settings.keys import SERVER, hexadecimal

    public = folder.server().public
    return Shown(name=SERVER, role="the broker", z85=public, hex=hexadecimal(public))


def _print(keys: list[Shown], as_json: bool) -> None:
    if as_json:
        write_json(msgspec.json.format(msgspec.json.encode(keys), indent=2))
        return
    for key in keys:
        lines = [f"{key.name} ({key.role})", f"  Z85  {key.z85}", f"  hex  {key.hex}"]
        if key.secret_z85:
            lines += [f"  secret Z85  {key.secret_z85}", f"  secret hex  {key.secret_hex}"]
        if key.file:
            lines.append(f"  file {printable(key.file)}")
        sys.stdout.write("\n".join(lines) + "\n")
    if not keys:
        sys.stdout.write("no keys\n")
