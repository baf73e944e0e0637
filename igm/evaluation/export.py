"""Results in the formats of other programs, from the records alone.

| csv, parquet | a row for each object (positions, classes) or image (attributes) |
| coco | each object as a keypoint `centre`, and a small box around it; what it is as its category |
| labelstudio | predictions to be corrected in Label Studio: keypoints, or choices |
| clevr | scenes as CLEVR's own, with relations as far as places in the picture tell them |
"""

import argparse
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igm import UserError, __version__
from igm.data import DataError
from igm.data.images import check_image
from igm.data.objects import in_order
from igm.data.unlabelled import names_in_common_folder
from igm.evaluation.records import Record, read_options, read_results
from igm.evaluation.summary import fitting, task_of
from igm.files import replace_file, replace_text
from igm.tasks.task import Finding

BOX = 0.05  # side of COCO's boxes, in units of the picture's shorter side
APART = 0.02  # of width or height: nearer objects are in no relation, as their order is not certain


@dataclass(frozen=True)
class Found:
    """What was found in a picture: its name in the results, its file, its size in pixels, and the findings.

    points: (x, y) of each finding in pixels, None where it has no place. unlike: whether the picture is unlike all that
    the model was measured on, None where nobody knows.
    """

    image_id: str
    group: str
    file: str
    size: tuple[int, int]
    confidence: float | None
    findings: Sequence[Finding]
    points: Sequence[tuple[float, float] | None]
    unlike: bool | None = None


def read_found(folder: Path) -> list[Found]:
    """The pictures of a results folder, each once.

    Raises:
        UserError: no results, records of another task, or records whose pictures' size is not known.
    """
    records, options = read_results(folder), read_options(folder)
    task = task_of(folder, options.get("task"))
    files = [record.get("image_path") or record["image_id"] for record in records]
    names = names_in_common_folder([Path(file) for file in files])
    found = []
    with fitting(folder, task):
        for record, file in zip(records, names, strict=True):
            size = size_of(record, folder, options)
            box = record.get("fit_box") or (0.0, 0.0, *size)
            findings = task.findings(record, options)
            points = [None if own.position is None else in_pixels(own.position, box) for own in findings]
            sure = record["confidence"]
            unlike = record.get("unlike")
            found.append(Found(record["image_id"], record["group"], file, size, sure, findings, points, unlike))
    return found


def size_of(record: Record, folder: Path, options: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of a record's picture in pixels; of records of earlier versions by reading the picture again.

    Raises:
        UserError: it is not known.
    """
    width, height = record.get("width"), record.get("height")
    if all(isinstance(side, int) and side > 0 for side in (width, height)):
        return width, height  # type: ignore[return-value]
    name = f"image {record['image_id']}: its record has no width and height, as those of earlier versions"
    if options.get("fit") not in (None, "squeeze"):
        raise UserError(f"{name}, and --fit {options['fit']} showed a part of it; infer again")
    path = record.get("image_path")
    for place in (Path(path), folder / path) if path else ():
        try:
            return check_image(place)
        except DataError:
            continue
    raise UserError(f"{name}, and its picture {path or ''} cannot be read; restore it, or infer again")


def in_pixels(position: tuple[float, float], box: Sequence[float]) -> tuple[float, float]:
    """A place in [0, 1] of the square, in pixels of the picture of which it shows a box (left, top, width, height)."""
    return box[0] + position[0] * box[2], box[1] + position[1] * box[3]


def rows_of(found: Sequence[Found]) -> list[dict[str, Any]]:
    """A row for each finding; an image without any has none."""
    rows = []
    for own in found:
        start: dict[str, Any] = {"image_id": own.image_id, "file_name": own.file, "group": own.group}
        start |= {"width": own.size[0], "height": own.size[1], "unlike": own.unlike}
        for finding, point in zip(own.findings, own.points, strict=True):
            place: dict[str, Any] = {}
            if point is not None:
                shares = {"x_share": point[0] / own.size[0], "y_share": point[1] / own.size[1]}
                place = {"x": point[0], "y": point[1], **shares}
            rows.append({**start, **place, "confidence": finding.confidence, **finding.values})
    return rows


def write_csv(found: Sequence[Found], output: Path) -> None:
    """A table of `rows_of`; nothing stands for what is not known."""
    rows = rows_of(found)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["image_id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(output, text.getvalue())


def write_parquet(found: Sequence[Found], output: Path) -> None:
    """The same table, in Apache Parquet.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("--format parquet needs pyarrow; pip install pyarrow, or choose csv") from None
    table = pyarrow.Table.from_pylist(rows_of(found))
    replace_file(output, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def write_coco(found: Sequence[Found], output: Path) -> None:
    """Images, and an annotation for each object: a keypoint, a box of BOX around it, and its confidence as `score`.

    What objects are is their category, as people say it ("small red cube"), and in `attributes` by name.

    Raises:
        UserError: results without positions.
    """
    names = sorted({" ".join(finding.names) for own in found for finding in own.findings}, key=in_order) or ["object"]
    numbers = {name: number for number, name in enumerate(names, 1)}
    annotations: list[dict[str, Any]] = []
    for number, own in enumerate(found, 1):
        side = BOX * min(own.size)
        for ((x, y), sure), finding in zip(placed(own, "coco"), own.findings, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": numbers[" ".join(finding.names)],
                    "keypoints": [x, y, 2],  # 2: labelled and visible
                    "num_keypoints": 1,
                    "bbox": [x - side / 2, y - side / 2, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    **({"attributes": dict(finding.values)} if finding.values else {}),
                    **scored(sure),
                }
            )
    images = [
        {"id": number, "file_name": own.file, "width": own.size[0], "height": own.size[1]}
        for number, own in enumerate(found, 1)
    ]
    same: dict[str, Any] = {"supercategory": "object", "keypoints": ["centre"], "skeleton": []}
    categories = [{"id": number, "name": name, **same} for name, number in numbers.items()]
    info = {"description": f"objects inferred by IGM {__version__}"}
    write_json_text(output, {"info": info, "images": images, "annotations": annotations, "categories": categories})


def placed(found: Found, name: str) -> list[tuple[tuple[float, float], float | None]]:
    """Place in pixels and confidence of each finding.

    Raises:
        UserError: one has no place; `name` is the format that needs it.
    """
    if any(point is None for point in found.points):
        raise UserError(f"--format {name} needs positions, these results have none; choose csv, parquet or labelstudio")
    return [(p, own.confidence) for p, own in zip(found.points, found.findings, strict=True) if p is not None]


def write_labelstudio(found: Sequence[Found], output: Path) -> None:
    """A task with a prediction for each image; coordinates in percent, as Label Studio has them.

    The labelling interface has <Image name="image" value="$image"/> and <KeyPointLabels name="label" toName="image">, or
    <Choices name="label" toName="image">.
    """
    tasks = []
    for own in found:
        sizes = {"original_width": own.size[0], "original_height": own.size[1], "image_rotation": 0}
        common = {"from_name": "label", "to_name": "image", **sizes}
        results: list[dict[str, Any]] = []
        for number, (finding, point) in enumerate(zip(own.findings, own.points, strict=True)):
            if point is None:
                continue
            x, y = (100 * p / side for p, side in zip(point, own.size, strict=True))
            value = {"x": x, "y": y, "width": 1.0, "keypointlabels": list(finding.names)}
            result = {"id": f"{own.image_id}-{number}", "type": "keypointlabels", **common, "value": value}
            results.append({**result, **scored(finding.confidence)})
        chosen = [name for f, p in zip(own.findings, own.points, strict=True) if p is None for name in f.names]
        if chosen:
            result = {"id": f"{own.image_id}-0", "type": "choices", **common, "value": {"choices": chosen}}
            results.append(result)
        prediction = {"model_version": f"igm-{__version__}", **scored(own.confidence), "result": results}
        tasks.append({"data": {"image": own.file, "image_id": own.image_id}, "predictions": [prediction]})
    write_json_text(output, tasks)


def scored(confidence: float | None) -> dict[str, float]:
    """A confidence as `score`; nothing where there is none."""
    return {} if confidence is None else {"score": confidence}


def write_clevr(found: Sequence[Found], output: Path) -> None:
    """Scenes as CLEVR's generator writes them, as far as places are known: `pixel_coords` have no depth.

    Relations are those of the picture: left and right by x, front (lower) and behind (higher) by y; objects that are less
    than APART of the side apart are in neither. CLEVR's own are measured on the ground.

    Raises:
        UserError: results without positions.
    """
    scenes = []
    for number, own in enumerate(found):
        points = [point for point, _ in placed(own, "clevr")]
        objects = [
            {**finding.values, "pixel_coords": list(point)} for finding, point in zip(own.findings, points, strict=True)
        ]
        scene = {"image_index": number, "image_filename": own.file, "split": own.group, "objects": objects}
        scenes.append({**scene, "relationships": relations(points, own.size)})
    info = {
        "version": "1.0",
        "split": "inferred",
        "relationships": "by places in the picture",
        "by": f"IGM {__version__}",
    }
    write_json_text(output, {"info": info, "scenes": scenes})


def relations(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> dict[str, list[list[int]]]:
    """For each direction and each object, the numbers of the objects that lie in this direction of it."""
    signs = {"left": (0, -1), "right": (0, 1), "behind": (1, -1), "front": (1, 1)}
    return {
        name: [[j for j, q in enumerate(points) if sign * (q[a] - p[a]) > APART * size[a]] for p in points]
        for name, (a, sign) in signs.items()
    }


def write_json_text(output: Path, value: object) -> None:
    """Replace a file by a value as JSON on one line: annotations are many."""
    replace_text(output, json.dumps(value, allow_nan=False) + "\n")


FORMATS: dict[str, Callable[[Sequence[Found], Path], None]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "coco": write_coco,
    "labelstudio": write_labelstudio,
    "clevr": write_clevr,
}


def main() -> None:
    """Write a results folder in the format of another program."""
    parser = argparse.ArgumentParser(prog="python -m igm.evaluation.export", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="results folder with results.jsonl and options.json")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    try:
        found = read_found(options.folder)
        FORMATS[options.format](found, options.output)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    except OSError as error:
        parser.exit(2, f"error: {error.strerror}: {error.filename}; choose another --output\n")
    print(f"{options.output}: {len(found):,} images")


if __name__ == "__main__":
    main()
