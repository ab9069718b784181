"""`python -m reference`, `make docs`: makes what is made of the pages; `--check` looks at the fields alone."""

from __future__ import annotations

import argparse
import sys

from reference import fields
from reference.pages import DOCS, with_part

EXCHANGES = "exchanges"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the fields are others")
    if parser.parse_args().check:
        same = (DOCS / "fields.md").read_text() == fields.page()
        sys.exit(0 if same else "docs/fields.md is not what the structs say: run `make docs`")
    from reference.printing import printed  # noqa: PLC0415 - a check of the fields starts no broker
    from reference.transcripts import exchanges  # noqa: PLC0415

    (DOCS / "fields.md").write_text(fields.page())
    protocol = DOCS / "protocol.md"
    protocol.write_text(with_part(protocol.read_text(), EXCHANGES, printed(exchanges())))


if __name__ == "__main__":
    main()
