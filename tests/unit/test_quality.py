"""The table of methods: its measures against known shapes, and the command from stored results to markdown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import trimesh

from benchmarks.main_job import PROMPTS, Run
from benchmarks.quality import Outcome, main, parse_method, table
from benchmarks.score import Score
from benchmarks.shape import ShapeScore, chamfer, props_of, shape_score, solid_of_mesh, surface_of_prop, surface_points, volume_iou
from engine.toybox.prop import Variation, place
from engine.toybox.props import KINDS


def ball_mesh(radius: float) -> tuple[np.ndarray, np.ndarray]:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return np.asarray(ball.vertices), np.asarray(ball.faces)


def test_a_balls_solid_has_its_volume_and_a_hollow_is_empty() -> None:
    vertices, faces = ball_mesh(0.7)
    solid = solid_of_mesh(vertices, faces, 64)
    assert solid.mean() * 8 == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=0.02)
    inner, inner_faces = ball_mesh(0.35)
    shell = solid_of_mesh(np.concatenate([vertices, inner]), np.concatenate([faces, inner_faces[:, ::-1] + len(vertices)]), 64)
    assert shell.mean() * 8 == pytest.approx(4 / 3 * math.pi * (0.7**3 - 0.35**3), rel=0.02)
    assert volume_iou(shell, solid) == pytest.approx(1 - 0.5**3, abs=0.01) and volume_iou(solid, solid) == 1
    twice = solid_of_mesh(np.concatenate([vertices, inner]), np.concatenate([faces, inner_faces + len(vertices)]), 64)
    assert np.array_equal(twice, solid), "pieces may lie in each other"


def test_chamfer_of_two_balls_is_the_difference_of_their_radii() -> None:
    small, large = (surface_points(*ball_mesh(radius)) for radius in (0.5, 0.6))
    assert np.linalg.norm(small, axis=1) == pytest.approx(0.5, abs=0.01) and np.abs(small.mean(axis=0)).max() < 0.03
    assert chamfer(small, large) == pytest.approx(0.1, abs=0.01) and chamfer(small, small) == 0


@pytest.fixture(scope="module")
def mug_of_another_size() -> tuple[np.ndarray, np.ndarray]:
    """One of the drawn mugs, moved and enlarged."""
    vertices, faces = surface_of_prop(place(KINDS["mug"].build(Variation(10_000_003))))
    return vertices * 1.6 + 0.3, faces


def test_a_prop_is_recognised_by_its_shape_whatever_its_size_and_place(mug_of_another_size: tuple[np.ndarray, np.ndarray]) -> None:
    own = shape_score(*mug_of_another_size, props_of("mug"))
    other = shape_score(*mug_of_another_size, props_of("rocket"))
    assert own.volume_iou > 0.8 and own.chamfer < 0.02, "walls of two cells are hard to hit"
    assert other.volume_iou < 0.6 and other.chamfer > 3 * own.chamfer


def test_the_command_prints_a_row_per_method(tmp_path: Path) -> None:
    """From a result that is there already: no engine is started."""
    assert PROMPTS[0] == ("a red mug", "mug", "red")
    vertices, faces = surface_of_prop(place(KINDS["mug"].build(Variation(None))), 40)
    folder = tmp_path / "the-good-one"
    (folder / "mug-0" / "result").mkdir(parents=True)
    (folder / "mug-0.json").write_text(json.dumps({"wall_s": 60, "peak_gb": 1.25}))
    result = folder / "mug-0" / "result"
    np.savez(result / "mesh.npz", vertices=vertices, faces=faces, corner_uvs=np.full((len(faces), 3, 2), 0.5, np.float32))
    PIL.Image.new("RGB", (8, 8), (200, 30, 30)).save(result / "albedo.png")
    (result / "result.json").write_text(json.dumps({"stats": {}, "restarts": 1}))
    shown: list[str] = []
    main(["--method", "The good one:", "--prompts", "1", "--seeds", "1", "--out", str(tmp_path)], shown.append)
    header, line, row = shown[-1].splitlines()
    assert header.count("|") == line.count("|") == row.count("|")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "The good one" and float(cells[1]) > 0.7 and float(cells[2]) < 0.03 and float(cells[3]) > 0.9
    assert float(cells[6]) < 12, "painted in the red of the prompt"
    assert cells[7:] == ["0 %", "100 %", "60", "1.25"]


def test_runs_without_a_mesh_count_as_collapsed_and_lower_the_shares() -> None:
    good = Outcome(Run("a", 60.0, 1.0, Score(0.9, 1.0, 0.5, 4.0), {}), ShapeScore(0.8, 0.02), 0)
    none = Outcome(Run("a", 20.0, 2.0, None, {}), None, 0)
    row = table({"half": [good, none], "nothing": [none]}).splitlines()
    assert row[2] == "| half | 0.800 | 0.0200 | 0.900 | 50 % | 25 % | 4.0 | 50 % | 0 % | 40 | 2.00 |"
    assert row[3] == "| nothing | - | - | - | 0 % | 0 % | - | 100 % | 0 % | 20 | 2.00 |"


@pytest.mark.parametrize("text", ["sds", ": --guidance.method sds", "  :"])
def test_what_is_no_method_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--method", text])
    assert "is no method; write for example" in capsys.readouterr().err


def test_a_method_is_a_name_and_options() -> None:
    method = parse_method("SDS, s = 50: --guidance.method sds --guidance.guidance-scale 50")
    assert method.folder == "sds-s-50" and method.options[-1] == "50"
