"""CURVE keys as files: who may speak to a broker from another host, and as what.

Beneath the keys folder, `NAME.pub` admits a key under a role, `NAME.key` is all that its holder needs and is nobody
else's to read, `server.key` is the broker's own pair. What a role may do is the broker's to decide.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import struct
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from settings.allowlist import (
    NAME,
    SUFFIX,
    Z85_KEY,
    Admitted,
    AllowList,
    PublicKey,
    Role,
    read_entry,
    refuse_loose,
)
from settings.config import PREFIX, load
from settings.file import ConfigError

__all__ = ["KeyFile", "KeyFolder", "PublicKey", "Role"]

SERVER = "server"
LOCAL_WORKERS = "local-workers"
"""The key that the supervisor's own workers use where the worker link has keys."""

LOCAL_WEB = "local-web"
"""The key of the supervisor's own web server where commands need keys."""

_HEX = re.compile(r"[0-9A-Fa-f]{64}")


class KeyFile(Struct, frozen=True, kw_only=True):
    """A pair of keys and the broker's public key, all as Z85 text; `role` None: it is the broker's own."""

    name: str
    role: Role | None = None
    public: str
    secret: str
    server: str

    def apply(self, socket: Any) -> None:
        """Let a zmq socket that is not connected yet meet the broker with this key."""
        socket.curve_serverkey = self.server.encode()
        socket.curve_publickey = self.public.encode()
        socket.curve_secretkey = self.secret.encode()


class KeyFolder:
    """The keys folder of one broker. Every method raises ConfigError for what cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def admitted(self) -> list[PublicKey]:
        """The allow-list alone."""
        return self.read().keys

    def read(self) -> Admitted:
        """The allow-list, and what is wrong with entries that admit nobody. A folder that is not there has none."""
        return AllowList(self.path).read() if self.path.exists() else Admitted()

    def server(self) -> KeyFile:
        """The broker's own pair."""
        return read_key(self._file(SERVER))

    def find(self, name: str) -> PublicKey:
        """One entry of the allow-list."""
        path = self.path / f"{checked(name)}{SUFFIX}"
        if not path.exists():
            raise ConfigError(f"there is no key '{name}' in {self.path}")
        return read_entry(path)

    def secret_file(self, name: str) -> Path | None:
        """The file to give to a key's holder; None where it is not here (any more)."""
        path = self._file(checked(name))
        return path if path.exists() else None

    def make(self, name: str, role: Role, public: str | None = None) -> PublicKey:
        """Admit a new key; `public`, as Z85 or hex, is one whose secret its holder keeps."""
        if checked(name) == SERVER or (self.path / f"{name}{SUFFIX}").exists() or self._file(name).exists():
            raise ConfigError(f"there is a key '{name}' already")
        given = z85(public) if public is not None else None
        self._ready()
        server = self.server().public
        made, secret = (given, "") if given is not None else _pair()
        key = PublicKey(name=name, role=role, public=made)
        known = {other.public: other.name for other in self.admitted()} | {server: SERVER}
        if key.public in known:
            raise ConfigError(f"this is the key of '{known[key.public]}' already")
        if secret:
            held = KeyFile(name=name, role=role, public=key.public, secret=secret, server=server)
            self._write(self._file(name), held, 0o600)
        self._write(self.path / f"{name}{SUFFIX}", key, 0o644)
        return key

    def remove(self, name: str) -> None:
        """Admit a key no more, be its entry readable or not."""
        if not (self.path / f"{checked(name)}{SUFFIX}").exists():
            self.find(name)
        for path in (self.path / f"{name}{SUFFIX}", self._file(name)):
            path.unlink(missing_ok=True)

    def _ready(self) -> None:
        """The folder, this user's alone, with the broker's pair in it; one that others could write is not mended here,
        since what they wrote would be admitted."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            refuse_loose(self.path)
            self.path.chmod(0o700)
        except OSError as error:
            raise ConfigError(f"keys folder {self.path}: {error.strerror}") from None
        if not self._file(SERVER).exists():
            public, secret = _pair()
            held = KeyFile(name=SERVER, public=public, secret=secret, server=public)
            with contextlib.suppress(FileExistsError):
                self._write(self._file(SERVER), held, 0o600)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.key"

    def _write(self, path: Path, content: Struct, mode: int) -> None:
        """A new file, complete under its name or not there. Raises FileExistsError."""
        scratch = self.path / f".{path.name}.{secrets.token_hex(4)}"
        try:
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
            os.link(scratch, path)
        except FileExistsError:
            raise
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        finally:
            scratch.unlink(missing_ok=True)


def checked(name: str) -> str:
    """A key's name, which is a file's too. Raises ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"'{name[:80]}' is no name of a key: 1 to 64 letters, digits, '.', '_' and '-'")
    return name


def read_key(path: Path) -> KeyFile:
    """A pair of keys. Raises ConfigError, also where others may read the file."""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode & 0o777
            key = msgspec.json.decode(stream.read(), type=KeyFile)
    except OSError as error:
        raise ConfigError(f"key {path} cannot be read: {error.strerror}") from None
    except (ValueError, msgspec.DecodeError) as error:
        raise ConfigError(f"key {path}: {error}") from None
    if mode & 0o077:
        raise ConfigError(f"key {path} can be read by others (mode {mode:04o}): make it 0600")
    if not all(Z85_KEY.fullmatch(text) for text in (key.public, key.secret, key.server)):
        raise ConfigError(f"key {path} holds what is no key")
    return key


def own_key() -> KeyFile | None:
    """The key that `VRAMBROKER_KEY` names, a file or a name in the keys folder; None without it. Raises ConfigError."""
    chosen = os.environ.get(f"{PREFIX}KEY", "")
    if not chosen:
        return None
    path = Path(chosen)
    named = NAME.fullmatch(chosen) and not path.exists()
    return read_key(load().keys / f"{chosen}.key" if named else path)


def holders() -> tuple[Path, list[str]]:
    """The folder in which a key's name is looked for, and the names of the keys there that can be connected with.

    Raises ConfigError.
    """
    folder = load().keys
    try:
        names = sorted(
            path.stem for path in folder.glob("*.key") if path.stem not in (SERVER, LOCAL_WORKERS, LOCAL_WEB)
        )
    except OSError:
        names = []
    return folder, names


def choose(key: str) -> None:
    """Use this key in this process, as if `VRAMBROKER_KEY` said so."""
    os.environ[f"{PREFIX}KEY"] = key


def z85(text: str) -> str:
    """A key given as Z85 (40 characters) or hex (64) as Z85. Raises ConfigError."""
    from zmq.utils import z85 as codec  # noqa: PLC0415 - the supervisor reads keys without ZeroMQ

    text = text.strip()
    if _HEX.fullmatch(text):
        return codec.encode(bytes.fromhex(text)).decode()
    with contextlib.suppress(struct.error):
        if Z85_KEY.fullmatch(text) and codec.decode(text):
            return text
    raise ConfigError(f"'{text[:80]}' is no key: 40 characters of Z85, or 64 of hex")


def hexadecimal(key: str) -> str:
    """A Z85 key as hex: the 32 bytes that NetMQ wants."""
    from zmq.utils import z85 as codec  # noqa: PLC0415 - as above

    return codec.decode(key).hex()


def _pair() -> tuple[str, str]:
    import zmq  # noqa: PLC0415 - as above

    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()
