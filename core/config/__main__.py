"""python -m core.config                          prints every key
python -m core.config FILE [--set KEY=VALUE]   checks a config and prints it with all defaults, as YAML
python -m core.config --markdown               prints docs/configuration.md
"""

import argparse
import sys
from collections.abc import Sequence

from core.command_line import Parser
from core.config.checking import config_notices
from core.config.files import dump_config
from core.config.loading import load_config
from core.config.table import configuration_page, table_of_keys
from core.errors import one_line_errors


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.config is None:
        print(configuration_page() if args.markdown else table_of_keys() + "\n", end="")
        return
    config = load_config(args.config, args.set)
    for notice in config_notices(config):
        print(f"note: {notice}", file=sys.stderr)
    print(dump_config(config), end="")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m core.config",
        description="Prints every key of a config, or checks a config and prints it whole.",
    )
    file = "a YAML file, or JSON with // comments; without it, all keys are printed"
    parser.add_argument("config", nargs="?", metavar="FILE", help=file)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the config")
    parser.add_argument("--markdown", action="store_true", help="without FILE: print all keys as docs/configuration.md")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
