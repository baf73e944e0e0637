"""What the tests share: a tiny CLEVR folder, tiny networks and codecs, and a way to run the scripts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported: no test may look for a network

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 2,
    "attention_head_dim": 1,
    "norm_num_groups": 4,
}
POSITION_UNET = {
    "_class_name": "PositionUNet",
    "sample_size": 8,
    "in_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "attention": [False, False],
    "head_channels": 16,
    "head_layers": 1,
    "windows": [0.1, 0.3],
    "cond_size": 2,
}
ATTRIBUTE_UNET = {
    **{name: value for name, value in POSITION_UNET.items() if name != "windows"},
    "_class_name": "AttributeUNet",
    "cond_size": 6,
}
SEPARABLE_UNET = {
    "_class_name": "SeparableUNet",
    "sample_size": 8,
    "in_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "attention": [False, False],
    "rank": 8,
    "hidden": 16,
    "windows": [0.1, 0.3],
    "reach": 0.3,
    "composition": "sum",
    "cond_size": 2,
}
RESNET = {
    "_class_name": "AttributeResNet",
    "sample_size": 16,
    "cond_size": 6,
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
}
NETWORK_CONFIGS = {
    "unet": UNET,
    "position_unet": POSITION_UNET,
    "separable_unet": SEPARABLE_UNET,
    "face_unet": {**UNET, "cross_attention_dim": 6},
    "attribute_unet": ATTRIBUTE_UNET,
    "separable_attributes": {
        **{name: value for name, value in ATTRIBUTE_UNET.items() if not name.startswith("head")},
        "_class_name": "SeparableAttributeUNet",
        "rank": 8,
    },
    "resnet": RESNET,
}
SCHEDULER = json.loads((ROOT / "configs" / "clevr-2D-pos" / "scheduler" / "scheduler_config.json").read_text())
COLORS = {"red": (173, 35, 35), "blue": (42, 75, 215), "green": (29, 105, 20), "yellow": (255, 238, 51)}

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    """Every test has a cache folder of its own, and starts without the process state of an earlier Accelerator."""
    monkeypatch.setenv("IGM_CACHE", str(tmp_path / "igm-cache"))
    yield
    forget_processes()


def forget_processes() -> None:
    """Take back what an Accelerator has told this process of itself."""
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def spread_points(rng: np.random.Generator, count: int, width: int, height: int) -> list[list[float]]:
    """`count` whole pixel positions, no two nearer than a sixth of the height."""
    points = []
    while len(points) < count:
        point = rng.integers([3, 3], [width - 3, height - 3])
        if all(np.hypot(*(point - other)) >= height / 6 for other in points):
            points.append(point)
    return [[int(x), int(y), float(rng.uniform(8, 14))] for x, y in points]


def draw_scene(path: Path, coords: list, names: list[str], size: tuple[int, int]) -> None:
    """Coloured discs at the pixel coordinates, on grey, with an alpha channel as in CLEVR's own files."""
    picture = Image.new("RGBA", size, (128, 128, 128, 255))
    pen = ImageDraw.Draw(picture)
    for (x, y, _), name in zip(coords, names, strict=True):
        pen.ellipse([x - 3, y - 3, x + 3, y + 3], fill=(*COLORS[name], 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_clevr(root, split, counts=(), *, size=(48, 32), sizes=None, coords=None, scenes_dir="scenes", seed=0):
    """Write a split in the layout and with all the JSON keys of CLEVR v1.0; return its scenes file.

    Args:
        counts: objects of each scene, at random positions; or `coords`: lists of (x, y, depth) in pixels.
        sizes: (width, height) of each image where they differ.
    """
    rng = np.random.default_rng(seed)
    sizes = sizes or [size] * len(coords or counts)
    coords = coords or [spread_points(rng, n, *own) for n, own in zip(counts, sizes, strict=True)]
    scenes = []
    for i, (points, own) in enumerate(zip(coords, sizes, strict=True)):
        name = f"CLEVR_{split}_{i:06d}.png"
        colors = [str(rng.choice(list(COLORS))) for _ in points]
        draw_scene(Path(root) / "images" / split / name, points, colors, own)
        objects = [
            {
                "color": color,
                "size": "large",
                "shape": "sphere",
                "material": "rubber",
                "rotation": 10.0,
                "3d_coords": [0.1, 0.2, 0.7],
                "pixel_coords": list(point),
            }
            for point, color in zip(points, colors, strict=True)
        ]
        near = {side: [[] for _ in points] for side in ("left", "right", "front", "behind")}
        directions = {side: [1.0, 0.0, 0.0] for side in ("left", "right", "front", "behind", "above", "below")}
        scenes.append(
            {
                "split": split,
                "image_index": i,
                "image_filename": name,
                "directions": directions,
                "objects": objects,
                "relationships": near,
            }
        )
    info = {
        "split": split,
        "version": "1.0",
        "date": "2/14/2017",
        "license": "Creative Commons Attribution (CC BY 4.0)",
    }
    file = Path(root) / scenes_dir / f"CLEVR_{split}_scenes.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"info": info, "scenes": scenes}))
    return file


@pytest.fixture(scope="session")
def clevr_root(tmp_path_factory):
    """A CLEVR v1.0 folder with 12 training scenes of 3 to 5 objects and 8 val scenes of 3 to 8. Read only."""
    root = tmp_path_factory.mktemp("CLEVR_v1.0")
    write_clevr(root, "train", [3, 4, 5] * 4, seed=1)
    write_clevr(root, "val", [3, 4, 5, 6, 7, 8, 3, 6], size=(60, 40), seed=2)
    return root


def write_celeba(root, rows, *, layout="original", names=None, partition=True, size=(36, 44), seed=0):
    """Write faces (here: noise on a colour) in a layout of CelebA, "original" or "kaggle"; return the attribute file.

    Args:
        rows: (split number, {attribute: True, ...}) of each image. names: the columns (default CelebA's forty).
    """
    from igm.data.synthetic.faces import ATTRIBUTES

    rng = np.random.default_rng(seed)
    names = names or ATTRIBUTES
    folder = Path(root) / "img_align_celeba" / ("img_align_celeba" if layout == "kaggle" else "")
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"{i + 1:06d}.jpg" for i in range(len(rows))]
    for file in files:
        pixels = rng.uniform(0, 255, 3) + rng.normal(0, 20, (size[1], size[0], 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / file, quality=95)
    cells = [["1" if name in holds else "-1" for name in names] for _, holds in rows]
    if layout == "kaggle":
        path, splits = Path(root) / "list_attr_celeba.csv", Path(root) / "list_eval_partition.csv"
        lines = [",".join(["image_id", *names]), *(",".join([f, *c]) for f, c in zip(files, cells, strict=True))]
        split_lines = ["image_id,partition", *(f"{f},{split}" for f, (split, _) in zip(files, rows, strict=True))]
    else:
        path, splits = Path(root) / "list_attr_celeba.txt", Path(root) / "list_eval_partition.txt"
        lines = [str(len(rows)), " ".join(names) + " "]
        lines += [f"{f} " + " ".join(f"{c:>2}" for c in cell) for f, cell in zip(files, cells, strict=True)]
        split_lines = [f"{f} {split}" for f, (split, _) in zip(files, rows, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    if partition:
        splits.write_text("\n".join(split_lines) + "\n")
    return path


def write_own_labels(root, num_images, *, num_objects=(3, 5), size=(64, 64), suffix=".png", seed=0) -> list[list]:
    """Pictures of the project's own generator of scenes as people keep them, IMG_0 and so on, and a `metadata.jsonl`.

    Returns:
        the centres (x, y) in pixels of each picture's objects.
    """
    from igm.data.synthetic.clevr import generate

    root = Path(root)
    scenes = json.loads(generate(root / "made", "val", num_images, num_objects, resolution=size, seed=seed).read_text())
    rows = []
    for number, scene in enumerate(scenes["scenes"]):
        with Image.open(root / "made" / "images" / "val" / scene["image_filename"]) as picture:
            picture.convert("RGB").save(root / f"IMG_{number}{suffix}")
        points = [own["pixel_coords"][:2] for own in scene["objects"]]
        rows.append({"file_name": f"IMG_{number}{suffix}", "points": points})
    shutil.rmtree(root / "made")
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["points"] for row in rows]


FACES = [{"Black_Hair"}, {"Smiling"}, {"Eyeglasses", "Black_Hair"}, set()]
CELEBA_ROWS = [(0, holds) for holds in FACES * 2] + [(2, holds | male) for holds in FACES for male in (set(), {"Male"})]


@pytest.fixture(scope="session", params=["original", "kaggle"])
def celeba_root(request, tmp_path_factory):
    """A CelebA folder in each layout: 8 female training faces, and 4 test faces of each sex. Read only."""
    root = tmp_path_factory.mktemp(f"celeba-{request.param}")
    write_celeba(root, CELEBA_ROWS, layout=request.param)
    return root


@pytest.fixture(scope="session")
def tiny_vae_dir(tmp_path_factory):
    """A folder like Stable Diffusion's, of which only `vae/` is there: random, 4 channels, half the side."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    folder = tmp_path_factory.mktemp("tiny-sd")
    vae.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="session")
def tiny_configs(tmp_path_factory):
    """Paths of the config files: those of NETWORK_CONFIGS ("unet" is the published kind), and "scheduler"."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in {**NETWORK_CONFIGS, "scheduler": SCHEDULER}.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def tiny_unet_config(tiny_configs):
    """Config file of a small UNet2DConditionModel that takes positions."""
    return tiny_configs["unet"]


def tiny_model(kind="unet", prediction_type="epsilon", codec=None, seed=0, **facts):
    """A tiny Denoiser in eval mode; kinds: those of NETWORK_CONFIGS."""
    from diffusers import DDPMScheduler

    from igm.facts import Facts
    from igm.models.denoiser import Denoiser
    from igm.models.unet import HeadBlock, build_network

    torch.manual_seed(seed)
    network = build_network(NETWORK_CONFIGS[kind])
    for module in network.modules():
        if isinstance(module, HeadBlock):  # starts as the identity; a test needs it to do something
            torch.nn.init.normal_(module.conv2.weight, std=0.1)
    scheduler = DDPMScheduler.from_config({**SCHEDULER, "prediction_type": prediction_type})
    return Denoiser(network, scheduler, codec, Facts(**facts)).eval().requires_grad_(False)


@pytest.fixture
def make_denoiser():
    """`tiny_model`."""
    return tiny_model


@pytest.fixture(params=["unet", "unet-v_prediction", "position_unet"])
def tiny_denoiser(request, make_denoiser):
    """A tiny Denoiser of each kind."""
    kind, _, prediction_type = request.param.partition("-")
    return make_denoiser(kind, prediction_type or "epsilon")


def as_flags(options: dict) -> list[str]:
    """Arguments of a command from options by name; None drops one."""
    return [str(x) for name, value in options.items() if value is not None for x in (f"--{name}", value)]


@pytest.fixture
def training_args(tiny_vae_dir, tiny_configs, tmp_path):
    """A function (root, kind of network) -> a function (**changes) -> arguments of a training of two steps."""

    def of(root, kind):
        def arguments(**changes):
            options = {
                "dataset_root": root,
                "unet_config": tiny_configs[kind],
                "scheduler_config": tiny_configs["scheduler"],
                "pretrained_model_name": tiny_vae_dir,
                "resolution": 16,
                "train_batch_size": 2,
                "max_train_steps": 2,
                "num_validation_images": 0,
                "report_to": "none",
                "output_dir": tmp_path / "out",
            }
            return as_flags({**options, **changes})

        return arguments

    return of


def script_env(tmp_path: Path, **changes: str | None) -> dict[str, str]:
    """Environment of a script under test: one thread, offline, no login, caches in the test's folder."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "ACCELERATE", "HF_"))}
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "HOME": str(home)}
    own |= {"IGM_CACHE": str(tmp_path / "igm-cache"), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return {k: v for k, v in {**keep, **own, **changes}.items() if v is not None}


@pytest.fixture
def run_script(tmp_path):
    """A function (*args, timeout=..., preexec_fn=..., environment changes) that runs a script of the project for real."""

    def run(*args, timeout=240, preexec_fn=None, **changes):
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=ROOT,
            env=script_env(tmp_path, **changes),
            capture_output=True,
            text=True,
            timeout=timeout,
            preexec_fn=preexec_fn,
        )

    return run


@pytest.fixture
def run_main(monkeypatch, capsys):
    """A function (script name, *args) -> (exit code, stdout, stderr) that runs a script's main in this process."""
    import importlib

    def run(script, *args):
        module = importlib.import_module(script)
        from igm.cli.launch import run as run_guarded
        from igm.data import DataError

        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, args)])
        capsys.readouterr()
        try:
            run_guarded(module.main, DataError)
            code = 0
        except SystemExit as end:
            code = end.code
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Fail the test when a model is built or loaded."""

    import igm.models.denoiser
    import igm.training.compositional

    def fail(*args, **options):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(igm.training.compositional, "load_codec", fail)
    monkeypatch.setattr(igm.training.compositional, "build_denoiser", fail)
    monkeypatch.setattr(igm.models.denoiser.Denoiser, "from_pretrained", fail)
