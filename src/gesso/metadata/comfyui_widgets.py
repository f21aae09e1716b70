"""The values of ComfyUI's nodes, and of the most used node packs, by name in their order on the screen.

A workflow stores the values of a node without their names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_SIZE = ("width", "height")
_KSAMPLER = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
_ADVANCED = (
    *("add_noise", "noise_seed", "steps", "cfg", "sampler_name", "scheduler"),
    *("start_at_step", "end_at_step", "return_with_leftover_noise"),
)
_LOADER = (
    *("ckpt_name", "vae_name", "clip_skip", "lora_name", "lora_model_strength", "lora_clip_strength"),
    *("positive", "negative", "token_normalization", "weight_interpretation"),
    *("empty_latent_width", "empty_latent_height", "batch_size"),
)
_EASY_LOADER = (
    *("ckpt_name", "vae_name", "clip_skip", "lora_name", "lora_model_strength", "lora_clip_strength", "resolution"),
    *("empty_latent_width", "empty_latent_height", "positive", "positive_token_normalization"),
    *("positive_weight_interpretation", "negative", "negative_token_normalization", "negative_weight_interpretation"),
    "batch_size",
)

WIDGETS: Mapping[str, tuple[str, ...]] = {
    # Sampling.
    "KSampler": _KSAMPLER,
    "KSamplerAdvanced": _ADVANCED,
    "SamplerCustom": ("add_noise", "noise_seed", "cfg"),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "KarrasScheduler": ("steps", "sigma_max", "sigma_min", "rho"),
    "ExponentialScheduler": ("steps", "sigma_max", "sigma_min"),
    "PolyexponentialScheduler": ("steps", "sigma_max", "sigma_min", "rho"),
    "SDTurboScheduler": ("steps", "denoise"),
    "AlignYourStepsScheduler": ("model_type", "steps", "denoise"),
    "BetaSamplingScheduler": ("steps", "alpha", "beta"),
    "Flux2Scheduler": ("steps", "width", "height"),
    "Ideogram4Scheduler": ("steps", "width", "height", "mu", "std"),
    "LTXVScheduler": ("steps", "max_shift", "base_shift", "stretch", "terminal"),
    "ManualSigmas": ("sigmas",),
    "SplitSigmas": ("step",),
    "SplitSigmasDenoise": ("denoise",),
    "SetFirstSigma": ("sigma",),
    "SamplerEulerAncestral": ("eta", "s_noise"),
    "SamplerER_SDE": ("solver_type", "max_stage", "eta", "s_noise"),
    "SamplerDPMPP_2M_SDE": ("solver_type", "eta", "s_noise", "noise_device"),
    "SamplerDPMPP_3M_SDE": ("eta", "s_noise", "noise_device"),
    "SamplerDPMPP_SDE": ("eta", "s_noise", "r", "noise_device"),
    "SamplerDPMPP_2S_Ancestral": ("eta", "s_noise"),
    "SamplerLMS": ("order",),
    "CFGGuider": ("cfg",),
    "DualCFGGuider": ("cfg_conds", "cfg_cond2_negative", "style"),
    "DualModelGuider": ("cfg",),
    "LTXVDualCFGGuider": ("cfg_video", "cfg_audio"),
    "CFGNorm": ("strength",),
    "DifferentialDiffusion": ("strength",),
    "PerpNegGuider": ("cfg", "neg_scale"),
    "FluxGuidance": ("guidance",),
    "RescaleCFG": ("multiplier",),
    "ModelSamplingDiscrete": ("sampling", "zsnr"),
    "ModelSamplingAuraFlow": ("shift",),
    "ModelSamplingSD3": ("shift",),
    "ModelSamplingFlux": ("max_shift", "base_shift", "width", "height"),
    "FreeU": ("b1", "b2", "s1", "s2"),
    "FreeU_V2": ("b1", "b2", "s1", "s2"),
    # Texts.
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": (*_SIZE, "crop_w", "crop_h", "target_width", "target_height", "text_g", "text_l"),
    "CLIPTextEncodeSDXLRefiner": ("ascore", *_SIZE, "text"),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl", "empty_padding"),
    "CLIPTextEncodeHiDream": ("clip_l", "clip_g", "t5xxl", "llama"),
    "CLIPTextEncodeHunyuanDiT": ("bert", "mt5xl"),
    "CLIPTextEncodeLumina2": ("system_prompt", "user_prompt"),
    "TextEncodeQwenImageEdit": ("prompt",),
    "TextEncodeQwenImageEditPlus": ("prompt",),
    "TextEncodeQwenImage21": ("prompt", "negative_prompt", "resolution"),
    "TextEncodeFibo2": ("prompt", "negative_prompt"),
    "TextEncodeAceStepAudio": ("tags", "lyrics", "lyrics_strength"),
    "TextEncodeAceStepAudio1.5": (
        *("tags", "lyrics", "seed", "bpm", "duration", "timesignature", "language", "keyscale"),
        *("generate_audio_codes", "cfg_scale", "temperature", "top_p", "top_k", "min_p"),
    ),
    "TextEncodeMageFlowEdit": ("prompt", "negative_prompt", *_SIZE, "batch_size"),
    "MiniMaxMusic3TextEncode": ("caption", "lyrics", "seed", "max_duration"),
    "YuE2GenerateMusic": ("style", "lyrics", "abc", "seed", "mode", "max_duration"),
    "MiniMaxH3ImageToVideo": ("prompt", *_SIZE, "length"),
    "MiniMaxH3ReferenceToVideo": ("prompt", *_SIZE, "length"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "ConditioningAverage": ("conditioning_to_strength",),
    "ConditioningSetArea": ("width", "height", "x", "y", "strength"),
    "ConditioningSetAreaPercentage": ("width", "height", "x", "y", "strength"),
    "ConditioningSetAreaStrength": ("strength",),
    "ConditioningSetMask": ("strength", "set_cond_area"),
    "ConditioningSetTimestepRange": ("start", "end"),
    "ControlNetApply": ("strength",),
    "ControlNetApplyAdvanced": ("strength", "start_percent", "end_percent"),
    "ControlNetLoader": ("control_net_name",),
    # Models.
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "ImageOnlyCheckpointLoader": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "UnetLoaderGGUF": ("unet_name",),
    "CLIPLoader": ("clip_name", "type", "device"),
    "DualCLIPLoader": ("clip_name1", "clip_name2", "type", "device"),
    "VAELoader": ("vae_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    # Sizes and pictures.
    "EmptyLatentImage": (*_SIZE, "batch_size"),
    "EmptySD3LatentImage": (*_SIZE, "batch_size"),
    "EmptyFlux2LatentImage": (*_SIZE, "batch_size"),
    "EmptyChromaRadianceLatentImage": (*_SIZE, "batch_size"),
    "EmptyHiDreamO1LatentImage": (*_SIZE, "batch_size"),
    "EmptyQwenImageLayeredLatentImage": (*_SIZE, "layers", "batch_size"),
    "EmptyHunyuanLatentVideo": (*_SIZE, "length", "batch_size"),
    "EmptyHunyuanVideo15Latent": (*_SIZE, "length", "batch_size"),
    "EmptyLTXVLatentVideo": (*_SIZE, "length", "batch_size"),
    "EmptyImage": (*_SIZE, "batch_size", "color"),
    "WanVaceToVideo": (*_SIZE, "length", "batch_size", "strength"),
    "WanMoveTrackToVideo": ("strength", *_SIZE, "length", "batch_size"),
    "WanInfiniteTalkToVideo": ("mode", *_SIZE, "length", "motion_frame_count", "audio_scale"),
    "Wan22ImageToVideoLatent": (*_SIZE, "length", "batch_size"),
    "SVD_img2vid_Conditioning": (*_SIZE, "video_frames", "motion_bucket_id", "fps", "augmentation_level"),
    "ResolutionSelector": ("aspect_ratio", "megapixels", "multiple"),
    "LatentUpscale": ("upscale_method", *_SIZE, "crop"),
    "LatentUpscaleBy": ("upscale_method", "scale_by"),
    "ImageScale": ("upscale_method", *_SIZE, "crop"),
    "ImageScaleBy": ("upscale_method", "scale_by"),
    "ImageScaleToTotalPixels": ("upscale_method", "megapixels", "resolution_steps"),
    "ImageScaleToMaxDimension": ("upscale_method", "largest_size"),
    "UpscaleModelLoader": ("model_name",),
    "LoadImage": ("image",),
    "LoadImageMask": ("image", "channel"),
    "LoadImageOutput": ("image",),
    "LoadVideo": ("file",),
    "LoadAudio": ("audio",),
    "ImagePadForOutpaint": ("left", "top", "right", "bottom", "feathering"),
    "InpaintModelConditioning": ("noise_mask",),
    "StyleModelApply": ("strength", "strength_type"),
    "unCLIPConditioning": ("strength", "noise_augmentation"),
    "ModelPatchLoader": ("name",),
    "SaveImage": ("filename_prefix",),
    "SaveImageAdvanced": ("filename_prefix",),
    # Values.
    "PrimitiveNode": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveBoolean": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "StringConcatenate": ("string_a", "string_b", "delimiter"),
    "StringReplace": ("string", "find", "replace"),
    "JsonExtractString": ("json_string", "key"),
    "RegexReplace": ("string", "regex_pattern", "replace"),
    "RegexExtract": ("string", "regex_pattern"),
    "ComfySwitchNode": ("switch",),
    "ComfyMathExpression": ("expression",),
    "CustomCombo": ("choice",),
    "SeedNode": ("seed",),
    "TextGenerate": ("prompt",),
    # Node packs: Efficiency, rgthree, Easy-Use, Impact, Inspire, WAS, KJNodes, pysssss, Comfyroll, essentials.
    "Efficient Loader": _LOADER,
    "Eff. Loader SDXL": (
        *("base_ckpt_name", "base_clip_skip", "refiner_ckpt_name", "refiner_clip_skip", "positive_ascore"),
        *("negative_ascore", "vae_name", "positive", "negative", "token_normalization", "weight_interpretation"),
        *("empty_latent_width", "empty_latent_height", "batch_size"),
    ),
    "KSampler (Efficient)": (*_KSAMPLER, "preview_method", "vae_decode"),
    "KSampler Adv. (Efficient)": (*_ADVANCED, "preview_method", "vae_decode"),
    "KSampler SDXL (Eff.)": (
        *("noise_seed", "steps", "cfg", "sampler_name", "scheduler", "start_at_step", "refine_at_step"),
        *("preview_method", "vae_decode"),
    ),
    "HighRes-Fix Script": (
        *("upscale_type", "hires_ckpt_name", "latent_upscaler", "pixel_upscaler", "upscale_by", "use_same_seed"),
        *("seed", "hires_steps", "denoise", "iterations"),
    ),
    "UltimateSDUpscale": (
        *("upscale_by", "seed", "steps", "cfg", "sampler_name", "scheduler", "denoise", "mode_type"),
        *("tile_width", "tile_height", "mask_blur", "tile_padding"),
    ),
    "KSampler Config (rgthree)": ("steps_total", "refiner_step", "cfg", "sampler_name", "scheduler"),
    "easy fullLoader": _EASY_LOADER,
    "easy fullkSampler": ("steps", "cfg", "sampler_name", "scheduler", "denoise", "seed"),
    "easy preSampling": ("steps", "cfg", "sampler_name", "scheduler", "denoise", "seed"),
    "easy seed": ("seed",),
    "Seed (rgthree)": ("seed",),
    "KSampler //Inspire": (*_KSAMPLER, "noise_mode", "batch_seed_mode"),
    "ImpactWildcardProcessor": ("wildcard_text", "populated_text", "mode", "seed"),
    "ImpactWildcardEncode": ("wildcard_text", "populated_text", "mode"),
    "Text Multiline": ("text",),
    "Text Concatenate": ("delimiter", "clean_whitespace"),
    "JoinStrings": ("string1", "string2", "delimiter"),
    "StringConstant": ("string",),
    "StringConstantMultiline": ("string", "strip_newlines"),
    "INTConstant": ("value",),
    "FloatConstant": ("value",),
    "CR Text": ("text",),
    "CR Prompt Text": ("prompt",),
    "CR Seed": ("seed",),
    "easy positive": ("positive",),
    "easy negative": ("negative",),
    "CR Apply LoRA Stack": (),
    "CR LoRA Stack": tuple(
        f"{name}_{number}" for number in (1, 2, 3) for name in ("switch", "lora_name", "model_weight", "clip_weight")
    ),
    "Lora Loader Stack (rgthree)": tuple(
        f"{name}_0{number}" for number in (1, 2, 3, 4) for name in ("lora", "strength")
    ),
    "LoRA Stacker": (
        *("input_mode", "lora_count"),
        *(f"{name}_{number}" for number in range(1, 50) for name in ("lora_name", "lora_wt", "model_str", "clip_str")),
    ),
}

# Of a node that resizes in several ways: the values behind each.
RESIZES: Mapping[str, tuple[str, ...]] = {
    "scale dimensions": ("resize_type.width", "resize_type.height", "resize_type.crop", "scale_method"),
    "scale by multiplier": ("resize_type.multiplier", "scale_method"),
    "scale total pixels": ("resize_type.megapixels", "scale_method"),
    "scale longer dimension": ("resize_type.longer_size", "scale_method"),
    "scale shorter dimension": ("resize_type.shorter_size", "scale_method"),
    "scale width": ("resize_type.width", "scale_method"),
    "scale height": ("resize_type.height", "scale_method"),
}


def widgets_of(kind: str, values: Sequence[Any]) -> tuple[str, ...] | None:
    """The names of the values that a node of this kind has stored, in their order; None if they are not known."""
    if kind in WIDGETS:
        return WIDGETS[kind]
    first = values[0] if values else None
    if kind == "ResizeImageMaskNode" and isinstance(first, str) and first in RESIZES:
        return ("resize_type", *RESIZES[first])
    if kind.endswith("ToVideo") and len(values) >= 2 and all(type(side) is int and side >= 16 for side in values[:2]):
        return (*_SIZE, "length", "batch_size")  # as of Wan, Hunyuan and Kandinsky
    return None
