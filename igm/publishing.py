"""Models to the hub: a repository, a folder's files, and a card that says what the model is and what made it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from igm import __version__
from igm.facts import Facts
from igm.hub import HUB_ID, kinds
from igm.models import ModelError
from igm.models.configs import one_line
from igm.tasks import find_task

CARD = "README.md"
TAGS = ("igm", "compositional", "inverse-generative-modeling", "scene-understanding")
CODE = "https://arxiv.org/abs/2505.21780"


def create_repository(repo: str, token: str | None = None, private: bool | None = None) -> str:
    """Make a model repository where there is none; return its full id (a bare name gets the token's owner).

    Raises:
        ModelError: it may not be made, or the hub is out of reach; one line with the mend.
    """
    from huggingface_hub import HfApi

    if not HUB_ID.fullmatch(repo if "/" in repo else f"owner/{repo}"):
        raise ModelError(f"hub id {repo} is no name of a repository; write owner/name, of letters, digits, - _ and .")
    try:
        return HfApi(token=token).create_repo(repo, exist_ok=True, private=private).repo_id
    except Exception as error:  # hub and network libraries raise many kinds
        raise refused(repo, error, token) from None


def upload(folder: Path, repo: str, card: str, token: str | None = None, message: str = "Upload of IGM") -> str:
    """Upload a folder's files, and the card where the repository has none; return the repository's address.

    Raises:
        ModelError: it may not be written, or the hub is out of reach; one line with the mend.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        if not api.file_exists(repo, CARD):
            (folder / CARD).write_text(card, encoding="utf-8")
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except Exception as error:
        raise refused(repo, error, token) from None
    return f"{api.endpoint}/{repo}"


def refused(repo: str, error: BaseException, token: str | None) -> ModelError:
    """Why a repository cannot be written, and the mend; never with the token in it."""
    said = kinds(error)
    if any(word in said for word in ("401", "403", "LocalTokenNotFound", "RepositoryNotFound")):
        text = "may not be written; log in with a token that may write (hf auth login), or give one"
    elif "OfflineMode" in said:
        text = "is out of reach: HF_HUB_OFFLINE is set; take it away, or push later"
    else:
        text = f"cannot be written ({one_line(error)[:200]}); check the network and the name"
    text = text.replace(token, "<token>") if token else text
    return ModelError(f"hub id {repo} {text}")


def model_card(
    facts: Facts, repo: str, license: str = "other", datasets: Sequence[str] = (), command: Sequence[str] = ()
) -> str:
    """The README of a model's repository: what the hub searches for, how to use it, what made it.

    Args:
        license: as the hub spells it; "other" where nobody has said. datasets: hub ids of those it was trained on.
        command: the words of the training's command line.
    """
    from huggingface_hub import ModelCardData

    task = find_task(facts.task or "positions")
    head: dict[str, Any] = {"license": license, "library_name": "igm", "tags": [*TAGS, task.name]}
    head |= {"pipeline_tag": task.pipeline_tag, "datasets": list(datasets) or None, "metrics": list(task.hub_metrics)}
    rows = {n: v for n, v in facts.known().items() if n in SHOWN}
    lines = [f"| {name} | {', '.join(map(str, v)) if isinstance(v, tuple) else v} |" for name, v in rows.items()]
    made = f"\n## Training\n\n```sh\n{' '.join(command)}\n```\n" if command else ""
    licence = "The author has not said under which." if license == "other" else f"`{license}`"
    return f"""---
{ModelCardData(**{name: value for name, value in head.items() if value}).to_yaml()}
---

# {repo.rpartition("/")[2]}

A model for {task.name} by compositional inverse generative modelling ([Wang, Dauwels and Du, ICML 2025]({CODE})), of IGM
{__version__}.

```python
from igm.api import load_model

model = load_model("{repo}")
print(model("picture.png"))
```

| | |
| :-- | :-- |
{chr(10).join(lines)}
{made}
## Licence

{licence}
"""


SHOWN = ("task", "learner", "resolution", "num_objects", "attributes", "classes")  # facts that the card tells
