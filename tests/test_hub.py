"""What a name stands for; a hub of the test's own on this machine, a hub that says nothing, and none at all."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import ROOT
from huggingface_hub import constants

import igm.hub
from igm.hub import find_repository, is_pipeline, list_models, local_path, needed, resolve
from igm.models import ModelError
from igm.models.codec import load_codec
from igm.models.denoiser import Denoiser
from igm.models.stable_diffusion import StableDiffusion

SHIPPED = ROOT / "models" / "pretrained"
COMMITS = {"main": "a" * 40, "v1": "b" * 40}
REPOSITORIES = {"them/positions": SHIPPED / "clevr-mini", "them/animals": SHIPPED / "animals-mini"}


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: a repository's files, and each file. Two repositories are no models at all."""

    asked: list[str] = []

    def do_GET(self):
        Hub.asked.append(self.path)
        name = "/".join(self.path.removeprefix("/api/models").strip("/").split("/")[:2])
        if name == "them/words":
            self.answer(json.dumps({"id": name, "sha": "a" * 40, "siblings": [{"rfilename": "README.md"}]}).encode())
        elif name == "them/secret":
            self.answer(b"", 403, {"X-Error-Code": "GatedRepo"})
        elif name not in REPOSITORIES:
            self.answer(b"", 404, {"X-Error-Code": "RepoNotFound"})
        elif self.path.startswith("/api"):
            revision = self.path.rpartition("/revision/")[2] if "/revision/" in self.path else "main"
            if revision not in COMMITS:
                return self.answer(b"", 404, {"X-Error-Code": "RevisionNotFound"})
            files = [{"rfilename": n} for n in self.files(name)]
            self.answer(json.dumps({"id": name, "sha": COMMITS[revision], "siblings": files}).encode())
        else:
            commit, _, file = self.path.partition("/resolve/")[2].partition("/")
            self.answer((REPOSITORIES[name] / file).read_bytes(), commit=COMMITS.get(commit, commit), file=file)

    do_HEAD = do_GET

    def files(self, name):
        files = [p.relative_to(REPOSITORIES[name]).as_posix() for p in REPOSITORIES[name].rglob("*") if p.is_file()]
        return [*files, "pipeline.py", "unet/diffusion_pytorch_model.bin", "large.safetensors"]

    def answer(self, body, code=200, headers=None, commit="", file=""):
        self.send_response(code)
        headers = {
            "Content-Length": str(len(body)),
            "X-Repo-Commit": commit,
            "ETag": f'"{hash(file)}"',
            **(headers or {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def use_hub(monkeypatch, tmp_path):
    """A function (endpoint) that lets the hub's library ask there, with an empty cache."""

    def use(endpoint):
        for name in ("ENDPOINT", "HF_ENDPOINT"):
            monkeypatch.setattr(constants, name, endpoint, raising=False)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    return use


@pytest.fixture
def hub(use_hub):
    """The hub of the test, running."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub(f"http://127.0.0.1:{server.server_port}")
    Hub.asked.clear()
    yield server
    server.shutdown()
    server.server_close()


def refusal(call) -> str:
    with pytest.raises(ModelError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shipped_models_have_names(tmp_path, monkeypatch):
    assert list_models() == ["animals-mini", "celeba-mini", "clevr-mini", "clevr-scene-draw", "clevr-scene-mini"]
    assert resolve("clevr-mini") == SHIPPED / "clevr-mini" and not is_pipeline(SHIPPED / "clevr-mini")
    assert is_pipeline(resolve("animals-mini")) and Denoiser.from_pretrained("celeba-mini").cond_size == 6
    monkeypatch.chdir(tmp_path)
    assert local_path("clevr-mini") == SHIPPED / "clevr-mini"
    (tmp_path / "clevr-mini").mkdir()
    assert str(local_path("clevr-mini")) == "clevr-mini"  # a folder here comes first


@pytest.mark.parametrize("name", ["no-such-thing", "a/b/c", "/nowhere/at/all", "", "a b/c"])
def test_names_that_are_nothing(name):
    if name:
        message = refusal(lambda: resolve(name, what="--checkpoint"))
        assert name in message and "clevr-mini" in message and "hub id" in message


def test_a_model_on_the_hub_is_told_by_its_files(hub):
    found = resolve("them/positions")
    assert not is_pipeline(found) and not (found / "README.md").exists()
    own, theirs = Denoiser.from_pretrained(SHIPPED / "clevr-mini"), Denoiser.from_pretrained("them/positions")
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), theirs.parameters(), strict=True))
    assert theirs.facts == own.facts
    assert torch.equal(load_codec("them/positions").mean, own.codec.mean)
    assert not [path for path in Hub.asked if path.endswith(("pipeline.py", ".bin", "large.safetensors", ".md"))]


def test_a_pipeline_on_the_hub_stays_an_id(hub):
    assert resolve("them/animals") == "them/animals" and is_pipeline("them/animals")
    assert not [path for path in Hub.asked if "safetensors" in path]  # nothing large is fetched to tell
    pipeline = StableDiffusion.from_pretrained("them/animals")
    assert pipeline.encode_prompts(["a cat"]).shape[0] == 1
    assert not [path for path in Hub.asked if path.endswith(("pipeline.py", ".bin", "large.safetensors"))]


def test_the_revision_is_asked_for(hub):
    assert COMMITS["v1"] in str(resolve("them/positions", "v1"))
    assert COMMITS["v1"] in str(
        Denoiser.from_pretrained("them/positions", revision="v1") and resolve("them/positions", "v1")
    )
    assert "--revision" in refusal(lambda: resolve("them/positions", "v2"))


@pytest.mark.parametrize(
    "name, words", [("them/none", "does not exist"), ("them/secret", "gated"), ("them/words", "neither")]
)
def test_what_the_hub_says_is_passed_on(hub, name, words):
    message = refusal(lambda: resolve(name))
    assert words in message and name in message


def test_the_cache_serves_without_a_hub(hub, use_hub, capsys):
    first = resolve("them/positions")
    hub.shutdown()
    hub.server_close()
    use_hub("http://127.0.0.1:9")
    assert resolve("them/positions") == first
    assert "cache" in capsys.readouterr().err
    assert resolve("them/positions", local_files_only=True) == first and not capsys.readouterr().err
    assert Denoiser.from_pretrained("them/positions", local_files_only=True).cond_size == 2
    for name in ("them/animals", "them/none"):
        assert "local cache" in refusal(lambda name=name: resolve(name, local_files_only=True))


OFFLINE = """
from igm.api import load_model
for name in ("them/positions", "them/animals", "them/none"):
    try:
        print(name, load_model(name, device="cpu").task)
    except ValueError as error:
        print(name, "refused:", error)
"""


def test_offline_a_prepared_cache_is_enough(hub, run_script, tmp_path):
    """In a process with HF_HUB_OFFLINE=1 the API loads both kinds, a command runs, and nobody is asked."""
    resolve("them/positions")
    StableDiffusion.from_pretrained("them/animals")
    Hub.asked.clear()
    offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    done = run_script("-c", OFFLINE, **offline)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[:2] == ["them/positions positions", "them/animals classes"], done.stderr
    assert lines[2].startswith("them/none refused: ") and "them/none" in lines[2].partition("refused: ")[2]
    quick = ["--num_images", 1, "--num_draws", 2, "--num_steps", 1, "--no_figures", "--output_dir", tmp_path / "out"]
    done = run_script("eval_clevr.py", "--checkpoint", "them/positions", "--object_counts", "3-5", *quick, **offline)
    assert done.returncode == 0 and "found within 0.05" in done.stdout, done.stderr
    assert not Hub.asked


def test_no_hub_is_said_at_once(use_hub):
    use_hub("http://127.0.0.1:9")  # refuses
    for call in (lambda: resolve("them/positions"), lambda: load_codec("them/positions")):
        started = time.perf_counter()
        message = refusal(call)
        assert "network" in message and "them/positions" in message and time.perf_counter() - started < 5


def test_a_silent_hub_is_waited_for_a_few_seconds(use_hub, monkeypatch):
    import socket

    assert igm.hub.PATIENCE <= 12
    monkeypatch.setattr(igm.hub, "PATIENCE", 1)
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        use_hub(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.perf_counter()
        message = refusal(lambda: find_repository("them/positions", None, False, "--checkpoint"))
        assert "network" in message and time.perf_counter() - started < 4


def test_only_what_is_needed_is_fetched():
    stem = "diffusion_pytorch_model"
    files = [
        *("README.md", "igm.json", "pipeline.py", "other.safetensors"),
        *(f"unet/{stem}{name}" for name in (".safetensors", ".fp16.safetensors", ".bin", ".non_ema.safetensors")),
        *(f"vae/{name}" for name in ("config.json", f"{stem}.fp16.safetensors", f"{stem}.fp16.bin")),
        *(
            f"big/{stem}{name}"
            for name in ("-00001-of-00002.safetensors", ".safetensors.index.json", ".fp16.safetensors")
        ),
    ]
    assert needed(files, {"."}) == ["igm.json"]
    assert needed(files, {"unet"}) == [f"unet/{stem}.safetensors"]
    assert needed(files, {"vae"}) == ["vae/config.json", f"vae/{stem}.fp16.safetensors"]
    assert needed(files, {"big"}) == [f"big/{stem}.safetensors.index.json", f"big/{stem}-00001-of-00002.safetensors"]
