"""The page: what a picture shows, its objects to be moved, faces and animals. `make app`, or `python demo/app.py`."""

import argparse


def main() -> None:
    """The command line: see --help."""
    parser = argparse.ArgumentParser(description="Serve the page, to this machine alone.")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on, or GRADIO_SERVER_PORT")
    options = parser.parse_args()
    try:
        from page import serve  # after --help, which needs no Gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        parser.exit(2, "error: Gradio is not installed; run make app, or pip install -e '.[demo]'\n")
    serve.launch(serve.build(), server_port=options.port)


if __name__ == "__main__":
    main()
