"""`python -m models list` and `python -m models fetch NAME...`: paths on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from models.errors import ModelsError
from models.fetching import Kitchen, kitchen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 where a recipe failed, 2 for bad usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    here = kitchen(lambda words: print(words, file=sys.stderr, flush=True))
    if options.verb == "list":
        return _list(here)
    if options.all == bool(options.names):
        parser.error("name the recipes to fetch, or give --all")
    names = list(here.entries) if options.all else options.names
    return _fetch(here, names, options.files)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the recipes, one a line")
    fetch = verbs.add_parser("fetch", help="build what is not in the cache yet; print one folder a line")
    fetch.add_argument("names", nargs="*", metavar="NAME")
    fetch.add_argument("--all", action="store_true", help="every recipe")
    fetch.add_argument("--files", action="store_true", help="print the files instead of their folders")
    return parser


def _list(here: Kitchen) -> int:
    width = max(map(len, here.entries))
    for name, entry in here.entries.items():
        print(f"{name:{width}}  {entry.summary}")
    return 0


def _fetch(here: Kitchen, names: Sequence[str], show_files: bool) -> int:
    """Fetch each one, going on after a failure, so that one missing package does not hide the rest."""
    exit_code = 0
    for name in names:
        try:
            artifact = here.fetch(name)
        except ModelsError as error:
            print(f"error: {error}", file=sys.stderr)
            exit_code = max(exit_code, error.exit_code)
            continue
        for path in artifact.files.values() if show_files else [artifact.path]:
            print(path)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
