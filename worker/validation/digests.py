"""Digests of weight files, and which of them are known already."""

from __future__ import annotations

from collections import OrderedDict

from modelfiles.fingerprints import Fingerprint
from protocol.records import Record

MOST_KEPT = 256


class Digests(Record, frozen=True, kw_only=True):
    """Of one file, in hex."""

    file_sha256: str
    auto_v2: str
    tensor_sha256: str
    blake3: str


class DigestCache:
    """Digests by what tells one state of a file from another; those of the newest files."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Fingerprint, Digests] = OrderedDict()

    def get(self, fingerprint: Fingerprint) -> Digests | None:
        return self._kept.get(fingerprint)

    def keep(self, fingerprint: Fingerprint, digests: Digests) -> None:
        self._kept[fingerprint] = digests
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
