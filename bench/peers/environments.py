"""One virtual environment for each peer beneath `build/peers/`, with the versions of `requirements/<peer>.txt`.

An environment is made again when its requirements or the Python change. A peer that cannot be installed is an answer,
not an error: what pip said is its reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

FOLDER = Path("build/peers")
REQUIREMENTS = Path(__file__).parent / "requirements"
INSTALL_SECONDS = 900


def python_of(peer: str) -> Path:
    return FOLDER / peer / "bin" / "python"


def fingerprint(peer: str) -> str:
    """What an environment was made from."""
    return sha256((REQUIREMENTS / f"{peer}.txt").read_bytes() + sys.version.encode()).hexdigest()


def install(peer: str) -> str:
    """Make the peer's environment if it is not there; the reason if it cannot be made, else nothing."""
    folder, wanted = FOLDER / peer, fingerprint(peer)
    stamp = folder / ".ready"
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    requirements = REQUIREMENTS / f"{peer}.txt"
    pins = requirements.read_text().splitlines()
    pinned = next(pin for pin in pins if pin.startswith(f"{peer}=="))
    print(f"bench-peers: {pinned} ({len(pins)} packages) into {folder}", flush=True)
    pip = [str(python_of(peer)), "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        for command in ([sys.executable, "-P", "-m", "venv", str(folder)], [*pip, "--requirement", str(requirements)]):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"not installed within {INSTALL_SECONDS} s"
    except subprocess.CalledProcessError as error:
        return "not installed: " + last_line(error.stderr or error.stdout)
    stamp.write_text(wanted)
    return ""


def last_line(text: str) -> str:
    """The last line that says something; pip ends with its error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"
