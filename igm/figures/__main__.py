"""`python -m igm.figures DIR`: draw the figures of a results folder again from its records."""

import argparse
from pathlib import Path

from igm import UserError
from igm.evaluation.redraw import redraw
from igm.settings import positive


def main() -> None:
    """Draw the figures of a results folder again from its records."""
    parser = argparse.ArgumentParser(prog="python -m igm.figures", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="results folder with results.jsonl")
    parser.add_argument("--max_images", type=positive, default=24, help="images per sheet (default: %(default)s)")
    options = parser.parse_args()
    try:
        written = redraw(options.folder, options.max_images)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    main()
