"""`python -m catalog SPEC`: the catalogue process; SPEC is a `CatalogSpec` as JSON."""

from __future__ import annotations

import sys

from catalog.session import Session
from protocol.link import decode_catalog_spec
from settings import lifeline, logs


def main() -> None:
    lifeline.hold()
    spec = decode_catalog_spec(sys.argv[1])
    logs.configure("catalog", generation=spec.generation)
    Session(spec).run()


if __name__ == "__main__":
    main()
