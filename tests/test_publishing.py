"""Models on the hub, and back again: against a hub of the test's own on this machine."""

import base64
import dataclasses
import json
import threading
from http.server import ThreadingHTTPServer

import pytest
import torch
import yaml
from conftest import ROOT
from huggingface_hub import constants
from test_hub import Hub, use_hub  # noqa: F401  (fixture)

from igm import UserError
from igm.api import AttributeModel, ObjectModel, PositionModel, load_model
from igm.facts import Facts
from igm.models import ModelError
from igm.provenance import without_tokens
from igm.publishing import model_card

TOKEN, COMMIT = "hf_writes_here", "c" * 40


class Store(Hub):
    """Takes commits and answers with what they brought; the hub's requests as its library makes them."""

    repositories: dict[str, dict[str, bytes]] = {}
    tokens: set[str] = set()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "validate-yaml" not in self.path:
            return self.answer(b"{}", 401)
        name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
        if self.path == "/api/repos/create":
            own = json.loads(body)
            name = f"{own.get('organization') or 'them'}/{own['name']}"
            Store.repositories.setdefault(name, {})
            return self.say({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.say({"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    Store.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.say({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.path}/commit/{COMMIT}"})
        return self.say({"errors": [], "warnings": []})

    def do_GET(self):
        name = "/".join(self.path.removeprefix("/api/models").strip("/").split("/")[:2])
        files = Store.repositories.get(name)
        if files is None or (name.endswith("private") and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            return self.answer(b"", 404, {"X-Error-Code": "RepoNotFound"})
        if self.path.startswith("/api"):
            return self.say({"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
        file = self.path.partition("/resolve/")[2].partition("/")[2]
        if file not in files:
            return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        self.answer(files[file], commit=COMMIT, file=file)

    do_HEAD = do_GET

    def say(self, value):
        self.answer(json.dumps(value).encode(), headers={"Content-Type": "application/json"})


@pytest.fixture
def store(use_hub, monkeypatch):  # noqa: F811
    """The test's hub, running and empty."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub(f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    Store.repositories.clear()
    yield Store.repositories
    server.shutdown()
    server.server_close()


def one_line(call, *words):
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and TOKEN not in message and all(word in message for word in words), message


def head_of(card):
    return yaml.safe_load(card.split("---")[1])


def test_a_model_goes_to_the_hub_and_comes_back(store, capsys):
    model = load_model("clevr-mini", device="cpu")
    address = model.push_to_hub("them/scenes", token=TOKEN, license="cc-by-4.0", datasets=["them/pictures"])
    assert address.endswith("/them/scenes")
    files = store["them/scenes"]
    assert {"README.md", "igm.json", "unet2dconditionmodel/config.json", "vae/config.json"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    card = head_of(files["README.md"].decode())
    assert card["license"] == "cc-by-4.0" and card["library_name"] == "igm" and "positions" in card["tags"]
    assert card["pipeline_tag"] == "keypoint-detection" and card["datasets"] == ["them/pictures"] and card["metrics"]
    back = PositionModel.from_pretrained("them/scenes", device="cpu", revision="main")
    own, theirs = model.model, back.model
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), theirs.parameters(), strict=True))
    assert back.model.facts.bounds == model.model.facts.bounds
    quick = {"num_candidates": 36, "num_draws": 2, "num_steps": 1, "num_objects": 2}
    scene = ROOT / "sample_images" / "scene.png"
    assert (back(scene, **quick).positions == model(scene, **quick).positions).all()
    one_line(lambda: AttributeModel.from_pretrained("them/scenes"), "PositionModel", "AttributeModel")


@pytest.mark.parametrize("partner", ["clevr-scene-mini", "their/reader", None])
def test_no_folder_of_this_machine_is_told(store, capsys, tmp_path, partner):
    model = load_model("clevr-mini", device="cpu")
    model.model.facts = dataclasses.replace(model.model.facts, partner=partner or str(tmp_path))
    model.push_to_hub("them/pair", token=TOKEN)
    told = json.loads(store["them/pair"]["igm.json"]).get("partner")
    assert told == partner
    assert not any(str(tmp_path).encode() in file for file in store["them/pair"].values())
    assert ("is left out" in capsys.readouterr().err) == (partner is None)


def test_the_default_model_of_whole_scenes_comes_back_as_one(store):
    load_model(device="cpu").push_to_hub("them/objects", token=TOKEN)
    back = ObjectModel.from_pretrained("them/objects", device="cpu")
    assert (
        "color" in back.model.facts.vocabulary
        and "objects" in head_of(store["them/objects"]["README.md"].decode())["tags"]
    )
    one_line(lambda: AttributeModel.from_pretrained("them/objects"), "ObjectModel", "AttributeModel")


def test_a_card_that_is_there_stays(store):
    store["them/scenes"] = {"README.md": b"written by a person"}
    load_model("clevr-mini", device="cpu").push_to_hub("them/scenes", token=TOKEN)
    assert store["them/scenes"]["README.md"] == b"written by a person" and "igm.json" in store["them/scenes"]


def test_private_repositories_and_the_cache(store, use_hub):  # noqa: F811
    load_model("celeba-mini", device="cpu").push_to_hub("them/private", token=TOKEN, private=True)
    one_line(lambda: load_model("them/private"), "them/private", "private")
    first = AttributeModel.from_pretrained("them/private", token=TOKEN, device="cpu")
    assert first.model.facts.attributes == ("Black_Hair", "Eyeglasses", "Smiling")
    use_hub("http://127.0.0.1:9")  # nobody answers: the cache does
    assert load_model("them/private", local_files_only=True, device="cpu").model.facts == first.model.facts


def test_a_private_pipeline_is_fetched_with_the_token(store):
    folder = ROOT / "models" / "pretrained" / "animals-mini"
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    store["them/private"] = files
    one_line(lambda: load_model("them/private"), "them/private")
    model = load_model("them/private", token=TOKEN, device="cpu")
    assert model.task == "classes" and TOKEN not in repr(vars(model))


def test_pushing_without_leave_or_network(store, use_hub, monkeypatch):  # noqa: F811
    model = load_model("clevr-mini", device="cpu")
    one_line(lambda: model.push_to_hub("them/scenes", token="hf_wrong"), "them/scenes", "hf auth login")
    one_line(lambda: model.push_to_hub("them/scenes and more", token=TOKEN), "owner/name")
    use_hub("http://127.0.0.1:9")
    one_line(lambda: model.push_to_hub("them/scenes", token=TOKEN), "them/scenes", "network")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    one_line(lambda: model.push_to_hub("them/scenes", token=TOKEN), "HF_HUB_OFFLINE")


def test_a_pipeline_is_not_pushed_and_the_reason_names_what_does(store):
    """What the sentence says to write is what diffusers has; nothing reaches the hub."""
    from diffusers import DiffusionPipeline

    with pytest.raises(UserError) as caught:
        load_model("animals-mini", device="cpu").push_to_hub("them/animals", token=TOKEN, private=True)
    message = str(caught.value)
    assert 'DiffusionPipeline.from_pretrained(checkpoint).push_to_hub("them/animals")' in message
    assert "\n" not in message and "--" not in message and TOKEN not in message and not store
    assert callable(DiffusionPipeline.push_to_hub) and callable(DiffusionPipeline.from_pretrained)


def test_a_training_pushes_its_last_checkpoint(store, run_main, training_args, clevr_root, tmp_path):
    """The codec, a folder of this machine, goes with it; the token goes nowhere but to the hub."""
    arguments = training_args(clevr_root, "position_unet")(tracker_project_name="own")
    push = ["--push_to_hub", "--hub_token", TOKEN]
    code, out, err = run_main("train_clevr", *arguments, *push, "--use_ema")
    assert code == 0 and "Pushed to http" in out, err
    files = store["them/own"]
    assert not [name for name in files if "optimizer" in name or "training.json" in name or "random" in name]
    assert "codec" not in json.loads(files["igm.json"]) and "vae/config.json" in files
    card = files["README.md"].decode()
    assert "train_clevr.py" in card and "--hub_token <token>" in card and head_of(card)["license"] == "other"
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written and not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert not [name for name, content in files.items() if TOKEN.encode() in content]
    pushed = PositionModel.from_pretrained("them/own", token=TOKEN, device="cpu").model
    kept = load_model(tmp_path / "out" / "own" / "checkpoint-2", device="cpu").model
    assert all(torch.equal(a, b) for a, b in zip(pushed.parameters(), kept.parameters(), strict=True))


def test_mistakes_show_before_anything_is_trained(store, run_main, no_model, training_args, clevr_root):
    arguments = training_args(clevr_root, "position_unet")
    for flags, words in [
        (["--hub_model_id", "them/own"], "--push_to_hub"),
        (["--push_to_hub", "--hub_token", "hf_wrong"], "hf auth login"),
        (["--push_to_hub", "--hub_token", TOKEN, "--report_to", "wandb"], "recorded by wandb"),
    ]:
        code, _, err = run_main("train_clevr", *arguments(), *flags)
        assert code == 2 and words in err and TOKEN not in err and len(err.strip().splitlines()) == 1


def test_a_push_that_fails_keeps_the_checkpoint(store, run_main, training_args, clevr_root, monkeypatch):
    monkeypatch.setattr(Store, "say", lambda self, value: Hub.answer(self, b"{}", 403 if "files" in value else 200))
    monkeypatch.setattr("igm.training.start.create_repository", lambda repo, token: "them/own")
    arguments = training_args(clevr_root, "position_unet")(tracker_project_name="own")
    code, _, err = run_main("train_clevr", *arguments, "--push_to_hub", "--hub_token", TOKEN)
    last = err.strip().splitlines()[-1]
    assert code == 2 and "checkpoint-2 is complete" in last and 'push_to_hub("them/own")' in last


def test_command_lines_are_written_without_tokens():
    words = ["x.py", "--hub_token", "a", "--hub_token=b", "--seed", "1", "--token", "c"]
    assert without_tokens(words) == (
        *("x.py", "--hub_token", "<token>", "--hub_token=<token>", "--seed", "1", "--token", "<token>"),
    )


def test_cards_tell_what_is_known():
    card = model_card(Facts(task="attributes", attributes=("Smiling",), resolution=64), "them/faces", "mit")
    assert "| attributes | Smiling |" in card and "| resolution | 64 |" in card and "`mit`" in card
    assert head_of(card)["pipeline_tag"] == "image-classification" and 'load_model("them/faces")' in card
