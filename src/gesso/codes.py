"""Errors and notices by code: one sentence each, of which docs/errors.md is made.

python -m gesso.codes >docs/errors.md
"""

from collections.abc import Mapping

ERRORS: Mapping[str, str] = {
    # Requests and arguments.
    "error": "Anything else, such as options that do not go together.",
    "invalid_field": "A field of the request has a value that it cannot have; `field` names it.",
    "invalid_value": "An argument or a parameter has a value that it cannot have.",
    "invalid_name": "A name that cannot be one: empty, with a NUL character, or with an ending that does not fit.",
    "unknown_name": "Nothing of this kind has that name.",
    "ambiguous_name": "Several things have that name; a path or a hash tells them apart.",
    "name_taken": "Something of that name exists already, and is not replaced.",
    "unsupported": "gesso does not support this, such as a file format or a setting of a scheduler.",
    "mismatch": "Two things that should fit each other do not.",
    "mask_missing": "A setting of the mask is there and the mask is not.",
    "style_missing": "A file of styles is there and no style of it is named.",
    "styles_missing": "A style is named and there is no file of styles.",
    "file_name_twice": "Two files have the same name, and a recipe could not tell them apart.",
    "unsuitable_hint": "A picture that cannot be the ControlNet hint that was asked for.",
    # Prompts.
    "prompt_missing": "There is no prompt.",
    "prompt_too_long": "A prompt of more characters than are read.",
    "prompt_characters": "A prompt with NUL or half of a surrogate pair.",
    "prompt_limit": "A prompt with more parts of a kind than are read.",
    "network_tag": "A tag such as `<lora:...>` that cannot be read.",
    "number": "A number in a prompt that cannot be read, or is out of range.",
    "wildcard": "A wildcard that cannot be filled in.",
    "flag": "A flag in a prompt that cannot be read.",
    "styles": "A style that is not known, or a file of styles that cannot be read.",
    "dialect": "A prompt that its dialect does not allow, or a dialect that is not known.",
    # Machine.
    "device_missing": "The device is not in this machine, or this torch cannot use it.",
    "dtype_unsupported": "The dtype is not known, or not for this device.",
    "memory_exceeded": "The picture takes more than the memory budget.",
    "memory_unknown": "The system does not say how much memory is free.",
    "not_finite": "NaN or infinity where numbers are needed, in float32 too.",
    "cancelled": "The work was cancelled by its token.",
    "missing_extra": "An optional package is not installed.",
    "plugin_missing": "A recipe takes plug-ins of a package that is not installed.",
    "plugin_unusable": "A plug-in that was asked for cannot be loaded.",
    # Files.
    "missing": "No such file or folder, or a part of it is not there.",
    "unreadable": "The file cannot be read: not a regular file, or no permission.",
    "unwritable": "The file or folder cannot be written.",
    "changed": "The file changed while it was in use.",
    "damaged": "The content is not what its format says.",
    "wrong_kind": "A file or folder of another kind than is needed.",
    "too_large": "More bytes, pixels, characters or parts than are read.",
    "protected": "A file that gesso does not change or remove.",
    "disk_full": "The disk has too little room.",
    "newer_version": "Written by a newer gesso.",
    "other_run": "The folder holds other pictures than this run makes.",
    "other_training": "The folder holds the state of another training.",
    # Pictures and recipes.
    "no_settings": "The picture carries no recipe or settings that gesso reads.",
    "recipe_file_missing": "A file that a recipe names is not here.",
    "recipe_model_missing": "The model that a recipe names is not here.",
    "source_missing": "A recipe needs a picture that is not in it, such as the source or the mask.",
    "source_not_needed": "A picture is given that the recipe does not use.",
    # The hub.
    "offline": "The files are not on this machine, and fetching is turned off.",
    "hub_access": "The repository is private or its licence is not accepted; a token is needed.",
    "hub_failed": "The hub did not answer, or not with what was asked for.",
    # Model files.
    "truncated": "The file ends too early.",
    "not_safetensors": "Something else than weights, or weights in another container.",
    "header_length": "safetensors: the length of the header cannot be.",
    "header_json": "safetensors: the header is not the JSON that it should be.",
    "offsets": "safetensors: tensors overlap, leave gaps, or lie outside the file.",
    "dtype": "A tensor of a dtype that cannot be used there.",
    "overflow": "Numbers that the dtype cannot hold, or sizes that no file can have.",
    "metadata": "safetensors: the metadata is not a table of texts.",
    "config": "A configuration that is not one of a model that gesso knows.",
    "unknown_key": "Tensors that the model does not have.",
    "missing_key": "Tensors that the model needs and the file does not have.",
    "duplicate_key": "The same tensor twice.",
    "shape": "A tensor of another shape than the model expects.",
    "nonfinite": "A tensor with NaN or infinity.",
    "architecture_mismatch": "A file of another kind of model.",
    "zip_damaged": "PyTorch: no archive, or one whose parts contradict each other.",
    "zip_compressed": "PyTorch: the archive is compressed.",
    "zip_encrypted": "PyTorch: the archive is encrypted.",
    "zip_name": "PyTorch: the archive has a member that weights do not have.",
    "zip_overlap": "PyTorch: members share bytes, or bytes belong to none.",
    "zip_checksum": "PyTorch: a member has a wrong checksum.",
    "torchscript": "PyTorch: a TorchScript program, not weights.",
    "pickle_damaged": "PyTorch: the pickle ends too early, or makes no sense.",
    "pickle_opcode": "PyTorch: the pickle has an operation that data does not need.",
    "pickle_global": "PyTorch: the pickle names code outside the closed list.",
    "pickle_limit": "PyTorch: more operations, memory, text or time than any model takes.",
    "pickle_content": "PyTorch: data, but no tensors under names.",
    "tensor_bounds": "PyTorch: a tensor outside its storage, or of far more numbers than the file has.",
    "sandbox": "PyTorch: the separate process that reads the file failed, or could not be started.",
    "gguf_version": "GGUF: a version that gesso does not read.",
    "gguf_count": "GGUF: more entries than any model has.",
    "gguf_string": "GGUF: a text that is too long, or not UTF-8.",
    "gguf_metadata": "GGUF: metadata that cannot be read.",
    "gguf_alignment": "GGUF: an alignment that cannot be.",
    "gguf_type": "GGUF: a type of numbers that gesso does not read.",
    "gguf_shape": "GGUF: a shape that cannot be.",
    "gguf_offset": "GGUF: a tensor outside the file, or over another.",
    "shard_index": "Shards: the index cannot be read.",
    "shard_name": "Shards: the index names a file outside its folder.",
}

NOTICES: Mapping[str, str] = {
    # Prompts.
    "comment_ignored": "Part of the prompt was taken for a comment.",
    "network_ignored": "A tag of an extra network of a kind that gesso does not know.",
    "weight_clamped": "A weight was out of range and was changed.",
    "prompt_cut": "The prompt is too long, and its end was left out.",
    "negative_prompt_left_out": "The model draws without a negative prompt.",
    "words_ignored": "Words that the model's vocabulary does not have.",
    "no_object": "The prompt names no object that the model can draw.",
    "notices_left_out": "There are more notices about the same text.",
    "texts_left_out": "There are more texts than are shown.",
    "links_ignored": "Links to pictures in the prompt.",
    "flag_ignored": "A flag in the prompt that means nothing here.",
    "flag_overridden": "A flag in the prompt for a field that is set already.",
    "flags_as_text": "Flags in the prompt were taken as text.",
    "template_drawn": "The prompt was drawn from a template with wildcards or choices; the text is that template.",
    "wildcard_unchanged": "A wildcard that is not known, or leads back to itself.",
    # Adapters.
    "lora_left_out": "A LoRA that does not fit the refiner.",
    "lora_incomplete": "Some modules of a LoRA do not exist in the model.",
    "embedding_as_text": "The name of an embedding that does not fit the model is read as text.",
    # Pictures.
    "mask_stretched": "The mask was stretched over the picture.",
    "profile_ignored": "The colour profile of a picture could not be followed.",
    # Computing.
    "recomputed_in_float32": "A network left the range of its dtype and was computed again in float32.",
    "first_step_too_long": "The sampler begins with a step that is too long for it.",
    # Settings of other tools, and recipes.
    "setting_ignored": "A setting that gesso does not have, or a value that it does not take.",
    "prompt_ignored": "A prompt in the file that gesso cannot follow.",
    "sampler_unknown": "A sampler or schedule that gesso does not have.",
    "syntax_differs": "The prompt uses a syntax that gesso reads otherwise.",
    "model_unavailable": "The picture was drawn by a model that is not public.",
    "source_absent": "The picture that it was drawn from is not in the file.",
    "workflow_only": "The settings come from a workflow that may not be the one that was run.",
    "recorded": "A notice that was read from a recipe, which keeps the text alone.",
}

_HEAD = """\
# Errors and notices

Every error that a user can act on is a `GessoError` and carries, besides its message, a `code`, the `field` of the
request or the argument that it is about (or None), and `data`, values of JSON such as a path. Notices, as in
`Picture.notices`, are texts with the same three attributes. Codes are stable: programs and translations may rely on
them. Messages are for people and may change. Fields stand in a message in backticks (`` `mask` ``), so that each front
end can put its own words in their place; the command line shows its options (`--mask`).
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
