"""scripts/reproduce.py: the report against numbers by hand, going on after a kill, plans, and commands that are real."""

import csv
import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import NETWORK_CONFIGS, ROOT
from matplotlib.image import imread
from safetensors.numpy import save_file
from test_scripts import check_refused

from igm import UserError
from igm.data.synthetic.clevr import generate
from igm.data.synthetic.layouts import COGENT
from igm.evaluation.records import RecordWriter
from igm.evaluation.summary import write_summary
from igm.files import locked
from igm.hub import NETWORK_DIR
from igm.reproduction import plan, run
from igm.reproduction.clevr import FULL_ROWS, IGM, MINI_ROWS
from igm.reproduction.cogent import COGENT_ROWS
from igm.reproduction.figure import draw_ablations, draw_scores, draw_training
from igm.reproduction.plan import describe_rows, in_hours
from igm.reproduction.report import (
    Line,
    as_latex,
    as_text,
    attributes_of,
    columns_of,
    count_parameters,
    measure,
    training_curves,
    write_report,
)
from igm.reproduction.rows import Place, Published, Row, Table, Training
from igm.reproduction.run import Outcome, Refused, in_words, is_trained, launched, results_of, run_rows
from igm.reproduction.tables import TABLES
from igm.tasks import find_task

TRUE = [[0.2, 0.2], [0.7, 0.7]]
OFF = [[0.2, 0.2], [0.8, 0.7]]  # the second object by 0.1: not found


def place_in(folder: Path, **changes) -> Place:
    common = {"table": "clevr", "scale": "mini", "dataset_root": str(folder / "nowhere"), "num_processes": 1}
    return Place(**{**common, "train_root": str(folder / "nowhere"), "output_dir": folder / "out", **changes})


def table_of(*rows: Row, **changes) -> Table:
    common = {"title": "CLEVR", "score": "found within 0.05", "reference": "igm", "num_images": 2, "basis": "a guess."}
    return Table(rows=rows, **{**common, **changes})


ROWS = {name: Row(name=name, title=name.upper(), evaluation=("eval.py",), paper=IGM) for name in ("gc", "igm")}


def write_results(folder: Path, found: dict[str, list], seconds: float, checkpoint: str, group: str = "3-5") -> Path:
    """A results folder of images whose two objects were inferred at these places."""
    options = {"task": "positions"}
    records = [
        {
            **{"image_id": name, "group": group, "conds_true": TRUE, "conds_pred": conds, "num_true": 2, "num_pred": 2},
            **{"error": 0.1, "confidence": None, "unet_evaluations": {"forward": 1, "backward": 0}},
            **{"seconds": seconds * (1 + number), "seed": 0},
        }
        for number, (name, conds) in enumerate(found.items())
    ]
    with RecordWriter(folder / "results.jsonl", False, options) as writer:
        for record in records:
            writer.write(record)
    common = {"task": find_task("positions"), "method": "pursuit", "options": options, "checkpoint": checkpoint}
    write_summary(folder / "summary.json", records=records, **common)
    return folder


@pytest.fixture
def outcomes(tmp_path):
    """GC finds 3 of 4 objects, one being off by 0.1; IGM all, exactly; a third row was refused."""
    network = tmp_path / "model" / NETWORK_DIR
    network.mkdir(parents=True)
    tensors = {"a.weight": np.zeros((300, 4), np.float32), "norm.running_mean": np.zeros(5, np.float32)}
    save_file(tensors, network / "diffusion_pytorch_model.safetensors")
    model = str(tmp_path / "model")
    gc = write_results(tmp_path / "gc", {"a": OFF, "b": TRUE}, 1.0, model)
    igm = write_results(tmp_path / "igm", {"a": TRUE, "b": TRUE, "c": OFF}, 0.5, model)
    absent = Row(name="dinosaur", title="DINOSAUR", evaluation=("eval.py",), paper={"3-5": Published(82.5, 8.4e-4)})
    return [Outcome(ROWS["gc"], gc), Outcome(ROWS["igm"], igm), Outcome(absent, None, "no backbone")]


def test_lines_are_those_computed_by_hand(outcomes):
    """Wilson's interval of 3 of 4 objects is [30.1, 95.4] %, the bootstrap's over two images ends at 100."""
    gc, igm, absent = measure(outcomes, "igm")
    assert gc.score == 75 and (round(gc.low, 1), gc.high) == (30.1, 100)
    assert gc.error == pytest.approx(0.1**2 / 8) and gc.error_near == 0  # two coordinates of four pairs
    assert gc.seconds == pytest.approx(1.5) and gc.num_images == 2 and gc.parameters == 1200
    assert gc.minus.points == -25 and gc.minus.num_images == 2  # image c is IGM's alone
    assert igm.minus is None and igm.score == pytest.approx(100 * 5 / 6) and igm.error == pytest.approx(0.1**2 / 12)
    assert (gc.paper_score, gc.paper_error) == (94.7, 1.4e-4)
    assert absent.score is None and absent.paper_score == 82.5 and absent.note == "not run: no backbone"


def test_report_is_written_in_every_format(outcomes, tmp_path):
    lines, table = measure(outcomes, "igm"), table_of()
    written = write_report(lines, table, tmp_path / "report", {})
    assert [path.name for path in written] == ["table.md", "table.csv", "table.tex", "scores.png"]
    markdown = written[0].read_text().splitlines()
    cells = [cell.strip() for cell in markdown[4].strip("|").split("|")]
    assert cells[:5] == ["GC", "3-5", "2", "94.7 %", "75.0 % [30.1, 100.0]"] and cells[5].startswith("-25.0 [")
    assert cells[6:] == ["1.4e-04", "1.3e-03", "0.0e+00", "1.5", "0.0 M", ""] and "Minus IGM" in markdown[2]
    with open(written[1], newline="") as file:
        gc, igm, absent = csv.DictReader(file)
    assert (gc["row"], float(gc["score"]), float(gc["minus_points"])) == ("gc", 75, -25)
    assert igm["minus_points"] == "" and absent["score"] == "" and absent["note"] == "not run: no backbone"
    latex = written[2].read_text()
    assert r"GC & 3-5 & 2 & 94.7 \% & 75.0 \% [30.1, 100.0] & -25.0" in latex and latex.count(r"\\") == 4
    assert imread(written[3]).std() > 0.05  # something is drawn
    text = as_text(lines, table)
    assert text.startswith("CLEVR\nMethod") and text.endswith("DINOSAUR: not run: no backbone")


def test_latex_escapes_what_it_must():
    assert as_latex([("A_b", ["5 % & #{x}"])]).splitlines()[3:6:2] == [r"\midrule", r"\bottomrule"]
    assert r"5 \% \& \#\{x\} \\" in as_latex([("A_b", ["5 % & #{x}"])]) and r"A\_b" in as_latex([("A_b", ["1"])])


def test_columns_without_cells_are_left_out():
    titles = [
        title for title, _ in columns_of([Line(ROWS["gc"], "female", score=50.0, low=40.0, high=60.0)], table_of())
    ]
    assert titles == ["Method", "Group", "Here: found within 0.05"]


def test_figures_show_the_numbers(outcomes, tmp_path):
    lines = measure(outcomes, "igm")
    figure = draw_scores(lines, "found", tmp_path / "a.png")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["GC", "IGM", "DINOSAUR"]
    assert list(axes.containers[0].lines[0].get_xdata()) == pytest.approx([75, 100 * 5 / 6])
    (bars,) = axes.containers[0].lines[2]
    assert bars.get_segments()[0][:, 0] == pytest.approx([lines[0].low, lines[0].high])
    assert [x for x, _ in axes.collections[-1].get_offsets()] == [94.7, 94.7, 82.5]
    panels = [
        dataclasses.replace(ROWS["gc"], panel=p, x=x) for p, x in (("starts", "1"), ("starts", "2"), ("draws", "8"))
    ]
    shares = [Line(row, "3-5", score=60.0 + n, low=50.0, high=70.0) for n, row in enumerate(panels)]
    figure = draw_ablations(shares, "found", tmp_path / "b.png")
    assert [axes.get_xlabel() for axes in figure.axes] == ["starts", "draws"]
    assert list(figure.axes[0].containers[0].lines[0].get_ydata()) == [60, 61]


def test_trainings_that_were_measured_are_drawn(outcomes, tmp_path):
    """A torn line, a training without held-out images and a shipped model have no curve."""
    training = Training(script="train_clevr.py", options=(), name="run", steps=3000)
    rows = [
        dataclasses.replace(ROWS["gc"], training=training),
        dataclasses.replace(ROWS["igm"], training=dataclasses.replace(training, name="other"), title="other"),
        dataclasses.replace(ROWS["igm"], training=None),
    ]
    place = place_in(tmp_path)
    folder = tmp_path / "out" / "models-mini" / "run"
    folder.mkdir(parents=True)
    measured = [(1000, 0.5), (2000, 0.2), (3000, 0.3)]
    text = "".join(json.dumps({"step": step, "val_error": error}) + "\n" for step, error in measured)
    (folder / "validation.jsonl").write_text(text + '{"step": 4000, "val_')
    curves = training_curves(rows, place)
    assert curves == {"GC": measured}
    figure = draw_training(curves, tmp_path / "training.png")
    (axes,) = figure.axes
    curve, least = axes.lines
    assert (
        axes.get_title() == "GC" and list(curve.get_xdata()) == [1, 2, 3] and list(curve.get_ydata()) == [0.5, 0.2, 0.3]
    )
    assert (least.get_xdata(), least.get_ydata()) == ([2.0], [0.2])
    written = write_report(measure(outcomes, "igm"), table_of(), tmp_path / "report", curves)
    assert written[-1].name == "training.png" and imread(written[-1]).std() > 0.02


def test_parameters_of_a_shipped_model_and_of_none():
    config = json.loads((ROOT / "models/pretrained/clevr-mini" / NETWORK_DIR / "config.json").read_text())
    assert config["_class_name"] == "SeparableUNet" and 3.7e6 < count_parameters("clevr-mini") < 3.9e6
    assert count_parameters(None) is None and count_parameters("owner/model") is None


# Going on.

SCRIPT = """
import json, os, sys
from pathlib import Path
own, words = Path(__file__), sys.argv[1:]
value = lambda name: words[words.index(f"--{{name}}") + 1]
with open(own.parent / "log", "a") as log:
    print(own.stem, file=log)
if (own.parent / f"refuse-{{own.stem}}").exists():
    print("warning: something\\nerror: the backbone is not here; name another", file=sys.stderr)
    sys.exit(2)
kill = own.parent / f"kill-{{own.stem}}"
if kill.exists():
    kill.unlink()
    os.kill(os.getpid(), 9)
run = Path(value("output_dir")) / value("tracker_project_name")
{body}
"""
TRAIN = """
assert value("resume_from_checkpoint") == "latest"
import numpy as np
from safetensors.numpy import save_file
folder = run / f"checkpoint-{value('max_train_steps')}" / "unet2dconditionmodel"
folder.mkdir(parents=True)
save_file({"a": np.zeros(2, np.float32)}, folder / "diffusion_pytorch_model.safetensors")
"""
EVAL = """
assert "--resume" in words and Path(value("checkpoint")).is_dir()
(run / "eval-pursuit").mkdir(parents=True, exist_ok=True)
(run / "eval-pursuit" / "summary.json").write_text(json.dumps({"command": sys.argv}))
"""


@pytest.fixture
def project(tmp_path):
    """A training and an evaluation that log their calls, and are killed or refuse once where a file says so."""
    for name, body in (("train", TRAIN), ("eval", EVAL)):
        (tmp_path / f"{name}.py").write_text(SCRIPT.format(body=body))
    training = Training(script=str(tmp_path / "train.py"), options=(), name="net", steps=5)
    row = Row(name="one", title="One", training=training, evaluation=(str(tmp_path / "eval.py"),))
    return row, place_in(tmp_path), lambda: (tmp_path / "log").read_text().split()


def test_a_killed_row_goes_on_and_a_finished_one_is_left(project, tmp_path):
    row, place, log = project
    for name in ("train", "eval"):
        (tmp_path / f"kill-{name}").touch()
    table = table_of(row)
    with pytest.raises(UserError, match="train.py .* exit code -9; mend the cause, then the same command goes on"):
        run_rows([row], table, place)
    assert not is_trained(row.training, place)
    with pytest.raises(UserError, match="eval.py .* exit code -9"):
        run_rows([row], table, place)
    assert log() == ["train", "train", "eval"] and is_trained(row.training, place)
    (outcome,) = run_rows([row], table, place)
    assert outcome.folder == tmp_path / "out" / "clevr-mini" / "one" / "eval-pursuit"
    (other,) = run_rows([dataclasses.replace(row, name="two")], table, place)  # the same network
    assert log() == ["train", "train", "eval", "eval", "eval"] and other.folder != outcome.folder
    assert run_rows([row], table, place) == [outcome] and len(log()) == 5  # nothing is run again


def test_rows_are_worked_on_side_by_side_and_each_by_one(project):
    """While another process is at row one, row two is made, and row one is refused; its training is of both."""
    row, place, log = project
    other = dataclasses.replace(row, name="two")
    table = table_of(row)
    with locked(row.folder(place)):
        (outcome,) = run_rows([other], table, place)
        with pytest.raises(UserError, match="one"):
            run_rows([row], table, place)
    assert outcome.folder and log() == ["train", "eval"]
    run_rows([row, other], table, place)
    assert log() == ["train", "eval", "eval"]


def test_another_command_is_another_result(project):
    row, place, log = project
    table = table_of(row)
    run_rows([row], table, place)
    more = dataclasses.replace(place, num_images=7)
    elsewhere = dataclasses.replace(place, dataset_root="elsewhere")
    assert results_of(row, row.words(elsewhere, table.num_images), elsewhere) is None  # the same folder
    assert results_of(row, row.words(more, table.num_images), more) is None
    run_rows([row], table, more)
    assert log() == ["train", "eval", "eval"]


def test_a_torn_checkpoint_is_not_taken_for_a_trained_one(project):
    row, place, log = project
    run_rows([row], table_of(row), place)
    (weights,) = row.training.checkpoint(place).rglob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-3])
    assert not is_trained(row.training, place)


def test_an_optional_row_says_why_it_is_not_there(project, tmp_path, capsys):
    row, place, _ = project
    (tmp_path / "refuse-train").touch()
    with pytest.raises(Refused, match="^row one: the backbone is not here; name another$"):
        run_rows([row], table_of(row), place)
    own = dataclasses.replace(row, optional=True)
    (outcome,) = run_rows([own], table_of(own), place)
    assert outcome == Outcome(own, None, "the backbone is not here; name another")
    assert "Row one is left out: the backbone" in capsys.readouterr().out


def test_a_stopped_command_is_ended_and_says_how_to_go_on(project, tmp_path, monkeypatch):
    row, place, _ = project
    (tmp_path / "train.py").write_text("import time\ntime.sleep(60)\n")
    started = []

    def stop(process):
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "stderr_of", stop)
    monkeypatch.setattr(run, "GRACE", 0.01)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run_rows([row], table_of(row), place)
    assert started[0].poll() is not None
    assert stopped.value.__notes__ == ["row one is not finished; the same command goes on"]


# Plans.

EVERY = [(name, scale) for name, scales in TABLES.items() for scale in scales]


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_a_plan_names_every_command_and_runs_none(name, scale, tmp_path, monkeypatch, capsys):
    asked = []

    def dry(command, **how):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "Options\nMemory per process, about 2.00 GiB: weights 2\n", "")

    monkeypatch.setattr(plan.subprocess, "run", dry)
    monkeypatch.setattr(run, "call", lambda command: pytest.fail(f"{command} was run"))
    table = TABLES[name][scale]
    place = place_in(tmp_path, table=name, scale=scale, num_processes=table.processes)
    describe_rows(table.rows, table, place)
    out = capsys.readouterr().out
    for row in table.rows:
        assert f"$ {in_words(row.words(place, table.num_images))}\n" in out
        assert row.training is None or f"$ {in_words(launched(row.training, place))}\n" in out
    trainings = {row.training.name for row in table.rows if row.training}
    assert len(asked) == len(trainings) == out.count("Memory per process, about 2.00 GiB")
    assert all(command[-1] == "--dry_run" for command in asked)
    assert out.endswith("Dry run: nothing was trained, inferred or written\n") and not (tmp_path / "out").exists()


def test_hours_by_hand(tmp_path, monkeypatch, capsys):
    """1,800 steps of 2 s on two processes are an hour, on one two; 2 groups of 90 images of 10 s half an hour."""
    training = Training(script="t.py", options=(), name="net", steps=1800, processes=2, step_seconds=2.0)
    row = Row(name="one", title="One", training=training, evaluation=("e.py",), image_seconds=10.0)
    monkeypatch.setattr(plan, "dry_run_of", lambda *_: [])
    for number, hours in ((2, 1.5), (1, 2.5)):
        describe_rows([row], table_of(row), place_in(tmp_path, num_processes=number, num_images=90))
        assert f"All: about {hours} hours\n" in capsys.readouterr().out
    assert [in_hours(h) for h in (None, 0.001, 0.02)] == ["hours not known", "less than a minute", "about a minute"]
    assert [in_hours(h) for h in (0.5, 2)] == ["about 30 minutes", "about 2.0 hours"]


def test_fewer_processes_take_more_micro_batches(tmp_path):
    training = FULL_ROWS[0].training
    alone, both = (training.words(place_in(tmp_path, num_processes=n)) for n in (1, 2))
    assert (
        alone[alone.index("--gradient_accumulation_steps") + 1] == "2" and "--gradient_accumulation_steps" not in both
    )
    assert launched(training, place_in(tmp_path, num_processes=2))[1:5] == [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2")
    ]
    assert in_words(launched(training, place_in(tmp_path, num_processes=2))).startswith("accelerate launch --multi_gpu")
    assert in_words(launched(training, place_in(tmp_path))).startswith("python train_clevr.py --config configs/paper/")


# Commands.


def commands() -> dict[str, list[str]]:
    """Every command of every table on images that are not there, by its words."""
    found = {}
    for name, scale in EVERY:
        table = TABLES[name][scale]
        place = place_in(Path("/nowhere"), table=name, scale=scale)
        for row in table.rows:
            for words in (row.words(place, table.num_images), *([row.training.words(place)] if row.training else [])):
                found[" ".join(word for word in words if "/nowhere" not in word)] = words
    return found


@pytest.mark.parametrize("words", commands().values(), ids=commands())
def test_a_command_is_taken(words, run_main, monkeypatch):
    """The real parser reads it, every option has an effect, and what is refused is only the images, which are not there."""
    monkeypatch.chdir(ROOT)
    code, _, err = run_main(words[0].removesuffix(".py"), *words[1:])
    check_refused(code, err, "nowhere")
    assert "no effect" not in err


@pytest.mark.parametrize("row", [row for row in (*FULL_ROWS, *MINI_ROWS) if row.training], ids=lambda row: row.title)
def test_steps_are_those_of_the_config_where_the_rate_falls_to_its_end(row):
    file = ROOT / row.training.options[row.training.options.index("--config") + 1]
    options = yaml.safe_load(file.read_text())
    if options.get("lr_scheduler") == "cosine":
        assert row.training.steps == options["max_train_steps"]
    else:  # a constant rate: the checkpoint of the step that was evaluated
        assert row.training.steps == 80_000 and row.training.steps % options["checkpointing_steps"] == 0


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_rows_have_names_of_their_own_and_a_reference(name, scale):
    names = [row.name for row in TABLES[name][scale].rows]
    assert len(set(names)) == len(names) and TABLES[name][scale].reference in names


# Whole objects.


def test_attributes_stand_beside_the_change_from_the_first_group():
    """80 of condition A, 65 of B: the cell of B says -15; other rows, and tables that do not compare, say nothing."""
    row, other = (Row(name=name, title=name, evaluation=("eval.py",)) for name in ("one", "other"))
    lines = [
        Line(row, "valA/3-5", score=90.0, low=80.0, high=95.0, attributes={"shape": 80.0, "all attributes": 60.0}),
        Line(row, "valB/3-5", score=90.0, low=80.0, high=95.0, attributes={"shape": 65.0, "all attributes": 61.0}),
        Line(other, "valA/3-5", score=90.0, low=80.0, high=95.0, attributes={"shape": 10.0}),
        Line(other, "valB/3-5"),
    ]
    cells = dict(columns_of(lines, table_of(row, other, compares_groups=True)))
    assert cells["Shape"] == ["80.0 %", "65.0 % (-15.0)", "10.0 %", ""]
    assert cells["All attributes"] == ["60.0 %", "61.0 % (+1.0)", "", ""]
    assert dict(columns_of(lines, table_of(row, other)))["Shape"][1] == "65.0 %"


def test_shares_of_attributes_are_those_of_the_summary():
    metrics = {"attribute_accuracy": {"shape": 0.5, "color": None}, "object_accuracy": 0.25}
    assert attributes_of(metrics) == {"shape": 50.0, "all attributes": 25.0} and attributes_of({}) == {}


# The script.


@pytest.fixture
def reproduce(monkeypatch, run_main):
    """A function (*args) -> (exit code, stdout, stderr) of scripts/reproduce.py, in this process."""
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "scripts" / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reproduce", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    return lambda *args: run_main("reproduce", *args)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["clevr", "--scale", "mini"], ["--dataset_root is missing"]),
        (["clevr", "--scale", "mini", "--dataset_root", "nowhere"], ["--dataset_root nowhere does not exist"]),
        (["clevr", "--scale", "mini", "--dataset_root", "x", "--only", "slots"], ["--only slots", "slot_attention"]),
        (["clevrtex", "--scale", "mini", "--dataset_root", "tests", "--only", "gc"], ["--train_root is missing"]),
        (["clevr", "--scale", "large", "--dataset_root", "x"], ["--scale", "mini"]),
        (["cogent", "--scale", "full", "--dataset_root", "x"], ["--scale full: cogent has mini"]),
        (["animals", "--scale", "mini", "--num_images", "0"], ["--num_images"]),
    ],
)
def test_a_mistake_is_one_line(reproduce, tmp_path, words, parts):
    code, _, err = reproduce(*words, "--output_dir", tmp_path)
    check_refused(code, err, *parts)
    assert not any(tmp_path.iterdir())


def test_another_folder_than_the_projects_is_said(reproduce, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = reproduce("clevr", "--scale", "mini", "--dataset_root", tmp_path)
    check_refused(code, err, "start the command in the project's own")


@pytest.mark.slow
def test_cogent_from_pictures_to_its_table(reproduce, tmp_path, monkeypatch):
    """Two steps of a tiny ResNet on condition A, asked on both, by the real commands on rendered scenes."""
    for split, condition in (("trainA", "A"), ("valA", "A"), ("valB", "B")):
        generate(tmp_path / "cogent", split, 40, (3, 4), resolution=(48, 32), palettes=COGENT[condition])
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**NETWORK_CONFIGS["resnet"], "_class_name": "PositionResNet"}))
    small = ("--unet_config", str(config), "--resolution", "16", "--train_batch_size", "2")
    rows = tuple(
        dataclasses.replace(
            row,
            training=dataclasses.replace(row.training, options=(*row.training.options, *small), steps=2),
            evaluation=(*row.evaluation, "--no_figures"),
        )
        for row in COGENT_ROWS
        if row.name == "resnet50"
    )
    table = dataclasses.replace(TABLES["cogent"]["mini"], rows=rows, reference="resnet50")
    monkeypatch.setitem(TABLES["cogent"], "mini", table)
    words = ["cogent", "--scale", "mini", "--dataset_root", tmp_path / "cogent", "--output_dir", tmp_path / "out"]
    code, out, err = reproduce(*words)
    assert code == 0, err
    text = (tmp_path / "out" / "cogent-mini" / "report" / "table.md").read_text()
    assert "valA/3-5" in text and "valB/3-5" in text and "| ResNet (small) |" in text
    with (tmp_path / "out" / "cogent-mini" / "report" / "table.csv").open() as file:
        assert {"row", "group", "score"} <= set(csv.DictReader(file).fieldnames)


@pytest.mark.slow
def test_a_real_row_is_trained_evaluated_and_reported_once(reproduce, clevr_root, tmp_path, monkeypatch):
    """Two steps of a tiny ResNet and the shipped model, by the real commands; the second call runs nothing."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**NETWORK_CONFIGS["resnet"], "_class_name": "PositionResNet", "cond_size": 2}))
    options = ("--learner", "resnet50", "--unet_config", str(config), "--resolution", "16", "--train_batch_size", "2")
    rows = {row.name: row for row in MINI_ROWS}
    training = Training(script="train_clevr.py", options=options, name="tiny", steps=2)
    quick = ("--num_draws", "2", "--num_steps", "1", "--no_figures")
    tiny = dataclasses.replace(rows["resnet50"], training=training)
    igm = dataclasses.replace(rows["igm"], evaluation=(*rows["igm"].evaluation, *quick))
    monkeypatch.setitem(TABLES["clevr"], "mini", dataclasses.replace(TABLES["clevr"]["mini"], rows=(tiny, igm)))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = [
        "clevr",
        "--scale",
        "mini",
        "--dataset_root",
        clevr_root,
        "--num_images",
        2,
        "--output_dir",
        tmp_path / "out",
    ]
    code, out, err = reproduce(*words)
    assert code == 0, err
    report = tmp_path / "out" / "clevr-mini-2" / "report"
    first = (report / "table.csv").read_text()
    assert [row["row"] for row in csv.DictReader(first.splitlines())] == ["resnet50"] * 2 + ["igm"] * 2
    code, out, err = reproduce(*words)
    assert code == 0 and out.count("finished") == 2 and "$ " not in out
    assert (report / "table.csv").read_text() == first
