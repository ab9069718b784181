"""CURVE keys as files: who may speak to a broker from another host, and as what.

Beneath the keys folder, `NAME.pub` admits a key under a role, `NAME.key` is all that its holder needs and is nobody
else's to read, `server.key` is the broker's own pair. What a role may do is the broker's to decide.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import secrets
import struct
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from settings.config import PREFIX, ConfigError, load

SERVER = "server"
LOCAL_WORKERS = "local-workers"
"""The key that the supervisor's own workers use where the worker link has keys."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_Z85 = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_HEX = re.compile(r"[0-9A-Fa-f]{64}")


class Role(enum.Enum):
    """What a key is admitted as: an admin is a client that may also use the admin lane."""

    CLIENT = "client"
    WORKER = "worker"
    ADMIN = "admin"


class PublicKey(Struct, frozen=True, kw_only=True):
    """An entry of the allow-list; `public` is Z85 text."""

    name: str
    role: Role
    public: str


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
        return self.read()[0]

    def read(self) -> tuple[list[PublicKey], list[str]]:
        """The allow-list, by name, and what is wrong with entries that admit nobody: a text for each that cannot be
        read, and for each key that stands in it twice, since its role would be chance."""
        by_public: dict[str, list[PublicKey]] = {}
        problems = []
        for path in sorted(self.path.glob("*.pub")):
            try:
                key = self._public(path)
            except ConfigError as error:
                problems.append(str(error))
                continue
            by_public.setdefault(key.public, []).append(key)
        for keys in by_public.values():
            if len(keys) > 1:
                names = " and ".join(key.name for key in keys)
                problems.append(f"{self.path}: {names} are the same key")
        alone = [keys[0] for keys in by_public.values() if len(keys) == 1]
        return sorted(alone, key=lambda key: key.name), problems

    def server(self) -> KeyFile:
        """The broker's own pair."""
        return read_key(self._file(SERVER))

    def find(self, name: str) -> PublicKey:
        """One entry of the allow-list."""
        return self._public(self.path / f"{checked(name)}.pub")

    def secret_file(self, name: str) -> Path | None:
        """The file to give to a key's holder; None where it is not here (any more)."""
        path = self._file(checked(name))
        return path if path.exists() else None

    def make(self, name: str, role: Role, public: str | None = None) -> PublicKey:
        """Admit a new key; `public`, as Z85 or hex, is one whose secret its holder keeps."""
        if checked(name) == SERVER or (self.path / f"{name}.pub").exists() or self._file(name).exists():
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
        self._write(self.path / f"{name}.pub", key, 0o644)
        return key

    def remove(self, name: str) -> None:
        """Admit a key no more, be its entry readable or not."""
        if not (self.path / f"{checked(name)}.pub").exists():
            self.find(name)
        for path in (self.path / f"{name}.pub", self._file(name)):
            path.unlink(missing_ok=True)

    def _ready(self) -> None:
        """The folder, this user's alone, with the broker's pair in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
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

    def _public(self, path: Path) -> PublicKey:
        try:
            key = msgspec.json.decode(path.read_bytes(), type=PublicKey)
        except OSError:
            raise ConfigError(f"there is no key '{path.stem}' in {self.path}") from None
        except (ValueError, msgspec.DecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
        if key.name != path.stem or not _Z85.fullmatch(key.public):
            raise ConfigError(f"{path} is no public key of '{path.stem}'")
        return key

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
    if not _NAME.fullmatch(name):
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
    if not all(_Z85.fullmatch(text) for text in (key.public, key.secret, key.server)):
        raise ConfigError(f"key {path} holds what is no key")
    return key


def own_key() -> KeyFile | None:
    """The key that `VRAMBROKER_KEY` names, a file or a name in the keys folder; None without it. Raises ConfigError."""
    chosen = os.environ.get(f"{PREFIX}KEY", "")
    if not chosen:
        return None
    path = Path(chosen)
    named = _NAME.fullmatch(chosen) and not path.exists()
    return read_key(load().keys / f"{chosen}.key" if named else path)


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
        if _Z85.fullmatch(text) and codec.decode(text):
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
