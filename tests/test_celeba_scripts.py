"""CelebA's scripts as their users start them, on both layouts; baselines; and every mistake in one line."""

import json

import pytest
import torch
from conftest import FACES, RESNET, SCHEDULER, write_celeba
from test_scripts import check_refused, launch, records_of

import igm.models.codec
from igm.baselines.joint_label import infer_joint, joint_choices
from igm.baselines.resnet50 import AttributeResNet, attribute_loss, infer_classifier
from igm.encoding import all_concepts
from igm.error_matrix import ErrorMatrix
from igm.inference.discrete import OneOfEach, infer_discrete
from igm.inference.settings import DiscreteSettings
from igm.inference.types import Posterior
from igm.models.checkpoint import load_network

PUBLISHED = ("--scheduler_config", "configs/clevr-2D-pos/scheduler/scheduler_config.json")
PUBLISHED += ("--unet_config", "configs/clevr-2D-pos/unet/config.json")


@pytest.fixture
def train_args(training_args, celeba_root):
    """`training_args` on the tiny CelebA."""
    return training_args(celeba_root, "attribute_unet")


@pytest.fixture
def checkpoint(make_denoiser, tiny_vae_dir, tmp_path):
    """A trained folder of the published kind of network."""
    folder = tmp_path / "out" / "celeba" / "checkpoint-7"
    make_denoiser("face_unet", codec=igm.models.codec.load_codec(tiny_vae_dir), task="attributes").save_pretrained(
        folder
    )
    return folder


def test_published_training_command(run_script, celeba_root, tiny_vae_dir, tiny_configs, tmp_path):
    published = f"""train_celeba.py --enable_xformers_memory_efficient_attention
        --dataloader_num_workers 4 --learning_rate 2e-5 --mixed_precision fp16 --num_validation_images 10
        --val_batch_size 10 --max_train_steps 2 --checkpointing_steps 10000 --checkpoints_total_limit 10
        --gradient_accumulation_steps 1 --seed 42
        --output_dir {tmp_path}/out
        --scheduler_config configs/celeba/scheduler/scheduler_config.json
        --unet_config {tiny_configs["face_unet"]}
        --dataset_root {celeba_root} --train_batch_size 2
        --resolution 16 --validation_steps 1000 --tracker_project_name celeba
        --pretrained_model_name {tiny_vae_dir} --report_to none""".split()
    done = launch(run_script, *published)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "celeba"
    assert (folder / "checkpoint-2" / "unet2dconditionmodel" / "config.json").is_file()
    assert json.loads((folder / "checkpoint-2" / "training.json").read_text())["dataset_size"] == 8  # female ones only
    assert list((folder / "validation").glob("*.png"))


def test_published_inference_command_in_both_domains(run_script, checkpoint, celeba_root, tiny_vae_dir, tmp_path):
    """The CLEVR configs that it passes give way to the checkpoint's own; both domains are scored in one run."""
    more = ("--pretrained_model_name", tiny_vae_dir, "--num_draws", 3, "--output_dir", tmp_path / "out")
    done = run_script("eval_celeba.py", *PUBLISHED, "--dataset_root", celeba_root, *more)
    assert done.returncode == 0, done.stderr
    note = next(line for line in done.stdout.splitlines() if line.startswith("note: --unet_config differs"))
    assert "cross_attention_dim" in note and note.endswith("the checkpoint's is used")
    assert "female" in done.stdout and "male" in done.stdout and "exact match" in done.stdout
    folder = tmp_path / "out" / "celeba" / "eval-discrete"
    records = records_of(folder)
    assert [r["group"] for r in records] == ["female"] * 4 + ["male"] * 4
    assert {tuple(r["unet_evaluations"].values()) for r in records} == {(6 * 3, 0)}  # 6 rows a draw
    truth = [["Black_Hair" in f, "Eyeglasses" in f, "Smiling" in f] for f in FACES]
    for domain in ("female", "male"):
        found = [r["conds_true"] for r in records if r["group"] == domain]
        assert found == [all_concepts(3)[[2 * k + int(v) for k, v in enumerate(t)]].tolist() for t in truth]
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["groups"]) == {"female", "male"} and summary["task"] == "attributes"
    metrics = summary["groups"]["male"]["metrics"]
    assert list(metrics["accuracy_per_attribute"]) == ["Black_Hair", "Eyeglasses", "Smiling"]
    names = {p.name for p in (folder / "figures").iterdir()}
    assert names == {"attributes_female.png", "attributes_male.png", "accuracy.png"}


def test_all_attributes_are_trained_and_inferred(run_main, tmp_path, tiny_vae_dir, tiny_configs, train_args):
    rows = [(split, holds | sex) for split in (0, 2) for holds in FACES for sex in (set(), {"Male"})]
    write_celeba(tmp_path / "celeba", rows)
    config = tmp_path / "forty.json"
    config.write_text(json.dumps({**json.loads(tiny_configs["attribute_unet"].read_text()), "cond_size": 80}))
    everything = ("--attributes", "all")
    root = tmp_path / "celeba"
    code, _, err = run_main("train_celeba", *train_args(dataset_root=root, unet_config=config), *everything)
    assert code == 0 and "warning: attribute Bald has one value only in the 4 training rows" in err, err
    options = ("--dataset_root", root, "--output_dir", tmp_path / "out", "--pretrained_model_name", tiny_vae_dir)
    code, _, err = run_main("eval_celeba", *options, *everything, "--num_draws", 2, "--num_images", 1)
    assert code == 0, err
    record = records_of(tmp_path / "out" / "celeba" / "eval-discrete")[0]
    assert len(record["conds_pred"]) == 40 and record["unet_evaluations"]["forward"] == 160
    code, _, err = run_main("eval_celeba", *options)
    check_refused(code, err, "checkpoint-2", "conditions of size 80")


@pytest.mark.parametrize("method, learner", [("gc", "joint_label"), ("resnet", "resnet50")])
def test_baselines_train_and_infer(
    run_main, train_args, celeba_root, tiny_configs, tiny_vae_dir, tmp_path, method, learner
):
    config = tiny_configs["resnet" if method == "resnet" else "attribute_unet"]
    code, out, err = run_main("train_celeba", *train_args(unet_config=config), "--learner", learner, "--dry_run")
    assert code == 0 and "M parameters" in out and not (tmp_path / "out").exists(), err
    code, _, err = run_main("train_celeba", *train_args(unet_config=config), "--learner", learner)
    assert code == 0, err
    options = ("--dataset_root", celeba_root, "--output_dir", tmp_path / "out", "--num_draws", 2)
    options += ("--pretrained_model_name", tiny_vae_dir)
    code, out, err = run_main("eval_celeba", *options, "--method", method, "--dry_run")
    assert code == 0 and "4 female images, 4 male images" in out and not list(tmp_path.rglob("eval-*")), err
    code, out, err = run_main("eval_celeba", *options, "--method", method)
    assert code == 0 and "balanced accuracy" in out, err
    folder = next((tmp_path / "out").glob("*/eval-*"))
    assert folder.name == f"eval-{method}"
    forward = {r["unet_evaluations"]["forward"] for r in records_of(folder)}
    assert forward == ({1} if method == "resnet" else {2 * 8})  # one pass; or a row for each of 8 labels and draw
    assert all(len(r["conds_pred"]) == 3 for r in records_of(folder))
    checkpoint = next((tmp_path / "out").glob("*/checkpoint-2"))
    wrong = "gc" if method == "resnet" else "discrete"
    code, _, err = run_main("eval_celeba", *options, "--checkpoint", checkpoint, "--method", wrong)
    check_refused(code, err, checkpoint)


def test_resnet_resumes_exactly(run_main, train_args, tiny_configs, tmp_path):
    config = tiny_configs["resnet"]
    straight = train_args(unet_config=config, max_train_steps=4, output_dir=tmp_path / "a")
    first, second = (train_args(unet_config=config, max_train_steps=n, output_dir=tmp_path / "b") for n in (2, 4))
    for arguments in (straight, first, [*second, "--resume_from_checkpoint", "latest"]):
        code, _, err = run_main("train_celeba", *arguments, "--learner", "resnet50")
        assert code == 0, err
    one, other = (load_network(tmp_path / name / "celeba-resnet50" / "checkpoint-4").state_dict() for name in "ab")
    assert all(one[name].equal(other[name]) for name in one)
    fresh = AttributeResNet.from_config(RESNET).state_dict()
    assert not one["head.weight"].equal(fresh["head.weight"])


@pytest.mark.parametrize(
    "script, options, parts",
    [
        ("train_celeba", {"attributes": "Eyeglases"}, ["did you mean Eyeglasses?"]),
        ("train_celeba", {"domain": "male"}, ["no male row in the train split"]),
        ("train_celeba", {"dataset_root": "nowhere"}, ["--dataset_root nowhere is not a folder"]),
        ("train_celeba", {"attributes": "Smiling"}, ["--unet_config", "this dataset's have size 2"]),
        ("eval_celeba", {"attributes": "Smilling"}, ["did you mean Smiling?"]),
        ("eval_celeba", {"split": "val"}, ["no row is in the val split"]),
        ("eval_celeba", {"confidence": "1.5"}, ["--confidence", "at most 1"]),
        ("eval_celeba", {"timestep_range": ("500", "500")}, ["--timestep_range 500 500"]),
        ("eval_celeba", {"method": "gc"}, ["no checkpoint-*", "celeba-gc"]),
    ],
)
def test_mistakes_end_before_a_model_loads(
    run_main,
    no_model,
    train_args,
    checkpoint,
    celeba_root,
    tmp_path,
    script,
    options,
    parts,
):
    if script == "train_celeba":
        arguments = train_args()
    else:
        arguments = ["--dataset_root", celeba_root, "--output_dir", tmp_path / "out"]
    for name, value in options.items():
        arguments += [f"--{name}", *(value if isinstance(value, tuple) else (value,))]
    code, _, err = run_main(script, *arguments)
    check_refused(code, err, *parts)


# Inference


class Counting(torch.nn.Module):
    """Counts the rows that pass through a network."""

    def __init__(self, network):
        super().__init__()
        self.network, self.config, self.rows = network, network.config, 0

    def forward(self, x_t, *args, **options):
        self.rows += len(x_t)
        return self.network(x_t, *args, **options)


def test_six_rows_a_draw_instead_of_24_with_the_same_errors(make_denoiser):
    """The published loop runs each of 8 compositions of 3 concepts through the network: 24 rows a draw."""
    denoiser = make_denoiser("face_unet")
    denoiser.network = counting = Counting(denoiser.network)
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 1, 4, 8, 8, generator=generator).unbind(0)
    draws = [(torch.tensor([t]), torch.randn(eps.shape, generator=generator)) for t in (50, 400, 900)]
    bits = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    published = torch.zeros(8)
    for t, eps in draws:
        x_t = denoiser.add_noise(x_0, eps, t)
        concepts = torch.stack([all_concepts(3)[[2 * k + v for k, v in enumerate(b)]] for b in bits])  # (8, 3, 6)
        rows = counting(x_t.expand(24, -1, -1, -1), t.expand(24), concepts.flatten(0, 1)[:, None]).sample
        composed = rows.view(8, 3, 4, 8, 8).mean(1)
        published += (composed - eps).square().flatten(1).mean(1) / len(draws)
    assert counting.rows == 24 * len(draws)
    counting.rows = 0
    matrix = ErrorMatrix(1, 6)
    for t, eps in draws:
        matrix.add(0, denoiser.predict(denoiser.add_noise(x_0, eps, t), t, all_concepts(3)[None]), eps)
    assert counting.rows == 6 * len(draws)
    subsets = torch.tensor([[[2 * k + v for k, v in enumerate(b)] for b in bits]])  # (1, 8, 3)
    torch.testing.assert_close(matrix.errors_of_subsets(subsets)[0], published, rtol=1e-4, atol=1e-6)
    assert OneOfEach([2, 2, 2]).search(matrix.A[0])[0] == subsets[0, published.argmin()].tolist()


def test_joint_label_has_the_lowest_error_of_all(make_denoiser):
    denoiser = make_denoiser("attribute_unet")
    posterior = Posterior(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 4, 8, 8))
    values, sizes = all_concepts(3), [2, 2, 2]
    found = infer_joint(denoiser, posterior, values, sizes, DiscreteSettings(num_draws=5, seed=3))
    labels = torch.stack([values[[a, b, c]].sum(0) for a in (0, 1) for b in (2, 3) for c in (4, 5)])
    single = infer_discrete(denoiser, posterior, labels, OneOfEach([8]), DiscreteSettings(num_draws=5, seed=3))
    assert found.conds.sum(1).equal(single.conds[:, 0]) and found.error.equal(single.error)
    assert found.num_concepts.tolist() == [3, 3] and found.forward.tolist() == [40, 40]
    assert joint_choices([2, 3]).tolist() == [[0, 2], [0, 3], [0, 4], [1, 2], [1, 3], [1, 4]]
    with pytest.raises(Exception, match="name fewer --attributes"):
        joint_choices([2] * 40)


def test_classifier_reads_logits():
    class Fixed(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[2.0, -1.0, 0.5]])

    found = infer_classifier(Fixed(), torch.zeros(1, 3, 8, 8), all_concepts(3))
    assert found.conds[0].equal(all_concepts(3)[[1, 2, 5]])
    odds = torch.tensor([2.0, 1.0, 0.5])
    assert found.confidence[0].item() == pytest.approx(odds.sigmoid().prod().item())
    truth = all_concepts(3)[[1, 3, 5]][None]
    expected = (-torch.tensor([2.0, -1.0, 0.5]).sigmoid().log()).mean()
    assert attribute_loss(torch.tensor([[2.0, -1.0, 0.5]]), truth).item() == pytest.approx(expected.item())


def test_scheduler_of_the_small_model_predicts_v():
    path = "configs/celeba-mini/scheduler/scheduler_config.json"
    from conftest import ROOT

    assert json.loads((ROOT / path).read_text()) == {**SCHEDULER, "prediction_type": "v_prediction"}
