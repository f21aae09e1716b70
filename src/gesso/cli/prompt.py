"""`gesso prompt PROMPT`: show how a prompt is parsed: weights, chunks, steps, LoRA and embeddings."""

from typing import Annotated, Any

import typer

from gesso.cli.adapter_options import EmbeddingOption, LoraOption, parse_embeddings, parse_loras
from gesso.cli.generate import parse_settings
from gesso.cli.model_option import ModelOption, OfflineOption
from gesso.cli.prompt_options import DynamicOption, StyleOption, StylesOption, SyntaxOption, WildcardsOption
from gesso.errors import one_line
from gesso.request.request import TextToImageRequest, with_values
from gesso.studio.front_ends import open_front_end, syntax_settings
from gesso.studio.prompts import read_prompts
from gesso.studio.studio import Studio
from gesso.terminal.field_options import with_fields
from gesso.terminal.json_lines import json_line, notice_values
from gesso.terminal.words import in_options


@with_fields({"prompt": ("negative_prompt", "num_steps", "seed", "num_images", "preset")})
def command(
    prompt: Annotated[list[str], typer.Argument(metavar="PROMPT", help="Prompt, as for `gesso generate`.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Override one convention of the preset, such as emphasis=original (repeatable).",
        ),
    ] = None,
    syntax: SyntaxOption = None,
    style: StyleOption = None,
    styles: StylesOption = None,
    wildcards: WildcardsOption = None,
    dynamic_prompts: DynamicOption = False,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    model: ModelOption = "gesso-mini",
    offline: OfflineOption = False,
    family: Annotated[
        str | None, typer.Option("--family", help="Model family, if the file does not say: sd21, sdxl, ...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture.")] = False,
    *,
    fields: dict[str, Any],
) -> None:
    """Show how a prompt is parsed, without drawing.

    Lists the parts with their weights, the steps in which each applies, the tokens in each chunk, words that were cut
    off or that the model does not know, and the LoRA and embeddings that the prompt uses.

    Examples:
        gesso prompt "a (red:1.3) car"
        gesso prompt "a [red:blue:0.5] car" --steps 20
        gesso prompt "a red+ car" --syntax compel
        gesso prompt "a {red|blue} car" --dynamic-prompts --seed 3 -n 4
    """
    loras, lora_files = parse_loras(lora or [])
    values = fields | parse_settings(settings or []) | syntax_settings(syntax)
    request = with_values(TextToImageRequest(prompt=" ".join(prompt), loras=loras), values)
    studio = Studio(offline=offline)
    readings = read_prompts(
        studio,
        request,
        model=model,
        family=family,
        front=open_front_end(syntax, style, styles, wildcards, dynamic_prompts),
        finder=studio.finder({"lora": lora_files, "embedding": parse_embeddings(embedding or [])}),
    )
    for each in readings:
        if as_json:
            values = {"prompt": each.request.prompt, "negative_prompt": each.request.negative_prompt}
            values |= each.reading.to_dict() | notice_values((*each.notices, *each.reading.notices))
            print(json_line(values))
            continue
        for line in (*(f"note: {notice}" for notice in each.notices), *each.reading.lines):
            print(in_options(_safe(line)) if line.lstrip().startswith("note: ") else _safe(line))


def _safe(line: str) -> str:
    """On one line, nothing that a terminal obeys; the room before it stays."""
    return line[: len(line) - len(line.lstrip())] + one_line(line)
