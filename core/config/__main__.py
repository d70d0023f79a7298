"""python -m core.config                          prints every key there is
python -m core.config FILE [--set KEY=VALUE]   checks a config and prints it whole, as YAML
"""

import argparse
import sys
from collections.abc import Sequence

from core.config.checking import config_notices
from core.config.files import dump_config
from core.config.loading import load_config
from core.config.table import table_of_keys
from core.errors import one_line_errors


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m core.config", description="Print every key of a config, or check a config and print it whole."
    )
    parser.add_argument("config", nargs="?", help="a YAML file, or JSON with // comments; without: the table of keys")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the config")
    args = parser.parse_args(argv)
    if args.config is None:
        print(table_of_keys())
        return
    config = load_config(args.config, args.set)
    for notice in config_notices(config):
        print(f"note: {notice}", file=sys.stderr)
    print(dump_config(config), end="")


if __name__ == "__main__":
    main()
