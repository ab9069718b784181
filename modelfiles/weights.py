"""The weight files of one part of a folder: one file, a variant, or shards.

Decides which safetensors files a pipeline uses. Weights that exist only as pickles are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from modelfiles.allowed import PICKLES
from modelfiles.fingerprints import Fingerprint
from modelfiles.headers import Header, dtype_bytes, read_header
from modelfiles.jsonfile import INDEX_LIMIT_BYTES, corrupted, read_object, unsafe
from modelfiles.paths import Roots
from modelfiles.statements import packed_format
from modelfiles.tails import check_end
from protocol.records import Record

WEIGHTS: Mapping[str, str] = {
    "diffusers": "diffusion_pytorch_model",
    "transformers": "model",
    "stable_diffusion": "model",
}
"""Library → stem of its weight files."""

VARIANTS = ("", "fp16", "bf16", "fp32")
"""In the order of preference: the file without a variant is what a loader takes by itself."""

SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")


def weight_names(stem: str) -> list[str]:
    """Every name under which weights of a part may lie: whole or in shards, of any variant."""
    dotted = [f".{variant}" if variant else "" for variant in VARIANTS]
    single = [f"{stem}{variant}.safetensors" for variant in dotted]
    return [*single, *(f"{stem}.safetensors.index{variant}.json" for variant in dotted)]


class Weights(Record, frozen=True, kw_only=True):
    """The files (absolute) of one part; bytes are tensor data, `packed` the format of numbers that are no plain ones.

    `reads` are they all under the names that a library looks for: without a variant, and never both an index and a
    single file, since libraries differ in which of them they prefer.
    """

    files: list[str]
    reads: dict[str, str]
    file_bytes: int
    tensor_bytes: int
    dtype_bytes: dict[str, int]
    fingerprints: list[Fingerprint]
    packed: str = ""


def find_weights(folder: Path, stem: str, name: str, roots: Roots) -> Weights:
    """The weights of the part `name` in `folder`, every header checked.

    Raises Fault UNSAFE_MODEL where there are only pickles, MODEL_CORRUPTED where something is missing.
    """
    for variant in VARIANTS:
        dotted = f".{variant}" if variant else ""
        single = folder / f"{stem}{dotted}.safetensors"
        index = folder / f"{stem}.safetensors.index{dotted}.json"
        if single.exists():
            header = read_header(roots.inside(single))
            check_end(header)
            return _weights([header], {f"{stem}.safetensors": header.fingerprint.path})
        if index.exists():
            return _sharded(folder, stem, roots.inside(index), roots)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickles:
        raise unsafe(f"{name} has its weights only as a pickle, {pickles[0][:80]}: convert it to safetensors")
    raise corrupted(f"{name} has no weights: {stem}.safetensors is missing", missing=f"{name}/{stem}.safetensors")


def _sharded(folder: Path, stem: str, index: Path, roots: Roots) -> Weights:
    weight_map = read_object(index, INDEX_LIMIT_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise corrupted(f"{index.name} has no weight_map")
    expected: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not SHARD_NAME.fullmatch(shard):
            raise unsafe(f"{index.name} names the shard {str(shard)[:80]!r}: expected a safetensors file beside it")
        expected.setdefault(shard, set()).add(tensor)
    headers = []
    for shard in sorted(expected):
        if not (folder / shard).exists():
            raise corrupted(f"{index.name} names the shard {shard[:80]}, which is missing", missing=shard)
        header = read_header(roots.inside(folder / shard))
        check_end(header)
        absent = expected[shard] - {tensor.name for tensor in header.tensors}
        if absent:
            raise corrupted(f"{shard[:80]} lacks {len(absent)} tensors of the index, first {min(absent)[:80]!r}")
        headers.append(header)
    reads = {name: header.fingerprint.path for name, header in zip(sorted(expected), headers, strict=True)}
    fingerprint = Fingerprint.of(index)
    return _weights(headers, {f"{stem}.safetensors.index.json": str(index), **reads}, fingerprint)


def _weights(headers: list[Header], reads: dict[str, str], index: Fingerprint | None = None) -> Weights:
    dtypes: dict[str, int] = {}
    for header in headers:
        for dtype, size in dtype_bytes(header.tensors).items():
            dtypes[dtype] = dtypes.get(dtype, 0) + size
    return Weights(
        files=[header.fingerprint.path for header in headers],
        reads=reads,
        file_bytes=sum(header.fingerprint.size for header in headers),
        tensor_bytes=sum(header.data_bytes for header in headers),
        dtype_bytes=dtypes,
        packed=packed_format(tensor for header in headers for tensor in header.tensors),
        fingerprints=[*([index] if index else []), *(header.fingerprint for header in headers)],
    )
