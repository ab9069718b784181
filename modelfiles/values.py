"""What the values of a model's configuration may be: kinds, ranges and lengths, by key.

Decides what a library may be given to build from. The ranges are wide: they bound what is computed from a number, and
leave what fits the weights to `worker.skeleton`. Keys that no supported class reads are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfiles import families
from modelfiles.jsonfile import JsonObject
from modelfiles.ranges import (
    ACTIVATION,
    ANY_WORD,
    BETA,
    BETA_SCHEDULES,
    COUNT,
    EDGES,
    FACTOR,
    FLAG,
    LONGEST_BETAS,
    MOST_TIMESTEPS,
    PREDICTION,
    RATE,
    SIDE,
    SOME,
    SPACING,
    SPECIAL,
    TOKEN,
    VERSION,
    WIDTH,
    WORD,
    Value,
    keys,
    listed,
    one_of,
    real,
    whole,
)
from protocol.errors import ErrorCode, Fault, brief

DEEPEST = 8
"""Configurations within a configuration; real ones have two."""


_SHARED: Mapping[str, Value] = {
    # Blocks and layers.
    **keys(
        COUNT, "num_hidden_layers", "num_decoder_layers", "num_heads", "num_layers", "relative_attention_num_buckets"
    ),
    **keys(SOME, "num_single_layers", "extra_conditioning_channels", "num_mode"),
    **keys(COUNT.or_null(), "norm_num_groups", "addition_embed_type_num_heads"),
    **keys(COUNT.or_list(), "layers_per_block", "attention_head_dim"),
    **keys(listed(COUNT), "num_encoder_blocks", "num_decoder_blocks"),
    "num_attention_heads": COUNT.or_list().or_null(),
    "transformer_layers_per_block": COUNT.or_list().or_list(),
    "reverse_transformer_layers_per_block": COUNT.or_list().or_list().or_null(),
    "dual_attention_layers": listed(whole(0, 1024), 0, 1024).or_null(),
    # Widths.
    **keys(WIDTH, "hidden_size", "intermediate_size", "d_model", "d_ff", "d_kv", "in_channels", "latent_channels"),
    **keys(WIDTH, "num_channels", "projection_dim", "caption_projection_dim", "joint_attention_dim"),
    **keys(WIDTH, "pooled_projection_dim", "conditioning_channels"),
    **keys(WIDTH.or_null(), "out_channels", "addition_time_embed_dim", "time_cond_proj_dim", "time_embedding_dim"),
    **keys(WIDTH.or_null(), "projection_class_embeddings_input_dim", "num_class_embeds", "class_embeddings_concat_dim"),
    **keys(listed(WIDTH), "block_out_channels", "encoder_block_out_channels", "decoder_block_out_channels"),
    **keys(listed(WIDTH), "conditioning_embedding_out_channels", "axes_dims_rope"),
    "conditioning_embedding_channels": WIDTH.or_list().or_null(),
    "cross_attention_dim": WIDTH.or_list().or_null(),
    "encoder_hid_dim": WIDTH.or_null(),
    # Lengths.
    "vocab_size": whole(1, 4 << 20),
    "max_position_embeddings": whole(1, 1 << 17),
    "relative_attention_max_distance": whole(1, 1 << 17),
    "image_size": SIDE.or_list(),
    "sample_size": SIDE.or_list().or_null(),
    "patch_size": whole(1, 1024),
    "pos_embed_max_size": whole(1, 4096),
    "model_max_length": Value(lambda value: type(value) in (int, float) and value >= 2, "a length of at least 2"),  # type: ignore[operator]
    # Convolutions and norms.
    **keys(whole(1, 31), "conv_in_kernel", "conv_out_kernel", "upsampling_scaling_factor"),
    "downsample_padding": whole(0, 16),
    **keys(real(1e-20, 1), "norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    **keys(real(1e-6, 1e6), "resnet_out_scale_factor", "mid_block_scale_factor", "scaling_factor", "timestep_scaling"),
    **keys(FACTOR, "freq_shift", "latent_magnitude", "latent_shift", "logit_scale_init_value"),
    **keys(real(0, 1e6), "initializer_factor", "initializer_range"),
    "shift_factor": FACTOR.or_null(),
    **keys(listed(FACTOR, 1, 1024).or_null(), "latents_mean", "latents_std"),
    **keys(RATE, "dropout", "dropout_rate", "attention_dropout", "classifier_dropout"),
    # Words.
    **keys(ACTIVATION, "act_fn"),
    **keys(ACTIVATION.or_null(), "time_embedding_act_fn", "timestep_post_act"),
    **keys(WORD, "hidden_act", "dense_act_fn", "feed_forward_proj", "upsample_fn", "attention_type"),
    **keys(listed(WORD), "down_block_types", "up_block_types"),
    **keys(ANY_WORD, "mid_block_type", "addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "qk_norm"),
    **keys(ANY_WORD, "cross_attention_norm", "time_embedding_type", "resnet_time_scale_shift", "pos_embed_type"),
    **keys(ANY_WORD, "controlnet_conditioning_channel_order", "model_type"),
    **keys(ANY_WORD, "transformers_version", "problem_type"),
    "_diffusers_version": VERSION,
    # Flags.
    **keys(FLAG, "center_input_sample", "class_embeddings_concat", "dual_cross_attention", "flip_sin_to_cos"),
    **keys(FLAG, "force_upcast", "guidance_embeds", "mid_block_add_attention", "resnet_skip_time_act"),
    **keys(FLAG, "upcast_attention", "use_linear_projection", "use_post_quant_conv", "use_quant_conv", "use_cache"),
    **keys(FLAG, "is_decoder", "is_encoder_decoder", "is_gated_act", "tie_word_embeddings", "use_pos_embed"),
    **keys(FLAG, "output_attentions", "output_hidden_states", "global_pool_conditions", "vision_use_head"),
    **keys(FLAG, "force_zeros_for_pooled_projection", "force_zeros_for_empty_prompt", "requires_safety_checker"),
    **keys(
        FLAG, "add_watermarker", "is_distilled", "add_prefix_space", "do_lower_case", "clean_up_tokenization_spaces"
    ),
    "only_cross_attention": FLAG.or_list(),
    "mid_block_only_cross_attention": FLAG,
    # Tokens.
    **keys(TOKEN, "bos_token_id", "pad_token_id", "decoder_start_token_id"),
    "eos_token_id": TOKEN.or_list(),
    **keys(SPECIAL, "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"),
    "additional_special_tokens": listed(SPECIAL, 0, 1024).or_null(),
    "extra_ids": whole(0, 1024),
    "errors": one_of("strict", "replace", "ignore"),
    # Schedules.
    "num_train_timesteps": whole(1, MOST_TIMESTEPS),
    "original_inference_steps": whole(1, MOST_TIMESTEPS),
    **keys(BETA, "beta_start", "beta_end"),
    "beta_schedule": BETA_SCHEDULES,
    "trained_betas": listed(BETA, 1, LONGEST_BETAS).or_null(),
    "prediction_type": PREDICTION,
    "timestep_spacing": SPACING,
    "steps_offset": whole(0, MOST_TIMESTEPS),
    **keys(whole(1, 8), "solver_order", "predictor_order", "corrector_order"),
    "disable_corrector": listed(whole(0, MOST_TIMESTEPS), 0, MOST_TIMESTEPS),
    **keys(real(0, 1e6), "sample_max_value", "clip_sample_range", "sigma_data", "rho"),
    **keys(real(0, 1e6).or_null(), "sigma_min", "sigma_max"),
    "dynamic_thresholding_ratio": RATE,
    **keys(real(1e-6, 1e6), "shift"),
    "flow_shift": real(1e-6, 1e6).or_null(),
    **keys(real(-100, 100).or_null(), "base_shift", "max_shift"),
    "shift_terminal": real(0, 1).or_null(),
    **keys(whole(1, 1 << 20), "base_image_seq_len", "max_image_seq_len"),
    "scale_factors": listed(real(1e-6, 1e6)).or_null(),
    **keys(FLAG, "clip_sample", "thresholding", "set_alpha_to_one", "skip_prk_steps", "rescale_betas_zero_snr"),
    **keys(FLAG, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas", "invert_sigmas"),
    **keys(FLAG, "use_dynamic_shifting", "stochastic_sampling", "lower_order_final", "euler_at_final", "predict_x0"),
    **keys(FLAG, "use_lu_lambdas"),
    **keys(ANY_WORD, "algorithm_type", "solver_type", "final_sigmas_type", "interpolation_type", "timestep_type"),
    **keys(ANY_WORD, "time_shift_type", "variance_type", "sigma_schedule", "upscale_mode"),
    "lambda_min_clipped": Value(lambda value: type(value) in (int, float), "a number"),
    # Image processors.
    **keys(EDGES, "size", "crop_size"),
    "rescale_factor": real(1e-9, 1e3),
    "resample": whole(0, 5),
    **keys(listed(FACTOR, 1, 16), "image_mean", "image_std"),
    **keys(FLAG, "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"),
}
"""Of what the classes of several families read."""


def _with_families() -> dict[str, Value]:
    known = dict(_SHARED)
    for family in families.ALL:
        for key, value in family.values.items():
            known[key] = known[key].or_else(value) if key in known else value
    return known


VALUES: Mapping[str, Value] = _with_families()
"""Key → what its value may be, for every supported class that reads it."""


def check_values(config: JsonObject, what: str, depth: int = DEEPEST) -> None:
    """Raise Fault MODEL_INCOMPATIBLE naming the first key of a configuration whose value no class could be built from.

    Configurations within it, such as a safety checker's, are looked at too; `what` is the file's name.
    """
    for key, value in config.items():
        known = VALUES.get(key)
        if known is not None and not known.fits(value):
            raise refused(what, key, value, known.expected)
        if isinstance(value, dict) and depth:
            check_values(value, what, depth - 1)


def refused(what: str, key: str, value: object, expected: str) -> Fault:
    """MODEL_INCOMPATIBLE for one value of one key of a configuration."""
    text = f"{what}: {key[:80]} is {brief(value)}: expected {expected}"
    return Fault(ErrorCode.MODEL_INCOMPATIBLE, text, details={"config": what, "key": key[:80]})
