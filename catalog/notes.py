"""What other programs keep beside a model: their sidecars, a trainer's own words in its header, a preview picture.

Decides which files count and what of them is ours to say. What a client wrote, and what the header states by ModelSpec,
stand above it. A file that cannot be read is left out, and costs nobody anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from catalog.spec import LONGEST_DESCRIPTION, LONGEST_LINE, MOST_TAGS
from modelfiles.fingerprints import Fingerprint
from modelfiles.jsonfile import JsonObject, read_object
from modelfiles.model import Kind, ModelFile
from modelfiles.paths import Roots
from protocol.errors import Fault
from protocol.records import Record
from settings.logs import Logger

LIMIT_BYTES = 1 << 20
MOST_WORDS = 50
MOST_FREQUENT = 10
"""Of a trainer's count of words: how many are taken for trigger words."""

PICTURES = (".preview.png", ".preview.jpg", ".preview.jpeg", ".preview.webp", ".png", ".jpg", ".jpeg", ".webp")
TRAINED = (
    *("ss_learning_rate", "ss_unet_lr", "ss_text_encoder_lr", "ss_network_dim", "ss_network_alpha"),
    *("ss_network_module", "ss_steps", "ss_max_train_steps", "ss_num_epochs", "ss_epoch", "ss_optimizer"),
    *("ss_lr_scheduler", "ss_num_train_images", "ss_batch_size_per_device", "ss_seed", "ss_clip_skip"),
    *("ss_resolution", "ss_noise_offset"),
)
"""kohya's keys that say how a file was trained."""

log = Logger()


class Said(Record, frozen=True, kw_only=True):
    """What a sidecar says; empty where it says nothing."""

    name: str = ""
    description: str = ""
    author: str = ""
    license: str = ""
    tags: list[str] = []
    source_url: str = ""
    trigger_words: list[str] = []
    base_model: str = ""


class Notes(Record, frozen=True, kw_only=True):
    """All that was found: `said` joined, the preview picture's path, how it was trained; `marks` are the files read."""

    said: Said = Said()
    preview_path: str = ""
    training: dict[str, Any] = {}
    marks: list[Fingerprint] = []

    def is_current(self, model: ModelFile, names: Callable[[str], Collection[str]]) -> bool:
        """Whether every file is as it was, and none has come; `names` lists a folder."""
        folder, beside = names_beside(model)
        there = set(beside).intersection(names(folder)) if beside else set()
        known = {mark.path.rpartition("/")[2] for mark in self.marks}
        return there == known and all(mark.is_current() for mark in self.marks)


def notes_of(model: ModelFile, roots: Roots, names: Callable[[str], Collection[str]]) -> Notes:
    """What lies beside a model, and what its trainer wrote into it; `names` lists a folder. Never raises."""
    said, marks, preview = Said(), [], ""
    folder, beside = names_beside(model)
    there = names(folder) if beside else ()
    for path in [Path(folder) / name for name in beside if name in there]:
        try:
            if not path.is_file():
                continue
            marks.append(Fingerprint.of(path))
            roots.inside(path)
            if path.name.lower().endswith(PICTURES):
                preview = preview or str(path)
                continue
            reader = next(read for ending, read in READERS.items() if path.name.endswith(ending))
            said = _joined(said, reader(read_object(path, LIMIT_BYTES)))
        except (OSError, Fault, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("what lies beside a model cannot be read: it is left out", path=str(path), reason=str(error))
    return Notes(
        said=_joined(said, _trainers(model.metadata)), preview_path=preview, training=_training(model), marks=marks
    )


def names_beside(model: ModelFile) -> tuple[str, list[str]]:
    """The folder of a model, and the name of every file in it that may say something of it, what says most first."""
    folder, _, name = model.path.rpartition("/")
    if model.kind is Kind.VIRTUAL:
        return folder, []
    stem = name if model.kind is Kind.FOLDER else name.rpartition(".")[0]
    return folder, [stem + ending for ending in _ENDINGS]


def _joined(first: Said, second: Said) -> Said:
    """The words of the first, and of the second where it has none."""
    return Said(**{name: getattr(first, name) or getattr(second, name) for name in Said.__struct_fields__})


def _line(value: object) -> str:
    return value.strip()[:LONGEST_LINE] if isinstance(value, str) else ""


def _text(value: object) -> str:
    return value.strip()[:LONGEST_DESCRIPTION] if isinstance(value, str) else ""


def _words(value: object, most: int = MOST_WORDS) -> list[str]:
    """Words of a list, or of text between commas."""
    given = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    words = [_line(word) for word in given if isinstance(word, str)]
    return list(dict.fromkeys(word for word in words if word))[:most]


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _civitai(content: JsonObject) -> Said:
    """Civitai Helper's `.civitai.info`: a version as Civitai's API answers it."""
    model = _object(content.get("model"))
    number, version = content.get("modelId"), content.get("id")
    known = type(number) is int and number > 0
    page = f"https://civitai.com/models/{number}" if known else ""
    return Said(
        name=_line(model.get("name")),
        description=_text(content.get("description")) or _text(model.get("description")),
        author=_line(_object(content.get("creator")).get("username")),
        tags=_words(content.get("tags") or model.get("tags"), MOST_TAGS),
        source_url=f"{page}?modelVersionId={version}" if known and type(version) is int else page,
        trigger_words=_words(content.get("trainedWords")),
        base_model=_line(content.get("baseModel")),
    )


def _matrix(content: JsonObject) -> Said:
    """StabilityMatrix's `.cm-info.json`."""
    number = content.get("ModelId")
    return Said(
        name=_line(content.get("ModelName")),
        description=_text(content.get("ModelDescription")),
        tags=_words(content.get("Tags"), MOST_TAGS),
        source_url=f"https://civitai.com/models/{number}" if type(number) is int and number > 0 else "",
        trigger_words=_words(content.get("TrainedWords")),
        base_model=_line(content.get("BaseModel")),
    )


def _swarm(content: JsonObject) -> Said:
    """SwarmUI's `.swarm.json`: ModelSpec's keys, with or without their beginning."""
    plain = {key.removeprefix("modelspec."): value for key, value in content.items()}
    return Said(
        name=_line(plain.get("title")),
        description=_text(plain.get("description")),
        author=_line(plain.get("author")),
        license=_line(plain.get("license")),
        tags=_words(plain.get("tags"), MOST_TAGS),
        trigger_words=_words(plain.get("trigger_phrase")),
        base_model=_line(plain.get("merged_from")),
    )


def _webui(content: JsonObject) -> Said:
    """The web UI's user metadata, `.json`."""
    return Said(
        description=_text(content.get("description")) or _text(content.get("notes")),
        trigger_words=_words(content.get("activation text")),
        base_model=_line(content.get("sd version")),
    )


READERS: Mapping[str, Callable[[JsonObject], Said]] = {
    ".swarm.json": _swarm,
    ".cm-info.json": _matrix,
    ".civitai.info": _civitai,
    ".json": _webui,
}
"""The ending of a sidecar → its reader."""

_ENDINGS = (*READERS, *PICTURES)


def _trainers(metadata: Mapping[str, str]) -> Said:
    """kohya's keys, and ModelSpec's trigger phrase."""
    base = metadata.get("ss_base_model_version") or metadata.get("ss_sd_model_name", "")
    phrase = metadata.get("modelspec.trigger_phrase", "")
    return Said(trigger_words=_words(phrase) or _frequent(metadata.get("ss_tag_frequency", "")), base_model=_line(base))


def _frequent(text: str) -> list[str]:
    """The words that stand most often in a trainer's captions: `{folder: {word: count}}` as JSON."""
    try:
        folders = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return []
    counts: Counter[str] = Counter()
    for words in folders.values() if isinstance(folders, dict) else ():
        for word, count in _object(words).items():
            if type(count) is int and 0 < count < 1 << 40:
                counts[_line(word)] += count
    return [word for word, _ in counts.most_common(MOST_FREQUENT) if word]


def _training(model: ModelFile) -> dict[str, Any]:
    """How a file was trained: numbers as numbers."""
    found: dict[str, Any] = {}
    for key in TRAINED:
        text = model.metadata.get(key, "")
        if text and text != "None":
            found[key.removeprefix("ss_")] = _number(text)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if abs(number) < 1 << 53:
            return number
    return text[:LONGEST_LINE]
