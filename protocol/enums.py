"""The closed sets of the wire: every enum of the host with its ordinals.

A member's value is its name on the wire; `ordinal` is the number that the host's default serializer writes.
Members that the host lacks have ordinals after its own.
"""

from __future__ import annotations

import enum


class WireEnum(enum.Enum):
    """An enum with two spellings: a name (the value) and an ordinal."""

    ordinal: int

    def __new__(cls, name: str, ordinal: int) -> WireEnum:
        member = object.__new__(cls)
        member._value_ = name
        member.ordinal = ordinal
        return member


class LoadPriority(WireEnum):
    """How urgent a command is; the order of service on a device."""

    Low = "Low", 0
    Normal = "Normal", 1
    High = "High", 2
    Critical = "Critical", 3


class ModelOptimizationTarget(WireEnum):
    """What `optimize_model` improves."""

    Speed = "Speed", 0
    Memory = "Memory", 1
    Quality = "Quality", 2
    Balanced = "Balanced", 3


class OptimizationLevel(WireEnum):
    """How far `optimize_model` may go."""

    NONE = "None", 0
    Basic = "Basic", 1
    Balanced = "Balanced", 2
    Aggressive = "Aggressive", 3
    Maximum = "Maximum", 4


class ModelPrecision(WireEnum):
    """The number format that a load asks for."""

    Auto = "Auto", 0
    Float32 = "Float32", 1
    Float16 = "Float16", 2
    Int8 = "Int8", 3
    Int4 = "Int4", 4
    BFloat16 = "BFloat16", 5
    Float8 = "Float8", 6


class ModelSortBy(WireEnum):
    """The order of a list or a search."""

    Name = "Name", 0
    Type = "Type", 1
    Size = "Size", 2
    Rating = "Rating", 3
    CreatedDate = "CreatedDate", 4
    LastUsed = "LastUsed", 5
    Performance = "Performance", 6
    Relevance = "Relevance", 7


class ModelSearchField(WireEnum):
    """The text that a search looks into."""

    Name = "Name", 0
    Description = "Description", 1
    Tags = "Tags", 2
    Author = "Author", 3
    Version = "Version", 4


class SortDirection(WireEnum):
    """Smallest or greatest first."""

    Ascending = "Ascending", 0
    Descending = "Descending", 1


class ModelStatus(WireEnum):
    """The state of a model as a whole."""

    Unknown = "Unknown", 0
    Available = "Available", 1
    Loading = "Loading", 2
    Loaded = "Loaded", 3
    Unloading = "Unloading", 4
    Error = "Error", 5
    Missing = "Missing", 6
    Corrupted = "Corrupted", 7


class ModelLoadingStatus(WireEnum):
    """How far a model has come towards a device."""

    NotLoaded = "NotLoaded", 0
    Loading = "Loading", 1
    Loaded = "Loaded", 2
    Unloading = "Unloading", 3
    Failed = "Failed", 4
    Cached = "Cached", 5


class ComponentType(WireEnum):
    """The part that a component plays in its pipeline."""

    Unknown = "Unknown", 0
    UNet = "UNet", 1
    VAE = "VAE", 2
    TextEncoder = "TextEncoder", 3
    TextEncoder2 = "TextEncoder2", 4
    Tokenizer = "Tokenizer", 5
    Scheduler = "Scheduler", 6
    ControlNet = "ControlNet", 7
    LoRA = "LoRA", 8
    SafetyChecker = "SafetyChecker", 9
    Transformer = "Transformer", 10
    TextEncoder3 = "TextEncoder3", 11
    ImageEncoder = "ImageEncoder", 12


class ComponentStatus(WireEnum):
    """The state of one component."""

    Unknown = "Unknown", 0
    Available = "Available", 1
    Loading = "Loading", 2
    Loaded = "Loaded", 3
    Cached = "Cached", 4
    Unloading = "Unloading", 5
    Error = "Error", 6


class PrecisionMode(WireEnum):
    """A number format that a model can run in."""

    Float32 = "Float32", 0
    Float16 = "Float16", 1
    Int8 = "Int8", 2
    BFloat16 = "BFloat16", 3
    Int4 = "Int4", 4
    Float8 = "Float8", 5


class DeviceType(WireEnum):
    """The kind of processor that a device is to the host."""

    Unknown = "Unknown", 0
    CPU = "CPU", 1
    GPU = "GPU", 2
    NPU = "NPU", 3
    TPU = "TPU", 4


class DeviceStatus(WireEnum):
    """The state of a device to the host."""

    Unknown = "Unknown", 0
    Offline = "Offline", 1
    Available = "Available", 2
    Busy = "Busy", 3
    Error = "Error", 4
    Maintenance = "Maintenance", 5


class ModelType(WireEnum):
    """The family of a model."""

    Unknown = "Unknown", 0
    SD15 = "SD15", 1
    SDXL = "SDXL", 2
    Flux = "Flux", 3
    Diffusion = "Diffusion", 4
    ControlNet = "ControlNet", 5
    LoRA = "LoRA", 6
    VAE = "VAE", 7
    TextEncoder = "TextEncoder", 8
    UNet = "UNet", 9
    Scheduler = "Scheduler", 10
    SD3 = "SD3", 11
    SD21 = "SD21", 12


class Encoding(enum.Enum):
    """How a payload is written."""

    JSON = "json"
    MSGPACK = "msgpack"


class Naming(enum.Enum):
    """How field names are spelled."""

    SNAKE = "snake"
    CAMEL = "camel"
    PASCAL = "pascal"


class EnumForm(enum.Enum):
    """How `WireEnum` members are written."""

    NAME = "name"
    NUMBER = "number"


class Lane(enum.Enum):
    """Who executes a command: the broker itself, the catalogue, or a worker's device or control side."""

    BROKER = "broker"
    CATALOG = "catalog"
    CONTROL = "control"
    DEVICE = "device"
    ADMIN = "admin"


class ReplyState(enum.Enum):
    """What a reply says of its command; `accepted` and `progress` are not final."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ACCEPTED = "accepted"
    PROGRESS = "progress"


class JobState(enum.Enum):
    """The life of a command as `get_result` and `job.*` events tell it."""

    QUEUED = "queued"
    RUNNING = "running"
    FINAL = "final"
    UNKNOWN = "unknown"


class DeviceKind(enum.Enum):
    """What stands behind a device id."""

    CUDA = "cuda"
    CPU = "cpu"
    VIRTUAL = "virtual"


class DeviceState(enum.Enum):
    """The state of a device's worker; one that is draining has work left, one that is drained has none."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    DRAINED = "drained"
    LOST = "lost"
    DISABLED = "disabled"


class Tier(enum.Enum):
    """Where a model's bytes are."""

    VRAM = "vram"
    RAM = "ram"
    DISK = "disk"


class PressureLevel(enum.Enum):
    """How close a memory is to being full of what cannot be had back."""

    NORMAL = "normal"
    ELEVATED = "elevated"
    HIGH = "high"
    CRITICAL = "critical"


class Severity(enum.Enum):
    """How much a validation issue weighs."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class CancelOutcome(enum.Enum):
    """What a `cancel` found."""

    CANCELLED = "cancelled"
    CANCELLING = "cancelling"
    ALREADY_FINISHED = "already_finished"
    UNKNOWN = "unknown"


class LoadSource(enum.Enum):
    """The fastest tier that a load could start from."""

    DISK = "disk"
    RAM = "ram"
    VRAM = "vram"


class CoordinationMode(enum.Enum):
    """What the host does with its own memory while it asks."""

    RAM_TO_VRAM = "ram_to_vram"
    CACHE_AND_VRAM_SYNC = "cache_and_vram_sync"
    CACHE_AND_VRAM_OPTIMIZATION = "cache_and_vram_optimization"


class LoadingStrategy(enum.Enum):
    """How a load trades speed against memory."""

    DEFAULT = "default"
    FAST = "fast"
    LOW_MEMORY = "low_memory"
    LAZY = "lazy"


class ValidationLevel(enum.Enum):
    """How deep `validate_model` looks."""

    BASIC = "basic"
    STANDARD = "standard"
    COMPREHENSIVE = "comprehensive"


class BenchmarkType(enum.Enum):
    """What `benchmark_model` measures."""

    PERFORMANCE = "Performance"
    INFERENCE = "Inference"
    COMPUTE = "Compute"
    MEMORY = "Memory"
    STABILITY = "Stability"
    POWER = "Power"
    MIXED = "Mixed"
    STRESS = "Stress"


class OptimizationTargetWord(enum.Enum):
    """The seed's words for `ModelOptimizationTarget`."""

    PERFORMANCE = "performance"
    SPEED = "speed"
    MEMORY = "memory"
    QUALITY = "quality"
    BALANCED = "balanced"


class HashDepth(enum.Enum):
    """How a scan identifies a file's content."""

    NONE = "none"
    FAST = "fast"
    FULL = "full"


class ImageFormat(enum.Enum):
    """The file format of generated images."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"


class Delivery(enum.Enum):
    """How generated images reach the client."""

    ATTACHMENT = "attachment"
    PATH = "path"
    BASE64 = "base64"


class ComponentRole(enum.Enum):
    """The components that `load_component` can replace."""

    VAE = "vae"
    UNET = "unet"
    TRANSFORMER = "transformer"
    TEXT_ENCODER = "text_encoder"
    TEXT_ENCODER_2 = "text_encoder_2"
    TOKENIZER = "tokenizer"
    SCHEDULER = "scheduler"
    LORA = "lora"
    CONTROLNET = "controlnet"
    TEXTUAL_INVERSION = "textual_inversion"
