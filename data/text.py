"""Reading text files that people bring: their encodings, and JSON."""

import codecs
import json
from pathlib import Path

from igm.data import DataError

BYTE_ORDER_MARKS = (  # the longer first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 or UTF-16, with or without a byte order mark; lines end in `\\n`.

    Raises:
        DataError: it cannot be read, or is no such text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); restore it") from None
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if encoding is None:  # every other byte of plain UTF-16 is zero
        encoding = {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(
            (data[:1] == b"\0", data[1:2] == b"\0"), "utf-8"
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: byte {data[error.start]:#04x} is not {error.encoding.upper()}; save it as UTF-8"
        ) from None
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def parse_json(text: str, name: object) -> object:
    """The value of a JSON text.

    Args:
        name: what to call the text in a message: its file, and line if there are several.

    Raises:
        DataError: it is not JSON, is cut short, nested too deeply, or holds an endless number.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise DataError(f"{name} is not complete JSON: it is cut short; unpack or write it again") from None
        place = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{name} is not JSON: {error.msg}, {place}; mend it there") from None
    except RecursionError:
        raise DataError(f"{name}: lists within lists, thousands deep; it is not a file of this kind") from None
    except ValueError:  # Python refuses to read integers of thousands of digits
        raise DataError(f"{name} holds a number of thousands of digits; mend it") from None


def shown(value: object) -> str:
    """A value of a file as a message quotes it: at most 60 characters."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer too long to write, or a structure too deep
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= 60 else text[:56] + " ..."
