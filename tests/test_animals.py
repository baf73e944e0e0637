"""Animals: the pictures and their labels, a pipeline as a Denoiser, the baselines, and eval_animal.py as users start it."""

import json

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import ROOT, SCHEDULER, UNET
from PIL import Image

import igm.inference.prompts
import igm.models.stable_diffusion
from igm.baselines.diffusion_classifier import combinations, in_words, infer_dc_variant, infer_diffusion_classifier
from igm.data import DataError
from igm.data.animals import Animals, read_labels
from igm.data.synthetic import animals as drawing
from igm.facts import Facts
from igm.figures import label_sheet
from igm.inference.discrete import Subsets, infer_discrete
from igm.inference.draws import draw_for_images, image_generators
from igm.inference.loading import PipelineLoading
from igm.inference.method import encode_images
from igm.inference.prompts import PromptMethod
from igm.inference.settings import DiscreteSettings
from igm.models import ModelError
from igm.models.stable_diffusion import StableDiffusion
from igm.tasks.classes import label_metrics
from scripts import train_animals_mini

CLASSES = ["cat", "dog", "rabbit"]

METHODS = ("igm", "diffusion_classifier", "dc_variant")


def write_pipeline(folder, prediction_type):
    """A random pipeline in Stable Diffusion's format: 16-pixel images, 4 latent channels, prompts of 16 tokens."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    tokenizer = train_animals_mini.make_tokenizer(folder / "words")
    encoder = train_animals_mini.make_text_encoder(folder / "text", tokenizer, seed=0)
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    scheduler = DDPMScheduler.from_config({**SCHEDULER, "prediction_type": prediction_type})
    train_animals_mini.export(folder / "pipeline", tokenizer, encoder, vae, scheduler, unet, Facts(task="classes"))
    return folder / "pipeline"


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def pipeline(request, tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp(f"sd-{request.param}"), request.param)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Six generated pictures of two animals. Read only."""
    return drawing.generate(tmp_path_factory.mktemp("animals"), 6, CLASSES, (2, 2), 32, seed=3)


# Pictures and labels


def test_generator_repeats_itself_and_shows_what_it_says(tmp_path):
    first = drawing.generate(tmp_path / "a", 4, CLASSES, (1, 3), 48, seed=5)
    second = drawing.generate(tmp_path / "b", 6, CLASSES, (1, 3), 48, seed=5)
    names = sorted(path.name for path in first.glob("*.jpg"))
    assert names == sorted(path.name for path in second.glob("*.jpg") if int(path.stem[-3:]) < 4)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    for own in read_labels(first):
        assert own.file.split("_")[:-1] == own.names and 1 <= len(set(own.names)) == len(own.names) <= 3


def test_every_animal_stays_visible():
    """The share that nothing hides, counted on the layers by hand."""
    lower = Image.new("RGBA", (10, 10))
    lower.paste((255, 0, 0, 255), (0, 0, 10, 5))
    upper = Image.new("RGBA", (10, 10))
    upper.paste((0, 255, 0, 255), (0, 0, 4, 5))
    assert drawing.visible_shares([lower, upper]) == [0.6, 1.0]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--classes", "cat", "unicorn"], "no drawing of unicorn"),
        (["--classes", "cat", "cat"], "named twice"),
        (["--num_objects", "4"], "between 1 and the 3 classes"),
        (["--num_objects", "x"], "expected a count"),
        (["--num_images", "0"], "at least 1"),
    ],
)
def test_generator_refuses_in_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["animals", "--out", str(tmp_path / "x"), *arguments])
    with pytest.raises(SystemExit) as end:
        drawing.main()
    message = capsys.readouterr().err.strip()
    assert end.value.code == 2 and words in message and len(message.splitlines()) == 1


def save_pictures(folder, names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (40 * i, 10, 200)).save(folder / name)


def test_labels_from_csv_jsonl_and_names_agree(tmp_path):
    names = ["dog_cat_1.png", "rabbit_polar-bear_2.png"]
    expected = [{"dog", "cat"}, {"rabbit", "polar bear"}]
    for kind in ("names", "csv", "jsonl"):
        save_pictures(tmp_path / kind, names)
    (tmp_path / "csv" / "metadata.csv").write_text(
        'file_name,labels\ndog_cat_1.png,dog;cat\nrabbit_polar-bear_2.png,"rabbit, Polar bear"\n'
    )
    rows = [{"file_name": n, "labels": sorted(own)} for n, own in zip(names, expected, strict=True)]
    (tmp_path / "jsonl" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    classes = ["cat", "dog", "polar bear", "rabbit"]
    for kind in ("names", "csv", "jsonl"):
        dataset = Animals(tmp_path / kind, classes, resolution=16)
        found = [{classes[row.argmax()] for row in dataset[i]["conds"]} for i in range(len(dataset))]
        assert found == expected
        item = dataset[0]
        assert item["pixel_values"].shape == (3, 16, 16) and item["mask"].tolist() == [1, 1]
        assert item["image_id"] == names[0] and dataset.path_of(0) == tmp_path / kind / names[0]


def test_other_counts_are_left_out_and_padding_is_masked(tmp_path):
    save_pictures(tmp_path, ["cat_1.png", "cat_dog_2.png", "cat_dog_rabbit_3.png"])
    assert len(Animals(tmp_path, CLASSES)) == 1
    dataset = Animals(tmp_path, CLASSES, (1, 3))
    assert [int(dataset.annotation(i)["mask"].sum()) for i in range(3)] == [1, 2, 3]
    assert dataset.annotation(0)["conds"].sum() == 1
    with pytest.raises(DataError, match="no picture of 4 to 5"):
        Animals(tmp_path, [*CLASSES, "cow", "pig"], (4, 5))


def test_fingerprint_follows_files_and_classes(tmp_path):
    save_pictures(tmp_path, ["cat_dog_1.png"])
    first = Animals(tmp_path, CLASSES).fingerprint()
    assert Animals(tmp_path, CLASSES).fingerprint() == first
    assert Animals(tmp_path, CLASSES[::-1]).fingerprint() != first
    save_pictures(tmp_path, ["cat_dog_2.png"])
    assert Animals(tmp_path, CLASSES).fingerprint() != first


def test_unreadable_pictures_are_counted_on_request(tmp_path):
    save_pictures(tmp_path, ["cat_dog_1.png", "cat_dog_2.png"])
    (tmp_path / "cat_dog_2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cat_dog_2.png is not readable"):
        Animals(tmp_path, CLASSES)
    dataset = Animals(tmp_path, CLASSES, skip_bad_images=True)
    assert len(dataset) == 1 and dataset.num_skipped == 1


CSV_FORMS = [
    "file_name,labels\na.png,cat;dog\nb.png,dog;rabbit\n",
    "\ufefffile_name,labels\r\na.png,cat;dog\r\nb.png,dog;rabbit\r\n",
    'file_name;labels\na.png;"cat;dog"\nb.png;"dog;rabbit"\n',
    "file_name;labels\na.png;cat,dog\nb.png;dog,rabbit\n",
    "file_name;labels\na.png;cat;dog\nb.png;dog;rabbit\n",
    "sep=;\nfile_name;labels\na.png;cat,dog\nb.png;dog,rabbit\n",
    "file_name\tlabels\na.png\tcat, dog\nb.png\tdog, rabbit\n",
    "file_name,labels\na.png,cat|dog\nb.png,dog|rabbit\n",
    "file_name,labels\na.png,cat,dog\nb.png,dog,rabbit\n",
    "file_name,labels\na.png,\"['cat', 'dog']\"\nb.png,\"['dog', 'rabbit']\"\n",
    'file_name,labels\na.png,"[""cat"", ""dog""]"\nb.png,"[""dog"", ""rabbit""]"\n',
    "file_name,labels\na.png,['cat' 'dog']\nb.png,['dog' 'rabbit']\n",
    "file_name,labels\na.png,cat dog\nb.png,dog and rabbit\n",
    ",file_name,labels\n0,a.png,Cat;DOG\n1,b.png,dog;rabbit\n",
    "labels,file_name\ncat;dog,a.png\ndog;rabbit,./b.png\n",
    "file_name,cat,dog,rabbit\na.png,1,1,0\nb.png,0,1,1\n",
    "Unnamed: 0,file_name,Cat,Dog,Rabbit,note\n0,a.png,1.0,1.0,0.0,x y\n1,b.png,0.0,1.0,1.0,z\n",
    "file_name;rabbit;dog;cat\na.png;False;True;True\nb.png;True;True;False\n",
]


@pytest.mark.parametrize("text", CSV_FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_every_form_of_metadata_reads_as_the_plain_one(tmp_path, text, encoding):
    save_pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "metadata.csv").write_bytes(text.encode(encoding))
    dataset = Animals(tmp_path, CLASSES, resolution=16)
    assert [item["image_id"] for item in dataset] == ["a.png", "b.png"]
    assert [item["conds"].argmax(1).tolist() for item in dataset] == [[0, 1], [1, 2]]


JSON_ROWS = [
    '{"file_name": "a.png", "labels": ["cat", "dog"]}',
    '\ufeff{"file_name": "a.png", "labels": "cat;dog"}',
    '{"file_name": "sub\\\\a.png", "labels": "cat, dog"}\r\n\r\n',
    '{"image": "/home/somebody/a.png", "label": ["Cat", "Dog"], "split": "x\u2028y"}',
]


@pytest.mark.parametrize("text", JSON_ROWS)
def test_every_form_of_json_lines(tmp_path, text):
    save_pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    (item,) = Animals(tmp_path, CLASSES, resolution=16)
    assert item["image_id"] == "a.png" and item["conds"].argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("metadata.csv", "file_name,labels\na.png,cat;cow\n", ["metadata.csv, line 2", "a.png", "'cow'"]),
        ("metadata.csv", "file_name,labels\na.png,cat;dog\na.png,cat\n", ["line 2", "line 3", "'a.png'"]),
        ("metadata.csv", "file_name,labels\na.png,cat;dog\n./a.png,cat;dog\n", ["a.png", "is the same file as"]),
        ("metadata.csv", "file_name,labels\na.png\n", ["line 2", "1 cells, expected 2"]),
        ("metadata.csv", "file_name,labels,more\na.png,cat,dog,x\n", ["line 2", "4 cells, expected 3"]),
        ("metadata.csv", "file_name,labels\na.png,\n", ["line 2", "has no label"]),
        ("metadata.csv", 'file_name,labels\na.png,"cat;dog\n', ["line 2", "quote"]),
        ("metadata.csv", "file_name,labels\nc.png,cat;dog\n", ["line 2", "c.png is missing"]),
        ("metadata.csv", "file_name,labels\n../a.png,cat;dog\n", ["line 2", "not the name of an image"]),
        ("metadata.csv", "file_name,labels\n/etc/passwd,cat;dog\n", ["line 2", "missing"]),
        ("metadata.csv", "file_name,cat,dog,cow\na.png,1,0,1\n", ["line 2", "'cow'"]),
        ("metadata.csv", "file_name,cat,dog\na.png,1\n", ["line 2", "2 cells, expected 3"]),
        ("metadata.csv", "file_name,labels\na.png,ca\x1b[31mt;dog\n", ["line 2", "\\x1b[31m"]),
        ("metadata.csv", "file_name,labels\na.png," + "cat;" * 50_000, ["line 2", "given twice"]),
        ("metadata.csv", "", ["needs the columns file_name and labels", "nothing"]),
        ("metadata.jsonl", '{"file_name": "a.png", "labels": 5}', ["line 1", "labels is 5"]),
        ("metadata.jsonl", '{"file_name": "a.png", "labels": [["cat"]]}', ["line 1", "[['cat']]"]),
        ("metadata.jsonl", '{"file_name": null, "labels": "cat"}', ["line 1", "file_name is null"]),
        ("metadata.jsonl", "[" * 100_000, ["line 1 is not a JSON object"]),
        ("metadata.jsonl", '{"file_name": "a.png", "labels": ' + "9" * 5000 + "}", ["line 1 is not a JSON object"]),
        ("metadata.jsonl", "\n", ["names no image"]),
    ],
)
def test_faults_of_metadata_name_the_line(tmp_path, name, text, words):
    save_pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        Animals(tmp_path, CLASSES)
    message = str(error.value)
    assert message.isprintable() and len(message) < 1100 and name in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "name",
    [
        "cat_dog_000 (1)",
        "cat_dog_003 copy",
        "cat_dog - Copy (2)",
        "cat_dog_1 copy 2",
        "cat_dog(copy)",
        "Cat__DOG_7",
        "1_cat_dog",
    ],
)
def test_copies_are_labelled_by_the_name_of_the_first(tmp_path, name):
    save_pictures(tmp_path, [f"{name}.png", f"._{name}.png"])
    (item,) = Animals(tmp_path, CLASSES, resolution=16)
    assert item["conds"].argmax(1).tolist() == [0, 1] and item["image_id"] == f"{name}.png"


def test_published_fit_from_256_pixels_on(tmp_path):
    """Small models learnt squeezed pictures; a Stable Diffusion gets the middle square."""
    array = np.zeros((40, 80, 3), dtype=np.uint8)
    array[:, 20:60] = 255
    Image.fromarray(array).save(tmp_path / "cat_dog_1.png")
    dataset = Animals(tmp_path, CLASSES, resolution=512)
    assert dataset[0]["pixel_values"][:, :, 64:-64].mean() == 1
    dataset.resolution = 32
    assert dataset[0]["pixel_values"].mean() == pytest.approx(0, abs=0.01)
    assert Animals(tmp_path, CLASSES, resolution=32, fit="crop")[0]["pixel_values"].mean() > 0.9


# A pipeline as a Denoiser


def test_prompts_and_predictions_are_those_of_the_parts(pipeline):
    """Against diffusers' own encoding of a prompt, and the network called by hand."""
    from diffusers import StableDiffusionPipeline

    denoiser = StableDiffusion.from_pretrained(pipeline)
    reference = StableDiffusionPipeline.from_pretrained(pipeline, torch_dtype=torch.float32)
    prompts = ["a photo of a cat", "a photo of a dog and a rabbit"]
    tokens = denoiser.encode_prompts(prompts)
    expected, _ = reference.encode_prompt(prompts, "cpu", 1, False)
    torch.testing.assert_close(tokens, expected)
    x_t, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 700])
    together = denoiser.predict(x_t, t, tokens[None].expand(2, -1, -1, -1))  # (2, 2, C, H, W)
    for image in range(2):
        for prompt in range(2):
            alone = reference.unet(x_t[image : image + 1], t[image], tokens[prompt : prompt + 1]).sample[0]
            torch.testing.assert_close(together[image, prompt], alone, rtol=1e-4, atol=1e-5)
    mean = denoiser.predict_pairs(x_t, t, tokens[None].expand(2, -1, -1, -1), torch.arange(2))  # both as templates
    torch.testing.assert_close(mean, together.mean(1), rtol=1e-4, atol=1e-5)
    wanted = "epsilon" if "epsilon" in str(pipeline) else "v_prediction"
    assert denoiser.scheduler.config.prediction_type == wanted


def test_half_precision_weights_stay_half(pipeline):
    denoiser = StableDiffusion.from_pretrained(pipeline, dtype=torch.bfloat16, slicing=True)
    assert {p.dtype for p in denoiser.parameters()} == {torch.bfloat16}
    tokens = denoiser.encode_prompts(["a photo of a cat"])
    prediction = denoiser.predict(torch.randn(1, 4, 8, 8), torch.tensor([5]), tokens[None])
    assert prediction.dtype == torch.float32 and prediction.isfinite().all()


def test_half_the_passes_of_the_published_loop_with_equal_errors(pipeline, pictures):
    """The published loop prices each pair by two passes of its own; three prompts need three passes, not six."""
    denoiser = StableDiffusion.from_pretrained(pipeline)
    posterior = encode_images(denoiser, Animals(pictures, CLASSES, resolution=16)[0]["pixel_values"][None])
    prompts = denoiser.encode_prompts([f"a photo of a {name}" for name in CLASSES])
    passes = []
    denoiser.network.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    found = infer_discrete(denoiser, posterior, prompts, Subsets(3, (2, 2)), DiscreteSettings(num_draws=8, seed=2))
    ours, passes[:] = sum(passes), []

    draws = draw_for_images(posterior, 8, (0, 1000), image_generators(2, [0], stream=4), stratified=True)[0]
    errors = {}
    for pair in combinations(3, (2, 2)):  # the published loop
        errors[pair] = 0.0
        for x_0, t, eps in zip(draws.x_0, draws.t[:, None], draws.eps, strict=True):
            x_t, target = denoiser.add_noise(x_0[None], eps[None], t), denoiser.target(x_0[None], eps[None], t)
            both = [denoiser.network(x_t, t, prompts[i : i + 1]).sample for i in pair]
            errors[pair] += float((target - sum(both) / 2).square().mean()) / 8
    assert sum(passes) == 2 * ours == 48 and int(found.forward[0]) == ours
    best = min(errors, key=errors.get)
    assert tuple(found.chosen[0]) == best
    assert float(found.error[0]) == pytest.approx(errors[best], rel=1e-4)


def test_baselines_are_what_they_say(pipeline, pictures):
    """The lowest single errors, and the joint prompt of lowest error, on the draws of `infer_discrete`."""
    denoiser = StableDiffusion.from_pretrained(pipeline)
    posterior = encode_images(denoiser, Animals(pictures, CLASSES, resolution=16)[1]["pixel_values"][None])
    draws = draw_for_images(posterior, 6, (0, 1000), image_generators(4, [0], stream=4), stratified=True)[0]
    x_t, target = (f(draws.x_0, draws.eps, draws.t) for f in (denoiser.add_noise, denoiser.target))

    def errors(prompts):
        tokens = denoiser.encode_prompts(prompts)
        predictions = denoiser.predict(x_t, draws.t, tokens[None].expand(6, -1, -1, -1))  # (6, P, C, H, W)
        return tokens, (target[:, None] - predictions).square().flatten(2).mean((0, 2))

    tokens, own = errors([f"a photo of a {name}" for name in CLASSES])
    settings, labels = DiscreteSettings(num_draws=6, seed=4), torch.eye(3)
    found = infer_diffusion_classifier(denoiser, posterior, torch.tensor([2]), tokens, settings, labels=labels)
    assert found.conds[0].argmax(1).tolist() == own.argsort()[:2].tolist() and int(found.forward[0]) == 18
    members = combinations(3, (1, 2))
    assert members == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    joint, own = errors([f"a photo of a {in_words([CLASSES[i] for i in c])}" for c in members])
    found = infer_dc_variant(denoiser, posterior, joint, members, settings, labels=labels)
    best = members[int(own.argmin())]
    assert found.conds[0][: len(best)].argmax(1).tolist() == list(best) and int(found.num_concepts[0]) == len(best)
    assert float(found.error[0]) == pytest.approx(float(own.min()), rel=1e-4)


def test_joint_prompts_read_as_a_person_would_write_them():
    names = ["cat", "dog", "rabbit"]
    assert [in_words(names[:n]) for n in (1, 2, 3)] == ["cat", "cat and a dog", "cat, a dog and a rabbit"]


def test_tokenizer_has_one_token_for_each_word(tmp_path):
    tokenizer = train_animals_mini.make_tokenizer(tmp_path)
    words = [*train_animals_mini.WORDS.split(), *drawing.sprites()]
    for word in words:
        assert len(tokenizer(word).input_ids) == 3, word  # start, word, end
    assert len({tuple(tokenizer(word).input_ids) for word in words}) == len(set(words))
    assert len(tokenizer("zebu").input_ids) > 3  # spelt, not lost


# Scores and figures


def one_hot(*numbers):
    return np.eye(3)[list(numbers)].tolist()


def record(true, pred, name="x"):
    return {"image_id": name, "conds_true": one_hot(*true), "conds_pred": one_hot(*pred)}


def test_label_metrics_by_hand():
    records = [record((0, 1), (1, 0)), record((0, 2), (0, 1)), record((0,), (0, 1)), record((1, 2), (2,))]
    metrics, intervals = label_metrics(records)
    assert metrics == {"pair_accuracy": 0.25, "count_accuracy": 0.5, "recall_per_class": [1.0, 0.5, 0.5]}
    z2 = 1.959963984540054**2
    assert intervals["recall_per_class"][0] == pytest.approx([3 / (3 + z2), 1])  # Wilson's, of 3 of 3


def test_label_sheet_is_drawn(tmp_path, pictures):
    records = [record((0, 1), (1, 0), "a"), record((0, 2), (0, 1), "b")]
    label_sheet({"a": Image.new("RGB", (32, 32), "red")}, records, CLASSES, tmp_path / "f" / "sheet.png")
    assert Image.open(tmp_path / "f" / "sheet.png").width > 300


# The script


def test_evaluation_of_a_pipeline(pipeline, pictures, run_script, tmp_path):
    arguments = ["--checkpoint", pipeline, "--dataset_root", pictures, "--num_draws", 6, "--output_dir", tmp_path]
    arguments += ["--method", *METHODS, "--prompt", "a photo of a {}", "a drawing of a {}"]
    done = run_script("eval_animal.py", *arguments, "--num_images", 3, "--confidence", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pair accuracy") == 3 and "rabbit found" in done.stdout
    for method in METHODS:
        folder = tmp_path / "animals" / f"eval-{method}"
        records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        assert len(records) == 3
        for own in records:
            assert own["num_pred"] == 2 and own["unet_evaluations"] == {"forward": 6 * 3 * 2, "backward": 0}
        summary = json.loads((folder / "summary.json").read_text())
        right = np.mean([sorted(r["conds_true"]) == sorted(r["conds_pred"]) for r in records])
        assert summary["groups"]["all"]["metrics"]["pair_accuracy"] == pytest.approx(right)
        assert (folder / "figures" / "labels_all.png").stat().st_size > 1000


def test_same_seed_same_answers_and_counts_are_inferred(pipeline, pictures, run_main, tmp_path):
    answers = []
    for name in ("a", "b"):
        arguments = ["--checkpoint", pipeline, "--dataset_root", pictures, "--num_draws", 4, "--no_figures"]
        code, out, err = run_main(
            "eval_animal", *arguments, "--num_objects", "1-3", "--output_dir", tmp_path / name, "--num_images", 2
        )
        assert code == 0, err
        lines = (tmp_path / name / "animals" / "eval-igm" / "results.jsonl").read_text().splitlines()
        answers.append([(r["conds_pred"], r["error"]) for r in map(json.loads, lines)])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--classes", "cat"], "at least two"),
        (["--classes", "cat", "dog", "Cat"], "twice"),
        (["--prompt", "a photo of a cat"], "must hold {} once"),
        (["--num_objects", "4"], "more than the 3 --classes"),
        (["--method", "diffusion_classifier", "--num_objects", "1-2"], "n known"),
        (["--classes", "cat", "cow"], "is not among --classes"),
        (["--dataset_root", "/nowhere"], "is not a folder"),
        (["--dataset_root", "EMPTY"], "holds no image"),
        (["--dataset_root", "BROKEN"], "is not readable"),
        (["--dataset_root", "NOROWS"], "names no image"),
        (["--dataset_root", "NOCOLUMN"], "needs the columns"),
        (["--dataset_root", "NOTJSON"], "line 1 is not a JSON object"),
        (["--mixed_precision", "fp16"], "do not compute on a CPU"),
        (["--cpu_offload"], "there is no GPU"),
        (["--checkpoint", "EMPTY"], "is not a Stable Diffusion pipeline"),
        (["--checkpoint", "no-such-thing"], "does not exist"),
        (["--checkpoint", "nobody/nothing"], "could not be fetched"),
        (["--checkpoint", "nobody/nothing", "--local_files_only"], "not in the local cache"),
    ],
)
def test_mistakes_end_in_one_line_before_any_model(arguments, words, run_main, tmp_path, monkeypatch):
    for name in ("EMPTY", "BROKEN", "NOROWS", "NOCOLUMN", "NOTJSON"):
        (tmp_path / name).mkdir()
    (tmp_path / "BROKEN" / "cat_dog_1.jpg").write_bytes(b"broken")
    (tmp_path / "NOROWS" / "metadata.csv").write_text("file_name,labels\n")
    (tmp_path / "NOCOLUMN" / "metadata.csv").write_text("name,what\na.jpg,cat\n")
    (tmp_path / "NOTJSON" / "metadata.jsonl").write_text("cat\n")
    monkeypatch.setattr(igm.models.stable_diffusion, "StableDiffusion", None)  # no model is ever built
    monkeypatch.setattr(igm.inference.prompts, "best_device", lambda: torch.device("cpu"))
    arguments = [str(tmp_path / a) if (tmp_path / a).is_dir() else a for a in arguments]
    code, out, err = run_main("eval_animal", "--output_dir", tmp_path / "out", *arguments)
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize("name, words", [("GatedRepoError", "is gated"), ("RepositoryNotFoundError", "does not exist")])
def test_the_hub_refusals_are_told_apart(name, words, monkeypatch):
    def refuse(*args, **kwargs):
        raise type(name, (OSError,), {})("401 Client Error")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(ModelError, match=words):
        StableDiffusion.from_pretrained("someone/something")


def test_a_damaged_pipeline_is_named(pipeline, tmp_path):
    import shutil

    folder = shutil.copytree(pipeline, tmp_path / "damaged")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(ModelError, match="cannot be loaded"):
        StableDiffusion.from_pretrained(folder)


def test_without_the_default_the_shipped_model_is_named_in_one_line(monkeypatch, capsys):
    igm.inference.prompts._default_checkpoint.cache_clear()  # what an earlier test of this process found
    assert PromptMethod.default_checkpoint(PipelineLoading()) == "animals-mini"
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_pictures_without_labels_get_answers(pipeline, run_main, tmp_path):
    save_pictures(tmp_path, ["mine.png", "IMG_7.png"])
    arguments = ["--checkpoint", pipeline, "--images", tmp_path / "mine.png", tmp_path / "IMG_7.png"]
    code, out, err = run_main(
        "eval_animal", *arguments, "--method", *METHODS, "--num_draws", 2, "--output_dir", tmp_path / "out"
    )
    assert code == 0, err
    for method in METHODS:
        lines = (tmp_path / "out" / "animals" / f"eval-{method}-images" / "results.jsonl").read_text().splitlines()
        assert [json.loads(line)["num_pred"] for line in lines] == [2, 2]
        assert json.loads(lines[0])["conds_true"] is None


def test_whitening_changes_the_latents_and_not_the_pictures():
    """Latent channels get mean 0 and unit covariance; what they decode to stays, and so does the noise they come with."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    config = json.loads((ROOT / "configs" / "animals-mini" / "vae" / "config.json").read_text())
    vae = AutoencoderKL.from_config({**config, "latent_channels": 3}).eval().requires_grad_(False)
    images = torch.rand(64, 3, 32, 32) * 2 - 1
    before = vae.encode(images).latent_dist
    pictures, noise = vae.decode(before.mean).sample, before.var.movedim(1, -1).flatten(0, 2).mean(0)
    mixed = vae.post_quant_conv.weight[:, :, 0, 0].clone()
    train_animals_mini.whiten(vae, images)
    after = vae.encode(images).latent_dist
    latents = after.mean.movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(latents.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.cov(latents.T), torch.eye(3), rtol=0, atol=1e-2)
    torch.testing.assert_close(vae.decode(after.mean).sample, pictures, rtol=0, atol=1e-4)
    assert vae.config.scaling_factor == 1
    back = torch.linalg.solve(mixed, vae.post_quant_conv.weight[:, :, 0, 0])  # from whitened channels to the old ones
    covariance = torch.linalg.inv(back) @ noise.diag() @ torch.linalg.inv(back).T
    torch.testing.assert_close(after.var.mean((0, 2, 3)), covariance.diagonal(), rtol=1e-3, atol=1e-6)


def test_training_on_prompts_moves_queries_and_keys(tmp_path):
    """With several tokens the attention's queries and keys have an effect; with one they have none and stay frozen."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler

    from igm.models.denoiser import Denoiser
    from igm.models.unet import build_network
    from igm.training.compositional import CompositionalLearner
    from igm.training.loop import train
    from igm.training.settings import TrainSettings

    prompts = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    data = train_animals_mini.SingleAnimals(latents, 0.1 * latents.abs(), torch.tensor([0, 1, 0, 1]), prompts)
    torch.manual_seed(0)
    network = build_network(UNET)
    before = {name: p.clone() for name, p in network.named_parameters() if "attn2.to_q" in name or "attn2.to_k" in name}
    settings = TrainSettings(max_train_steps=2, train_batch_size=2, learning_rate=1e-2)
    learner = CompositionalLearner(Denoiser(network, DDPMScheduler.from_config(SCHEDULER)))
    train(Accelerator(cpu=True), learner, data, tmp_path, settings)
    after = dict(network.named_parameters())
    assert before and all(not torch.equal(after[name], p) for name, p in before.items())
