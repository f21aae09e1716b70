"""Codes of errors and notices: one sentence each, from which docs/errors.md is generated.

python -m gesso.codes >docs/errors.md
"""

from collections.abc import Mapping

ERRORS: Mapping[str, str] = {
    # Requests and arguments.
    "error": "Any other error, such as one of a plug-in that does not say which it is.",
    "invalid_field": "A field of the request has an invalid value; `field` names it.",
    "invalid_value": "An argument or parameter has an invalid value.",
    "invalid_name": "A name is invalid: empty, with a NUL character, or with the wrong ending.",
    "unknown_name": "Nothing of this kind has that name.",
    "ambiguous_name": "Several things have that name; use a path or a hash.",
    "name_taken": "Something of that name already exists and was not replaced.",
    "unsupported": "gesso does not support this file format or setting.",
    "mismatch": "Two things do not fit each other.",
    "mask_missing": "A setting of the mask is given without a mask.",
    "style_missing": "A style file is given without the name of a style.",
    "styles_missing": "A style is given, but there is no style file.",
    "file_name_twice": "Two files have the same name, so a recipe could not tell them apart.",
    "unsuitable_hint": "The picture cannot be used as the ControlNet hint that was asked for.",
    # Prompts.
    "prompt_missing": "There is no prompt.",
    "nothing_known": "The model draws none of the things in the prompt.",
    "prompt_too_long": "The prompt has too many characters.",
    "prompt_characters": "The prompt has a NUL character or half a surrogate pair.",
    "prompt_limit": "The prompt has too many parts of one kind.",
    "network_tag": "A tag such as `<lora:...>` is malformed.",
    "number": "A number in the prompt is malformed or out of range.",
    "wildcard": "A wildcard cannot be filled in.",
    "flag": "A flag in the prompt is unknown or malformed.",
    "styles": "A style is unknown, or the style file is malformed.",
    "dialect": "The prompt syntax is unknown, or does not allow this prompt.",
    # Machine.
    "device_missing": "The device does not exist, or this PyTorch cannot use it.",
    "dtype_unsupported": "The dtype is unknown, or not supported on this device.",
    "memory_exceeded": "The picture needs more than the memory limit.",
    "memory_unknown": "The system does not report how much memory is free.",
    "not_finite": "The computation gave NaN or infinity, in float32 too.",
    "cancelled": "The work was cancelled.",
    "out_of_memory": "There is not enough memory.",
    "system": "The operating system refused something: a disk, a permission, a name that is too long.",
    "usage": "A command, an option or an argument of the command line is unknown, missing or malformed, or options "
    "exclude each other.",
    "internal": "A bug in gesso.",
    "missing_extra": "An optional package is not installed.",
    "plugin_missing": "The recipe uses plug-ins of a package that is not installed, or plug-ins are switched off.",
    "plugin_unusable": "The plug-in cannot be loaded or used.",
    # The HTTP API.
    "invalid_request": "The request is not valid HTTP or JSON, or its body is not as it should be.",
    "unauthorized": "No API key is given where one is needed, or it is not valid.",
    "forbidden": "The API key does not have the scope that this needs.",
    "cross_site": "A page of another site asked, in the name of its visitor.",
    "unknown_host": "The server is not known by the name in the Host header.",
    "not_found": "There is nothing at this address, or it belongs to somebody else.",
    "method_not_allowed": "This address has no such method.",
    "unsupported_media_type": "The body, or the picture in it, is of a type that is not read here.",
    "timeout": "The request did not arrive in time.",
    "rate_limited": "There were too many requests in a short time; `retry_after` says when to come back.",
    "overloaded": "The server has as much to do as it can; try again later.",
    "url_not_allowed": "The server does not call this address.",
    # Files.
    "missing": "A file or folder, or a part of it, does not exist.",
    "unreadable": "The file cannot be read: not a regular file, or no permission.",
    "unwritable": "The file or folder cannot be written.",
    "changed": "The file changed while it was in use.",
    "damaged": "The content does not match the file format.",
    "wrong_kind": "The file or folder is of the wrong kind.",
    "too_large": "Too many bytes, pixels, characters or parts.",
    "protected": "gesso does not change or remove this file.",
    "disk_full": "There is not enough disk space.",
    "newer_version": "The file was written by a newer gesso.",
    "reserved": "The owner of the picture reserves it: no AI may be trained on it.",
    "other_run": "The folder holds the pictures of another run.",
    "other_training": "The folder holds the state of another training.",
    # The server's queue.
    "queue_full": "Too many jobs are waiting; try again after `retry_after` seconds.",
    "idempotency_key_reuse": "The idempotency key came before, with other work.",
    "job_missing": "There is no such job, or it belongs to somebody else.",
    "job_not_queued": "The job does not wait in the queue.",
    "board_missing": "There is no such board of pictures, or it belongs to somebody else.",
    "job_not_final": "The job has not ended, so it cannot be deleted or repeated.",
    "output_missing": "There is no such finished picture, or it belongs to somebody else.",
    "asset_missing": "There is no such uploaded picture, or it belongs to somebody else.",
    "asset_in_use": "A job draws from the uploaded picture, which therefore cannot be deleted.",
    "worker_crashed": "Worker processes ended while they drew the job, so it was set aside.",
    "storage_unusable": "The object storage of the pictures does not answer, or refuses.",
    "database_unusable": "The database of the queue does not answer, is damaged or cannot be written.",
    # Pictures and recipes.
    "no_settings": "The picture has no recipe or settings that gesso can read.",
    "recipe_file_missing": "A file that the recipe names was not found.",
    "recipe_model_missing": "The model that the recipe names was not found.",
    "source_missing": "The recipe needs a picture that it does not contain, such as the source or the mask.",
    "tensor_missing": "The picture was drawn from a tensor that was passed in Python, which a recipe does not contain.",
    "source_not_needed": "A picture is given that the recipe does not use.",
    # The hub.
    "offline": "The files are not on this machine, and downloads are turned off.",
    "hub_access": "The repository is private or its licence is not accepted; set a token.",
    "hub_failed": "The hub did not answer, or gave an unexpected answer.",
    # Model files.
    "truncated": "The file ends too early.",
    "not_safetensors": "The file does not hold weights, or holds them in another format.",
    "header_length": "safetensors: the header length is invalid.",
    "header_json": "safetensors: the header is not valid JSON, or not of the expected form.",
    "offsets": "safetensors: tensors overlap, leave gaps, or lie outside the file.",
    "dtype": "A tensor has a dtype that is not supported there.",
    "overflow": "Values overflow the dtype, or sizes are impossible.",
    "metadata": "safetensors: the metadata is not a map of strings.",
    "config": "The configuration is not that of a known model.",
    "unknown_key": "The file has tensors that the model does not have.",
    "missing_key": "The file lacks tensors that the model needs.",
    "duplicate_key": "The same tensor occurs twice.",
    "shape": "A tensor has another shape than the model expects.",
    "nonfinite": "A tensor holds NaN or infinity.",
    "architecture_mismatch": "The file is for another architecture.",
    "zip_damaged": "PyTorch: the archive is damaged or contradicts itself.",
    "zip_compressed": "PyTorch: the archive is compressed.",
    "zip_encrypted": "PyTorch: the archive is encrypted.",
    "zip_name": "PyTorch: the archive has a member that does not belong to weights.",
    "zip_overlap": "PyTorch: members overlap, or bytes belong to none.",
    "zip_checksum": "PyTorch: a member has the wrong checksum.",
    "torchscript": "PyTorch: a TorchScript program, not weights.",
    "pickle_damaged": "PyTorch: the pickle ends too early or is malformed.",
    "pickle_opcode": "PyTorch: the pickle has an operation that weights do not need.",
    "pickle_global": "PyTorch: the pickle names code that is not on the list of allowed code.",
    "pickle_limit": "PyTorch: more operations, memory, text or time than any model needs.",
    "pickle_content": "PyTorch: the file holds data, but no named tensors.",
    "tensor_bounds": "PyTorch: a tensor is outside its storage, or has far more elements than the file.",
    "sandbox": "PyTorch: the separate process that reads the file failed or could not start.",
    "gguf_version": "GGUF: the version is not supported.",
    "gguf_count": "GGUF: more entries than any model has.",
    "gguf_string": "GGUF: a string is too long or not UTF-8.",
    "gguf_metadata": "GGUF: the metadata is malformed.",
    "gguf_alignment": "GGUF: the alignment is invalid.",
    "gguf_type": "GGUF: the tensor type (quantization) is not supported.",
    "gguf_shape": "GGUF: a shape is invalid.",
    "gguf_offset": "GGUF: a tensor is outside the file, or overlaps another.",
    "shard_index": "Shards: the index is malformed.",
    "shard_name": "Shards: the index names a file outside its folder.",
}

NOTICES: Mapping[str, str] = {
    # Prompts.
    "comment_ignored": "Part of the prompt was read as a comment.",
    "network_ignored": "A tag names a kind of extra network that gesso does not know, and is ignored.",
    "weight_clamped": "A weight was out of range and was clamped.",
    "prompt_cut": "The prompt is too long, and its end is ignored.",
    "negative_prompt_left_out": "The negative prompt has no effect: the model, or guidance 1, does without.",
    "words_ignored": "Words that are not in the model's vocabulary are ignored.",
    "language_read": "A prompt in another language is read word by word in English.",
    "emoji_read": "Emoji in the prompt are read as the objects that they show.",
    "no_object": "The prompt names no object that the model can draw.",
    "notices_left_out": "There are more notices about the same text.",
    "texts_left_out": "There are more texts than are shown.",
    "links_ignored": "Links to pictures in the prompt are ignored.",
    "flag_ignored": "A flag in the prompt has no effect in gesso.",
    "flag_overridden": "A flag in the prompt is ignored, because its field is set already.",
    "flags_as_text": "Flags in the prompt are read as text.",
    "template_drawn": "The prompt was drawn from a template with wildcards or choices; the text has both.",
    "template_as_text": "Wildcards or choices in the prompt are read as text, since they are switched off.",
    "wildcard_unchanged": "A wildcard is unknown or refers to itself, and was left unchanged.",
    "brace_as_text": "A brace of a wildcard has no other half, and is left as text.",
    "wildcard_at_random": "A wildcard asks for all its options or for one after the other; they are drawn at random.",
    "wildcard_skipped": "An entry of a wildcard file is no text, and is ignored.",
    # Adapters.
    "lora_left_out": "The LoRA does not fit the refiner.",
    "lora_alpha_unknown": "A LoRA says nowhere what its alpha is, which is taken to be its rank.",
    "lora_incomplete": "Some modules of the LoRA do not exist in the model.",
    "embedding_as_text": "The embedding does not fit the model, and its name is read as text.",
    # Pictures.
    "size_not_native": "The picture has another size than the model was trained at.",
    "mask_black": "The mask marks no part of the picture, which stays as it is.",
    "mask_stretched": "The mask was stretched to the size of the picture.",
    "lora_argument_ignored": "Block weights in a LoRA tag are ignored; gesso does not have them.",
    "pipeline_reduced": "A model folder was saved by a pipeline that does more than gesso does with it.",
    "tensors_ignored": "Tensors of a model's file belong to none of its networks.",
    "profile_ignored": "The colour profile of a picture is ignored.",
    "stretched": "A picture was enlarged to other proportions than its own.",
    # Computing.
    "tensor_given": "The picture was drawn from a tensor that was passed in Python; its recipe alone cannot draw it.",
    "recomputed_in_float32": "A network overflowed its dtype and was computed again in float32.",
    "first_step_too_long": "The sampler's first step is too long.",
    "deep_cache_left_out": "Deep features are not kept: a ControlNet or a T2I-Adapter changes them in each call.",
    "guidance_until_left_out": "Guidance does not end early: it is off, or the sampler, AND or the model needs it.",
    "guidance_below_one": "The guidance scale is below 1, where the prompt counts less or not at all.",
    "guidance_too_high": "The guidance scale is far above what is usual, so the picture burns out.",
    # Settings of other tools, and recipes.
    "setting_ignored": "A setting is ignored: gesso does not have it, or does not take its value.",
    "prompt_ignored": "A prompt in the file is ignored, because gesso cannot follow the nodes behind it.",
    "sampler_unknown": "gesso does not have the sampler or schedule.",
    "syntax_differs": "gesso reads the syntax of the prompt differently.",
    "model_unavailable": "The picture was drawn by a model that is not public.",
    "source_absent": "The source picture is not in the file.",
    "prompt_guessed": "The prompt in the file is not for certain the one that was drawn.",
    "several_pictures": "The graph in the file makes several pictures; one of them is read.",
    "refiner_needed": "A refiner finished the picture; it has to be given again.",
    "control_absent": "A ControlNet or IP-Adapter is not taken over, because its picture is not in the file.",
    "vae_separate": "The picture was decoded by a VAE of its own, which has to be given again.",
    "node_aside": "Nodes of the graph that had no part in the picture are ignored.",
    "workflow_only": "The settings come from a workflow, which may not be the one that ran.",
    # Models and adapters.
    "models_skipped": "Entries of a folder of models cannot be models, and were skipped.",
    "models_unseen": "A folder of models, or the library's index, cannot be read or written.",
    "models_slow": "A registered folder has far more files than models, which makes every look for models slow.",
    "left_out": "Something in a model or adapter does not fit into the file that was written, and was left out.",
    "unusual_sizes": "The model has other sizes than a release, which a single file does not say.",
    # Read from a picture.
    "recorded": "The notice comes from a recipe, which stores only its text.",
}

_HEAD = """\
# Errors and notices

Errors that a user can fix are instances of `GessoError`. Besides its message, each has a `code`, a `field` (the field
or argument that it is about, or None) and `data`, JSON values such as a path; of a value that cannot be: `value` with
`low` and `high`, or with `known` and `nearest`, as far as they are known. Notices, as in `Picture.notices`, are
strings with the same three attributes. Codes are stable: programs and translations may rely on them. Messages are for
people and may change. Messages name fields in backticks (`` `mask` ``), so that each front end can show its own names;
the command line shows its options (`--mask`).
"""


def page() -> str:
    """docs/errors.md."""
    tables = [("Errors", ERRORS), ("Notices", NOTICES)]
    parts = [_HEAD]
    for title, table in tables:
        rows = "".join(f"| `{code}` | {sentence} |\n" for code, sentence in table.items())
        parts.append(f"\n## {title}\n\n| code | meaning |\n| --- | --- |\n{rows}")
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
