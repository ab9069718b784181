"""A model's files as the libraries see them: links to open descriptors of exactly those that were checked.

Libraries look for files by name in a folder, and differ in what they prefer there. They are given a folder of our own
with nothing else in it; what is replaced meanwhile at the original's place is not what they read.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from modelfiles.contents import Content
from modelfiles.fingerprints import Fingerprint
from modelfiles.jsonfile import open_regular
from protocol.errors import ErrorCode, Fault

DESCRIPTORS = Path("/proc/self/fd")


class Staging:
    """A private folder beneath `runtime`, there as long as the context lasts. Raises Fault where it cannot be made."""

    def __init__(self, runtime: Path, device_id: str, checked: Iterable[Fingerprint]) -> None:
        self._checked = {print_.path: print_ for print_ in checked if not print_.is_folder}
        self._open: dict[str, int] = {}
        try:
            runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder = Path(tempfile.mkdtemp(prefix=_prefix(device_id), dir=runtime))
        except OSError as error:
            text = f"no folder for the load can be made in the runtime folder: {error.strerror}"
            raise Fault(ErrorCode.MODEL_LOADING_FAILED, text, retryable=True) from None

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        shutil.rmtree(self._folder, ignore_errors=True)

    def folder(self, name: str, reads: Mapping[str, str]) -> str:
        """A folder with these files under these names. Raises Fault MODEL_CORRUPTED where one is another now."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for file_name, path in reads.items():
            self._link(folder / file_name, path)
        return str(folder)

    def file(self, path: str, name: str) -> str:
        """One file, under a name of its own. Raises as `folder`."""
        link = self._folder / name
        self._link(link, path)
        return str(link)

    def verify(self) -> None:
        """Raise Fault MODEL_CORRUPTED where a file was written to since it was checked."""
        for path, descriptor in self._open.items():
            self._checked[path].verify(os.fstat(descriptor))

    def contents(self) -> list[Content]:
        """Everything that was read."""
        return [Content.of(descriptor, path) for path, descriptor in self._open.items()]

    def _link(self, link: Path, path: str) -> None:
        if path not in self._open:
            if path not in self._checked:
                raise Fault(ErrorCode.UNSAFE_MODEL, f"{Path(path).name} was not checked")
            descriptor = open_regular(Path(path))
            self._open[path] = descriptor
            self._checked[path].verify(os.fstat(descriptor))
        link.symlink_to(DESCRIPTORS / str(self._open[path]))


def clear_leftovers(runtime: Path, device_id: str) -> None:
    """Remove the folders of former workers of this device that were killed in the middle of a load."""
    for folder in runtime.glob(f"{_prefix(device_id)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(device_id: str) -> str:
    return f"staging-{device_id.replace(':', '-')}-"
