"""What a name stands for: a shipped model, a folder, or a repository of the hub, which is told by the files it has.

The hub is asked once, for a few seconds; without an answer the local cache serves, or one line says what is wrong.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from igm import warn
from igm.models import ModelError
from igm.models.configs import one_line
from igm.resources import PRETRAINED

NETWORK_DIR = "unet2dconditionmodel"  # the published code's name for it, whatever network it holds
EMA_DIR = "unet2dconditionmodel_ema"
MODEL_DIRS = (".", NETWORK_DIR, EMA_DIR, "scheduler", "vae")  # of a model of this project
INDEX_FILE = "model_index.json"  # of a pipeline
PARTS = ("tokenizer", "text_encoder", "vae", "unet", "scheduler")  # of a pipeline
HUB_SECONDS = 5  # for one answer of the hub
PATIENCE = 10  # seconds for all: names to look up, several addresses
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FULL = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors")
HALF = re.compile(r"(diffusion_pytorch_model|model)\.fp16(-\d+-of-\d+)?\.safetensors")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, or of its local cache: its files' names, branch or tag and commit (cache: the folder)."""

    name: str
    files: tuple[str, ...]
    revision: str = "main"
    commit: str | None = None
    folder: Path | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a text-to-image pipeline."""
        return INDEX_FILE in self.files

    @property
    def is_model(self) -> bool:
        """Whether it is a model of this project, or of the published code."""
        return any(PurePosixPath(file).parent.name in (NETWORK_DIR, EMA_DIR) for file in self.files)

    def fetch(self, folders: Iterable[str], what: str) -> Path:
        """The local folder that then has the configs and weights of these folders ("." is the top).

        Raises:
            ModelError: the hub stops answering, or the disk is full; `what` is the option that named it.
        """
        if self.folder is not None:
            return self.folder
        from huggingface_hub import hf_hub_download

        root = None
        try:
            for file in needed(self.files, set(folders)):
                # The first by the revision's name, so that the cache knows the name; the others are of the same commit.
                revision = self.revision if root is None else self.commit
                path = hf_hub_download(self.name, file, revision=revision, etag_timeout=HUB_SECONDS, token=self.token)
                root = Path(path).parents[len(PurePosixPath(file).parts) - 1]
        except Exception as error:  # hub and network libraries raise many kinds
            raise refusal(self.name, error, what) from None
        if root is None:
            raise ModelError(f"{what} {self.name} has none of the folders {', '.join(folders)}; name another")
        return root


def needed(files: Iterable[str], folders: set[str]) -> list[str]:
    """Of a repository's files those to fetch: configs, words, and weights as safetensors, once (full precision first)."""
    own = [file for file in files if str(PurePosixPath(file).parent) in folders]
    small = [file for file in own if file.endswith((".json", ".txt"))]
    weights = []
    for folder in sorted(folders):
        inside = [file for file in own if str(PurePosixPath(file).parent) == folder]
        full = [file for file in inside if FULL.fullmatch(PurePosixPath(file).name)]
        weights += full or [file for file in inside if HALF.fullmatch(PurePosixPath(file).name)]
    return small + weights


def list_models() -> list[str]:
    """Names of the models that are shipped."""
    return sorted(folder.name for folder in PRETRAINED.iterdir() if folder.is_dir())


def local_path(name: str | Path) -> Path | None:
    """The folder or file of that name, or of the shipped model of that name."""
    if Path(name).exists():
        return Path(name)
    return PRETRAINED / name if str(name) in list_models() else None


def resolve(
    name: str | Path,
    revision: str | None = None,
    local_files_only: bool = False,
    what: str = "--checkpoint",
    token: str | None = None,
) -> Path | str:
    """The folder (or file) of a model; for a pipeline on the hub its id, for `StableDiffusion.from_pretrained`.

    Args:
        name: a shipped model's name, a folder, a file, or a hub id of a model of this project or of a pipeline.
        revision: branch, tag or commit on the hub. local_files_only: never ask the hub.
        what: the option that named it, for messages.
        token: of the hub, in place of the one that is logged in; a pipeline is then fetched here, to its folder.

    Raises:
        ModelError: there is no such thing, or it is out of reach; one line with the mend.
    """
    if (path := local_path(name)) is not None:
        return path
    repository = find_repository(str(name), revision, local_files_only, what, token)
    if repository.is_pipeline:
        return repository.fetch((".", *PARTS), what) if token else str(name)
    if not repository.is_model:
        raise ModelError(
            f"{what} {name} is neither a model of this project ({NETWORK_DIR}/) nor a pipeline ({INDEX_FILE}); "
            "name another"
        )
    return repository.fetch(MODEL_DIRS, what)


def is_pipeline(found: Path | str) -> bool:
    """Whether what `resolve` gave is a text-to-image pipeline: an id, a single file, or a folder with an index."""
    return isinstance(found, str) or found.is_file() or (found / INDEX_FILE).is_file()


def find_repository(
    name: str, revision: str | None, local_files_only: bool, what: str, token: str | None = None
) -> Repository:
    """Ask the hub for a repository's files; without an answer, and with `local_files_only`, look into the cache.

    Raises:
        ModelError: it does not exist, may not be read, or is out of reach; one line with the mend.
    """
    from huggingface_hub import HfApi, constants

    if not HUB_ID.fullmatch(name):
        raise ModelError(
            f"{what} {name} does not exist; name a local folder, a shipped model ({', '.join(list_models())}) or a "
            "hub id (owner/name)"
        )
    offline = local_files_only or constants.HF_HUB_OFFLINE
    try:
        if offline:
            raise ConnectionError("offline mode is on" if not local_files_only else "the hub is not asked")
        info = within(PATIENCE, lambda: HfApi(token=token).model_info(name, revision=revision, timeout=HUB_SECONDS))
        files = tuple(sibling.rfilename for sibling in info.siblings or ())
        return Repository(name, files, revision or "main", info.sha, token=token)
    except Exception as error:  # hub and network libraries raise many kinds
        cached = None if is_answer(error) else cached_repository(name, revision)
        if cached is None:
            raise refusal(name, error, what, local_files_only) from None
        if not offline:
            warn(f"the hub does not answer ({one_line(error)[:100]}); {name} is read from the local cache")
        return cached


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns, or TimeoutError: names and addresses have limits of their own that add up to minutes."""
    results: list[Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {seconds:.0f} seconds")
    return results[0]


def cached_repository(name: str, revision: str | None) -> Repository | None:
    """What the local cache has of a repository."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except Exception:  # not there, or no folder may be read: all mean the same here
        return None
    files = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return Repository(name, files, folder=folder)


def kinds(error: BaseException) -> str:
    """Names of an exception's classes and of its cause's, and its text."""
    return " ".join(kind.__name__ for kind in (*type(error).__mro__, *type(error.__cause__).__mro__)) + str(error)


def is_answer(error: BaseException) -> bool:
    """Whether the hub itself said no."""
    return any(kind in kinds(error) for kind in ("GatedRepo", "RepositoryNotFound", "RevisionNotFound", "401", "404"))


def refusal(name: str, error: BaseException, what: str, local_files_only: bool = False) -> ModelError:
    """Why a repository cannot be had, and the mend, in one line."""
    said = kinds(error)
    if "GatedRepo" in said:
        text = "is gated; accept its conditions on its page and log in (hf auth login), or name another"
    elif "RevisionNotFound" in said:
        text = "has no such --revision on the hub; look at its branches and tags, or leave it out"
    elif "RepositoryNotFound" in said or "401" in said or "404" in said:
        text = "does not exist on the hub, or is private; give a local folder, or another id"
    elif local_files_only:
        text = "is not in the local cache; leave out --local_files_only, or give a local folder"
    elif isinstance(error, OSError) and error.errno == 28:
        text = "does not fit on the disk (No space left on device); free some, or set HF_HOME to another"
    else:
        cause = one_line(error)[:200]
        text = f"could not be fetched from the hub ({cause}); check the network, or give a local folder"
    return ModelError(f"{what} {name} {text}")


def is_within_reach(name: str, local_files_only: bool) -> bool:
    """Whether a pipeline is in the local cache, or the hub answers for it within a few seconds."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "unet/diffusion_pytorch_model.safetensors"), str):
        return True
    if local_files_only or constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    try:
        within(PATIENCE, lambda: HfApi().model_info(name, timeout=HUB_SECONDS))
    except Exception:  # no network, no repository, no access: all mean the same here
        return False
    return True
