"""`python -m igm.figures DIR`: draw the figures of a results folder again from its records."""

import argparse
from pathlib import Path

from igm.evaluation.redraw import redraw


def main() -> None:
    """Draw the figures of a results folder again from its records."""
    parser = argparse.ArgumentParser(prog="python -m igm.figures", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="results folder with results.jsonl")
    parser.add_argument("--max_images", type=int, default=24, help="images per sheet (default: %(default)s)")
    options = parser.parse_args()
    try:
        written = redraw(options.folder, options.max_images)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    main()
