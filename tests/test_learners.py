"""What is trained is one file: learners are found by name; the joint label; a codec fitted at the start; provenance."""

import json
import sys

import pytest
import torch
from conftest import RESNET, as_flags
from test_scripts import check_refused

import igm.baselines
from igm import UserError
from igm.baselines.joint_label import JointLabelLearner, with_joint_label
from igm.baselines.resnet50 import ResNetLearner, attribute_loss
from igm.facts import Facts
from igm.models.codec import PatchPCA, load_codec
from igm.models.unet import build_network
from igm.provenance import git_commit
from igm.training.compositional import CompositionalLearner
from igm.training.learner import find_learner
from igm.training.settings import TrainSettings

TOY = '''
"""Predicts the number of objects from the mean colour."""
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from igm.models.unet import NETWORKS
from igm.training.learner import Learner

class Counter(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, cond_size: int = 2):
        super().__init__()
        self.linear = torch.nn.Linear(3, 1)

    def forward(self, images):
        return self.linear(images.mean((2, 3)))[:, 0]

NETWORKS["Counter"] = Counter

class CounterLearner(Learner):
    name = suffix = "toy_counter"

    @classmethod
    def build(cls, model, training, facts):
        return cls(Counter(), facts)

    @staticmethod
    def collate(items, static_shapes=False):
        counts = torch.stack([item["mask"].sum() for item in items])
        return {"images": torch.stack([item["pixel_values"] for item in items]), "counts": counts}

    def loss(self, batch):
        return (self.network(batch["images"]) - batch["counts"]).square().mean()

    def trial_pass(self, network, rows, images):
        return network(torch.empty(images, 3, 16, 16))
'''


@pytest.fixture
def train_args(training_args, clevr_root):
    return training_args(clevr_root, "unet")


@pytest.fixture
def toy_file(tmp_path, monkeypatch):
    """One more file among the baselines."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "toy_counter.py").write_text(TOY)
    monkeypatch.setattr(igm.baselines, "__path__", [*igm.baselines.__path__, str(folder)])
    yield
    sys.modules.pop("igm.baselines.toy_counter", None)


def test_a_new_baseline_is_one_file(toy_file, run_main, train_args, tmp_path):
    """Trained, dry-run and resumed exactly, without an edit anywhere else."""
    own = ["--learner", "toy_counter", "--checkpointing_steps", 2, "--use_ema"]
    code, out, err = run_main("train_clevr", *train_args(), *own, "--dry_run")
    assert code == 0 and "Network: Counter" in out and "Codec" not in out, err
    runs = (("a", 4, []), ("b", 2, []), ("b", 4, ["--resume_from_checkpoint", "latest"]))
    for name, steps, more in runs:
        code, _, err = run_main(
            "train_clevr", *train_args(max_train_steps=steps, output_dir=tmp_path / name), *own, *more
        )
        assert code == 0, err
    one, other = (tmp_path / name / "clevr-toy_counter" / "checkpoint-4" for name in "ab")
    weights = "unet2dconditionmodel_ema/diffusion_pytorch_model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()
    assert Facts.read(one).learner == "toy_counter" and not (one.parent / "cache").exists()
    code, _, err = run_main("train_clevr", *train_args(resume_from_checkpoint=one))
    check_refused(code, err.splitlines()[-1], "learner = toy_counter", "compositional")


def test_learners_are_found_by_name():
    found = {name: find_learner(name, "attributes") for name in ("compositional", "joint_label", "resnet50")}
    assert list(found.values()) == [CompositionalLearner, JointLabelLearner, ResNetLearner]
    with pytest.raises(
        UserError, match="--learner resnet is not known for attributes; there are compositional, joint_label, resnet50"
    ):
        find_learner("resnet", "attributes")


def test_unknown_learner_is_one_line(run_main, train_args, no_model):
    code, _, err = run_main("train_clevr", *train_args(), "--learner", "slots")
    check_refused(code, err, "--learner slots", "resnet50")


def items(number=4):
    rows = torch.eye(6)
    chosen = [rows[[int(i % 2), 2 + int(i % 3 == 0), 4 + int(i > 1)]] for i in range(number)]
    latents = torch.randn(number, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return [
        {"conds": c, "mask": torch.ones(3), "posterior_mean": x, "posterior_std": 0 * x, "image_id": str(i)}
        for i, (c, x) in enumerate(zip(chosen, latents, strict=True))
    ]


def test_joint_label_is_one_concept_an_image():
    batch = JointLabelLearner.collate(items())
    assert batch["conds"].shape == (4, 6) and batch["weights"].tolist() == [1] * 4
    assert batch["conds"].equal(torch.stack([item["conds"].sum(0) for item in items()]))
    assert batch["index"].tolist() == [0, 1, 2, 3] and batch["posterior_mean"].shape == (4, 4, 8, 8)
    padded = {**items()[0], "mask": torch.tensor([1.0, 1.0, 0.0])}
    assert with_joint_label(padded)["conds"].sum() == 2


def test_joint_labels_loss_is_that_of_one_prediction(make_denoiser):
    denoiser = make_denoiser("face_unet")
    noise = {
        "t": torch.tensor([5, 50, 500, 900]),
        "eps": torch.randn(4, 4, 8, 8),
        "posterior_eps": torch.zeros(4, 4, 8, 8),
    }
    batch = {**JointLabelLearner.collate(items()), **noise}
    x_0, labels = batch["posterior_mean"], batch["conds"]
    x_t = denoiser.add_noise(x_0, noise["eps"], noise["t"])
    prediction = denoiser.network(x_t, noise["t"], encoder_hidden_states=labels[:, None]).sample
    expected = (prediction - noise["eps"]).square().mean()
    torch.testing.assert_close(JointLabelLearner(denoiser).loss(batch), expected)


def test_classifier_needs_no_noise():
    learner = ResNetLearner(build_network(RESNET).train(), Facts())
    images, conds = torch.randn(2, 3, 16, 16), torch.eye(6)[torch.tensor([[0, 3, 5], [1, 2, 4]])]
    batch = learner.collate(
        [{"pixel_values": x, "conds": c, "mask": torch.ones(3)} for x, c in zip(images, conds, strict=True)]
    )
    assert set(batch) == {"pixel_values", "conds"} and learner.noise({}, TrainSettings()) is None
    assert learner.codec is None and learner.loss(batch).item() > 0
    assert attribute_loss(torch.tensor([[9.0, -9.0]]), torch.eye(4)[torch.tensor([[1, 2]])]).item() < 1e-3


def test_options_without_effect_are_named(run_main, training_args, celeba_root, tiny_configs):
    arguments = training_args(celeba_root, "resnet")(num_validation_images=None, pretrained_model_name=None)
    code, _, err = run_main("train_celeba", *arguments, "--learner", "resnet50", "--snr_gamma", 5, "--dry_run")
    assert code == 0
    given = [line for line in err.splitlines() if "has no effect" in line]
    assert [line.split()[1] for line in given] == ["--scheduler_config", "--snr_gamma"]


def test_codec_is_fitted_at_the_start(run_main, train_args, clevr_root, tiny_configs, tmp_path):
    """One command from nothing: a config without weights is fitted to the training images, once a run."""
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "config.json").write_text(
        json.dumps({"_class_name": "PatchPCA", "patch_size": 2, "latent_channels": 4})
    )
    changes = {"pretrained_model_name": tmp_path / "codec", "unet_config": tiny_configs["position_unet"]}
    code, out, err = run_main("train_clevr", *train_args(**changes), "--dry_run")
    assert code == 0 and "Codec: PatchPCA" in out and not (tmp_path / "out").exists(), err
    code, out, err = run_main("train_clevr", *train_args(**changes, max_train_steps=1))
    assert code == 0 and "of the variance kept" in out, err
    folder = tmp_path / "out" / "clevr" / "codec"
    fitted = load_codec(folder)
    assert isinstance(fitted, PatchPCA) and fitted.components.abs().sum() > 0
    assert json.loads((tmp_path / "out" / "clevr" / "checkpoint-1" / "igm.json").read_text())["codec"] == str(folder)
    code, out, err = run_main("train_clevr", *train_args(**changes), "--resume_from_checkpoint", "latest")
    assert code == 0 and "at step 1" in out and "of the variance" not in out, err


def test_run_and_checkpoint_say_what_made_them(run_main, train_args, tmp_path):
    assert run_main("train_clevr", *train_args(max_train_steps=1, learning_rate="3e-5"))[0] == 0
    folder = tmp_path / "out" / "clevr"
    for file in (folder / "run.json", folder / "checkpoint-1" / "training.json"):
        made = json.loads(file.read_text())
        assert made["options"]["learning_rate"] == 3e-5 and made["options"]["object_counts"] == [3, 5]
        assert made["options"]["mixed_precision"] == "no" and made["options"]["max_train_steps"] == 1
        assert made["command"][0] == "train_clevr.py" and "3e-5" in made["command"]
        assert {"python", "igm", "torch", "diffusers"} <= set(made["versions"])
        assert made["device"].startswith("cpu") and made["commit"] == git_commit()


def test_other_settings_at_a_resume_are_said(run_main, train_args):
    assert run_main("train_clevr", *train_args(max_train_steps=1))[0] == 0
    args = train_args(resume_from_checkpoint="latest", learning_rate="1e-4", adam_beta1=0.8)
    code, out, err = run_main("train_clevr", *args)
    (note,) = [line for line in out.splitlines() if line.startswith("note:")]
    assert code == 0 and "adam_beta1 0.9 -> 0.8" in note and "learning_rate 2e-05 -> 0.0001" in note, err


def test_options_win_over_the_checkpoints(run_main, train_args, tmp_path):
    assert run_main("train_clevr", *train_args(max_train_steps=1))[0] == 0
    assert run_main("train_clevr", *train_args(resume_from_checkpoint="latest", adam_beta1=0.8))[0] == 0
    file = tmp_path / "out" / "clevr" / "checkpoint-2" / "optimizer.bin"
    assert torch.load(file, weights_only=True)["param_groups"][0]["betas"] == (0.8, 0.999)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("adam_beta1", 1, "below 1"), ("adam_beta2", "nan", "below 1"), ("adam_epsilon", 0, "above 0"),
        ("adam_weight_decay", "inf", "0 to 1e30"), ("learning_rate", "nan", "above 0"), ("ema_decay", 1.5, "below 1"),
        ("snr_gamma", "-1", "above 0"), ("max_grad_norm", "inf", "above 0"), ("dataloader_num_workers", 10**9, "1024"),
        ("resolution", 10**6, "8192"), ("seed", -1, "whole number"), ("tracker_project_name", "../up", "inside"),
        ("tracker_project_name", "/tmp/up", "inside"), ("tracker_project_name", ".", "inside"),
        ("tracker_project_name", "a\x1b[2J", "inside"), ("output_dir", "", "path"), ("object_counts", "0-3", "range"),
        ("snr_gamma", "1e308", "1e30"),
    ],
)  # fmt: skip
def test_numbers_and_names_without_sense(run_main, train_args, no_model, tmp_path, name, value, words):
    code, _, err = run_main("train_clevr", *train_args(**{name: value}))
    check_refused(code, err, f"--{name}", words)
    assert "\x1b" not in err and not (tmp_path / "out").exists()


def test_density_without_width(run_main, train_args, no_model):
    code, _, err = run_main("train_clevr", *train_args(), "--t_logit_normal", "0", "0")
    check_refused(code, err, "--t_logit_normal 0.0 0.0", "STD")


@pytest.mark.parametrize("script", ["train_clevr", "train_celeba"])
def test_help_has_defaults_and_two_examples(run_main, script):
    code, out, _ = run_main(script, "--help")
    assert code == 0 and "(default: None)" not in out and "default ==" not in out
    assert out.rstrip().splitlines()[-1].count(f"{script}.py") == 1
    assert sum(f"{script}.py --" in line for line in out.split("Examples:")[1].splitlines()) == 2
    for option in ("--adam_beta1", "--set_grads_to_none", "--offset_noise", "--revision", "--scale_lr", "--allow_tf32"):
        assert option in out


def test_options_from_a_file(run_main, train_args, tmp_path):
    """The command line wins; an unknown key is an error."""
    flags = dict(zip(*[iter(train_args())] * 2, strict=True))
    lines = [f"{flag.removeprefix('--')}: {value}" for flag, value in flags.items()]
    (tmp_path / "run.yaml").write_text("\n".join([*lines, "use_ema: true", "t_logit_normal: [-0.5, 0.8]"]))
    code, _, err = run_main("train_clevr", "--config", tmp_path / "run.yaml", *as_flags({"max_train_steps": 1}))
    assert code == 0, err
    assert (tmp_path / "out" / "clevr" / "checkpoint-1" / "unet2dconditionmodel_ema").is_dir()
    (tmp_path / "run.yaml").write_text("\n".join([*lines, "learning_rat: 1"]))
    code, _, err = run_main("train_clevr", "--config", tmp_path / "run.yaml")
    check_refused(code, err, "run.yaml", "learning_rat")
