"""`lora-trainer COMMAND …`, also `python -m service COMMAND …`: one entry point for all commands."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from settings.command_line.parser import CommandParser
from settings.unknown_names import advice

PROGRAM = "lora-trainer"


@dataclass(frozen=True)
class Command:
    """A command. `module` has `main(argv, prog)` and is imported when the command runs. `subcommand`: prepended to its
    arguments."""

    summary: str
    module: str
    subcommand: str | None = None


COMMANDS = {
    "train": Command("train a LoRA and its trigger word (python train.py)", "service.train_command"),
    "predict": Command("generate images with LoRAs (python predict.py)", "service.predict_command"),
    "prepare": Command(
        "prepare images, and report the result for each (python -m preprocess)", "preprocess.command_line"
    ),
    "encode": Command("encode shards of images to features for later training", "service.features.command_line"),
    "convert": Command("write a LoRA file in another format (python -m artifact)", "artifact.command_line", "convert"),
    "merge": Command("merge several LoRAs into one, or into a base model", "artifact.command_line", "merge"),
    "extract": Command("extract a LoRA from a full fine-tune", "artifact.command_line", "extract"),
    "resize": Command("approximate a LoRA by one of another rank", "artifact.command_line", "resize"),
    "prune": Command("write only the weights of a whole model, in fp16", "artifact.command_line", "prune"),
    "inspect": Command("show the contents of a LoRA file", "artifact.command_line", "inspect"),
    "evaluate": Command(
        "compare LoRAs with the base model and each other (python -m evaluation.comparison)",
        "evaluation.comparison.command_line",
    ),
    "sweep": Command(
        "compare trainings with different settings (python -m service.sweep)", "service.sweep.command_line"
    ),
    "report": Command("write the report of a training again (python -m job.report)", "job.report.command_line"),
}


def build_parser() -> CommandParser:
    """Return a parser for the first argument. The command parses the others itself."""
    parser = CommandParser(prog=PROGRAM, usage="%(prog)s COMMAND ...", description="Train and use LoRAs.")
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        title="commands",
        description="COMMAND --help shows the options",
    )
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status: 0, 2 for wrong input, or another that the command defines."""
    given = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    if given and given[0] not in COMMANDS and not given[0].startswith("-"):
        near = advice(given[0], COMMANDS)
        parser.error(f"{given[0]}: unknown command; {near or 'choose one of ' + ', '.join(COMMANDS)}")
    command = COMMANDS[parser.parse_args(given[:1] or ["--help"]).command]
    module = import_module(command.module)
    if command.subcommand:
        return int(module.main(given, prog=PROGRAM))
    return int(module.main(given[1:], prog=f"{PROGRAM} {given[0]}"))


if __name__ == "__main__":
    sys.exit(main())
