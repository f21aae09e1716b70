"""The commands of `gesso`. Imports nothing that takes time."""

from typing import NamedTuple


class Command(NamedTuple):
    """One row of the table. The module holds `command`, a function, or `app`, an `App` of gesso.terminal.help."""

    name: str
    module: str
    help: str  # one line


# A new command is one file and one row here.
COMMANDS = (
    Command("generate", "gesso.cli.generate", "Draw pictures from a prompt."),
    Command("grid", "gesso.cli.grid", "Draw a grid that varies up to three settings (X/Y/Z plot)."),
    Command("batch", "gesso.cli.batch", "Draw one picture per line of a file."),
    Command("prompt", "gesso.cli.prompt", "Show how a prompt is parsed, without drawing."),
    Command("replay", "gesso.cli.replay", "Redraw a picture from the recipe stored in it, and compare."),
    Command("upscale", "gesso.cli.upscale", "Enlarge pictures, without a prompt."),
    Command("preprocess", "gesso.cli.preprocess", "Make ControlNet hints (control images) from pictures."),
    Command("metadata", "gesso.cli.metadata", "Show, remove and copy the settings in pictures."),
    Command("samplers", "gesso.cli.samplers", "List samplers and schedules, with their names in other tools."),
    Command("presets", "gesso.cli.presets", "List what each preset sets, where tools differ."),
    Command("models", "gesso.cli.models", "List, import, convert and verify models."),
    Command("lora", "gesso.cli.lora", "Inspect, convert, merge, extract and resize LoRA files."),
    Command("train", "gesso.cli.train", "Train the default model and its LoRA and ControlNet."),
    Command("evaluate", "gesso.cli.evaluate", "Measure how well a model follows its prompts."),
    Command("serve", "gesso.cli.serve", "Serve the HTTP API, with a queue and workers."),
    Command("keys", "gesso.cli.keys", "Make, list and revoke API keys of a server."),
    Command("backup", "gesso.cli.backup", "Back up a server's queue and pictures, and restore them."),
    Command("config", "gesso.cli.config", "Show and change the defaults of options."),
    Command("doctor", "gesso.cli.doctor", "Check that gesso works on this machine."),
)
NAMES = tuple(row.name for row in COMMANDS)
