"""What each field of a command means, in a line. The tables of `docs/fields.md` take it from here; a field that stands
here in vain, or that nothing stands here for, fails a test."""

from __future__ import annotations

COMMON = {
    "request_id": "1 to 128 printable ASCII characters without spaces; made by the broker where it is absent",
    "device_id": "`cuda:0`, `cpu:1`, a device's `uuid`, or `auto` or empty: the broker places it",
    "priority": "the order of service",
    "timeout_seconds": "deadline counted from arrival; 0 or absent: the action's default",
    "wait_for_completion": "false: one reply, `accepted`, at once; the outcome comes as an event and from `get_result`",
    "stream_progress": "`progress` replies before the final one; not for a REQ socket",
    "conventions": "how the replies are spelled: `naming`, `enums`",
    "attachments": "the frames behind the payload, in their order: `name`, `media_type`, `bytes`",
}

OF_ALL = {
    "model_id": "the model's id in the catalogue",
    "model_path": "a file or folder beneath a model root",
    "model_type": "the family that the file is believed to be; where it differs from the file, a warning",
    "configuration": "see ModelLoadConfiguration below",
    "coordination_mode": "what the host says of its own cache: what it changes stands in `coordination`",
    "cache_optimized": "the host holds the file in RAM: no second copy in the RAM tier",
    "force": "load again although it is equal",
    "page": "from 1",
    "page_size": "1 to 1,000",
    "prefix": "`target_request_id` is the beginning of the one id meant: for people who type it",
    "target_request_id": "the request id of the other command",
    "tags": "texts; all of them have to be there",
    "sort_by": "the order of the page",
    "sort_direction": "ascending or descending",
    "component": "vae, unet, transformer, text_encoder, text_encoder_2, tokenizer, scheduler, lora, controlnet or "
    "textual_inversion",
    "path": "the file or folder of the part, beneath a model root",
    "source_model_id": "the model whose part is taken; the model itself restores its own",
    "name": "what the adapter or the word is called; absent: the file's own name, or its stem",
    "scale": "how much it counts",
    "loading_strategy": "`default`, `fast`, `low_memory` or `lazy`",
    "config_path": "the folder with the pipeline's configuration, for a single file without one beside it",
    "keep_alive": "seconds after its last use, or TimeSpan text, until the model leaves; 0: at once; -1: until evicted",
    "pin": "never evict it",
    "metadata": "what is said of the model: the keys stand in protocol.md, “What is said of a model”",
    "include_performance": "with figures of its runs",
}

OF_ONE = {
    "hello": {"statistics": "with what the broker counted since it began"},
    "list_models": {
        "model_type": "only models of this type",
        "status": "only models of this status",
        "device_id": "only models that this device holds",
        "include_details": "with components, capabilities and requirements",
        "include_metrics": "with performance",
        "search_query": "words, found in name, description, tags and author",
        "rejected": "also the files that scans refused, as `rejected`",
    },
    "get_model_info": {
        "include_metadata": "with metadata",
        "include_components": "with components",
        "include_requirements": "with requirements",
    },
    "search_models": {
        "query": "words; empty matches all",
        "search_fields": "where the words are looked for",
        "model_types": "any of these",
        "min_rating": "rated at least so",
        "max_memory_bytes": "`min_vram` at most so",
        "compatible_devices": "kinds of devices that can run it",
    },
    "update_metadata": {
        "description": "wins over the same key in `metadata`",
        "tags": "win over the same key in `metadata`",
        "validate": "false: unknown keys go under `custom`",
        "revision": "only where this is the present one",
        "write_header": "into the safetensors header too",
    },
    "scan_models": {
        "roots": "folders within the configured roots; none: all of them",
        "hash": "`none`, `fast` or `full`: how files are identified",
    },
    "register_model": {
        "model_id": "the id to give it; absent: made from the path",
        "model_type": "the declared family",
    },
    "get_vram_model_status": {
        "model_id": "one model; empty: all",
        "include_memory_usage": "with the bytes of its parts",
        "include_sessions": "with the request ids of its work",
    },
    "unload_model": {
        "force": "cancel its running work first",
        "force_unload": "the same, as the host calls it",
        "clear_cache": "out of the RAM tier too",
    },
    "validate_model": {
        "validation_level": "`basic`, `standard` or `comprehensive`",
        "check_memory": "false: memory is not looked at and not in the score",
        "check_compute": "the same of arithmetic",
        "check_driver": "the same of the driver",
        "estimate_performance": "with a figure of what a picture would take",
        "file_validation_context": "what the host believes of the file: what differs is a warning",
    },
    "optimize_model": {
        "target": "Speed, Memory, Quality or Balanced",
        "optimization_target": "the same as a word: performance, memory, quality, balanced",
        "level": "how far it may go",
        "parameters": "`width`, `height`, `steps`, `seed`, `prompts`, `budget_seconds`",
        "save_optimized": "write what came out as a new model",
        "optimized_model_name": "its name; absent: made of id, target and level",
        "memory_pressure_context": "how the host's memory is",
    },
    "benchmark_model": {
        "benchmark_type": "what is measured",
        "warmup_runs": "0 to 10,000 runs that are not timed",
        "benchmark_runs": "1 to 10,000 runs that are",
        "save_results": "the runs count in the model's figures",
        "track_memory_usage": "one more run, watched",
        "configuration": "see ModelBenchmarkConfiguration below",
    },
    "generate": {
        "prompt": "what to draw, at most 16 KiB",
        "negative_prompt": "what to keep out, at most 16 KiB",
        "width": "8 to 8,192 pixels, a multiple of 8; absent: the model's own",
        "height": "the same",
        "steps": "1 to 10,000; absent: the family's own",
        "guidance_scale": "how closely to follow the prompt; absent: the family's own",
        "seed": "absent: chosen, and told",
        "num_images": "1 to 64 in one run",
        "scheduler": "by any of its names; absent: the model's own",
        "loras": "loaded adapters that act for this picture, `{name, scale}`; absent: all that are loaded",
        "strength": "0 to 1, how far from the picture that it begins with",
        "image_format": "`png`, `webp` or `jpeg`",
        "delivery": "`attachment`, `path` (a file beneath the output root) or `base64` (in the reply)",
        "load_if_needed": "false: fail where the model is not loaded",
        "allow_degraded": "false: INSUFFICIENT_MEMORY rather than tiling, slicing or offloading",
    },
    "restart_worker": {"force": "at once, whatever it runs"},
}


def meaning(action: str, field: str) -> str:
    """What a field of an action means. Raises KeyError where nobody said it."""
    own = OF_ONE.get(action, {})
    if field in own:
        return own[field]
    return OF_ALL[field] if field in OF_ALL else COMMON[field]
