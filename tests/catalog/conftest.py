"""The files that catalogue tests list are those that the tests of `modelfiles` write."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "modelfiles"))
