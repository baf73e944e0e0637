"""Generate pictures of a composition of concepts, and see how much of it the model's own inference finds in them.

Examples:
    python generate.py --positions 0.3,0.7 0.6,0.4
    python generate.py --checkpoint clevr-scene-mini --objects "small red metal cube @0.3,0.7" "blue sphere @0.6,0.4"
    python generate.py --checkpoint celeba-mini --attributes Smiling -Eyeglasses
    python generate.py --checkpoint animals-mini --prompts "a photo of a cat" "a photo of a dog"
"""

import sys

from igm.cli.generation import AskedSettings, PlaceSettings, readable, run_generation
from igm.cli.launch import run
from igm.cli.options import Parser
from igm.data import DataError
from igm.generation import SamplingSettings


def main() -> None:
    """Generate what the command line asks for."""
    parser = Parser(__doc__)
    parser.add("concepts", AskedSettings)
    parser.add("sampling", SamplingSettings)
    parser.add("model", PlaceSettings)
    run_generation(parser.read(readable(sys.argv[1:])))


if __name__ == "__main__":
    run(main, DataError)
