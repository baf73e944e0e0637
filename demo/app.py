"""The page: what a picture shows, its objects to be moved, faces and animals. `make app`, or `python demo/app.py`."""

import argparse
import socket


def port(text: str) -> int:
    """A free port of this machine."""
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; give one from 1 to 65535")
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", number))
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{text} cannot be used ({error.strerror}); give another") from None
    return number


def main() -> None:
    """The command line: see --help."""
    parser = argparse.ArgumentParser(description="Serve the page, to this machine alone.")
    parser.add_argument("--port", type=port, help="default: the first free one from 7860 on, or GRADIO_SERVER_PORT")
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
