"""What the server keeps of the visitors' pictures: so many, for so long, each under a key that nobody can guess."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from igm import UserError


class Shelf:
    """Values by secret keys; where there are more than `most`, the one that was asked for longest ago goes.

    Args:
        most: values kept. seconds: after which a value goes that nobody asked for. clock: seconds that never go back.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.most, self.seconds, self.clock = most, seconds, clock
        self.lock = threading.Lock()
        self.kept: OrderedDict[str, tuple[float, Any]] = OrderedDict()

    def put(self, value: Any) -> str:
        """Keep a value; return its key."""
        key = secrets.token_urlsafe(16)
        with self.lock:
            self.kept[key] = self.clock(), value
            self.tidy()
        return key

    def get(self, key: Any) -> Any:
        """The value of a key, which stays from now on as long as a new one.

        Raises:
            UserError: it is not there any more, or never was.
        """
        with self.lock:
            self.tidy()
            if not isinstance(key, str) or key not in self.kept:
                raise UserError("This picture is no longer on the server; give it again.")
            value = self.kept[key][1]
            self.kept[key] = self.clock(), value
            self.kept.move_to_end(key)
            return value

    def tidy(self) -> None:
        """Let go what is too old or too much; the lock is held."""
        now = self.clock()
        while self.kept:
            last, _ = next(iter(self.kept.values()))
            if len(self.kept) <= self.most and now - last <= self.seconds:
                break
            self.kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self.kept)
