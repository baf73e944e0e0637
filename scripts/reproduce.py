"""Make a table of the paper again: train what is missing, evaluate, print its numbers beside the measured ones.

Stopped anywhere, the same command goes on. Commands with other rows (--only) may run side by side; the whole one then
prints the table. Results go to OUTPUT_DIR/TABLE-SCALE, the report to its folder report/,
models to OUTPUT_DIR/models-SCALE.

Examples:
    python scripts/reproduce.py clevr --scale mini --dataset_root DIR
    python scripts/reproduce.py clevr --scale full --dataset_root CLEVR_v1.0 --dry_run
    python scripts/reproduce.py animals --scale mini --only igm dc_variant
"""

from dataclasses import dataclass
from pathlib import Path

from igm import UserError
from igm.cli.launch import run
from igm.cli.options import Parser, take
from igm.files import locked
from igm.reproduction.plan import describe_rows
from igm.reproduction.report import as_text, measure, training_curves, write_report
from igm.reproduction.rows import Place, Row, Table
from igm.reproduction.run import run_rows
from igm.reproduction.tables import TABLES
from igm.settings import Settings, path, positive, setting


@dataclass(frozen=True, kw_only=True)
class ReproductionSettings(Settings):
    """Which rows are made, of what, and where."""

    scale: str = setting(help="full: the published setting; mini: small networks, a CPU", choices=("full", "mini"))
    only: tuple[str, ...] | None = setting(None, "rows, by name (default: all)", nargs="+", metavar="ROW")
    dataset_root: str | None = setting(
        None, "images to evaluate, and to train on (animals, mini: the shipped)", kind=path
    )
    train_root: str | None = setting(None, "clevrtex: CLEVR, where models have to be trained", kind=path)
    num_images: int | None = setting(None, "of each group (default: the table's)", kind=positive)
    num_processes: int | None = setting(None, "of a training (default: full 2, mini 1)", kind=positive)
    output_dir: str = setting("outputs/reproduce", "models, results and reports", kind=path)
    dry_run: bool = setting(False, "print commands, memory and estimated hours, and stop")


def find_table(name: str, scale: str) -> Table:
    """The table of a name at a scale.

    Raises:
        UserError: it is not made at that scale.
    """
    scales = TABLES[name]
    if scale not in scales:
        raise UserError(f"--scale {scale}: {name} has {' and '.join(scales)}; take that")
    return scales[scale]


def choose_rows(table: Table, only: tuple[str, ...] | None) -> tuple[Row, ...]:
    """The rows asked for, in the table's order.

    Raises:
        UserError: a name that no row has.
    """
    names = [row.name for row in table.rows]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise UserError(f"--only {unknown[0]}: there is no such row; choose from {', '.join(names)}")
    return tuple(row for row in table.rows if not only or row.name in only)


def make_place(name: str, table: Table, settings: ReproductionSettings, rows: tuple[Row, ...]) -> Place:
    """Where everything is, checked before anything starts.

    Raises:
        UserError: not the project's folder, or a folder of images that is not said or not there.
    """
    if not all(Path(row.evaluation[0]).is_file() for row in rows):
        raise UserError(f"{rows[0].evaluation[0]} is not in this folder; start the command in the project's own")
    root = settings.dataset_root or table.dataset_root
    if not root:
        raise UserError(f"--dataset_root is missing; name the folder with the images of {name}")
    train_root = settings.train_root or ("" if table.trains_elsewhere else root)
    place = Place(
        table=name,
        scale=settings.scale,
        dataset_root=root,
        train_root=train_root,
        output_dir=Path(settings.output_dir),
        num_processes=settings.num_processes or table.processes,
        num_images=settings.num_images,
    )
    if not train_root and any(row.training and not row.training.checkpoint(place).is_dir() for row in rows):
        raise UserError("--train_root is missing: models of this table are trained on CLEVR; name its folder")
    for option, folder in (("dataset_root", root), ("train_root", train_root)):
        if folder and not Path(folder).is_dir():
            raise UserError(f"--{option} {folder} does not exist; name the folder with the images")
    return place


def main() -> None:
    parser = Parser(__doc__ or "")
    parser.add_argument("table", choices=sorted(TABLES), help="table of the paper")
    parser.add("reproduction", ReproductionSettings)
    options = parser.read()
    settings = take(options, ReproductionSettings)
    table = find_table(options.table, settings.scale)
    rows = choose_rows(table, settings.only)
    place = make_place(options.table, table, settings, rows)
    if settings.dry_run:
        return describe_rows(rows, table, place)
    lines = measure(run_rows(rows, table, place), table.reference)
    report = place.results / "report"
    with locked(report):
        written = write_report(lines, table, report, training_curves(rows, place))
    print(f"\n{as_text(lines, table)}\n\nReport: {' '.join(map(str, written))}")


if __name__ == "__main__":
    run(main)
