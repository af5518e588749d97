"""Each field, blob, background, shading and way of looking makes a mesh through the whole job."""

import json

import pytest

WAVES = ("--field.encoding", "frequency", "--field.hidden-width", "16", "--field.hidden-layers", "2")

JOBS = {
    "waves, a cloud, a solid background": (
        *WAVES, "--field.blob", "gaussian", "--render.background", "solid", "--render.background-color", "#204060",
        "--light.normal-ratio", "0.5", "--light.textureless-ratio", "0.25", "--light.lambertian-ratio", "0.25",
    ),
    "hash tables, exp, a ball, a learned surrounding, differences": (
        "--field.encoding", "hash", "--field.features", "2", "--field.hidden-width", "8", "--field.activation", "exp",
        "--field.blob", "sphere", "--field.density-scale", "1", "--field.normals", "finite_difference", "--render.background", "mixed",
        "--light.textureless-ratio", "0.5", "--light.lambertian-ratio", "0.5", "--loss.lambda-orientation", "10",
    ),
    "a surrounding by spherical harmonics": (
        "--render.background", "learned", "--field.background-encoding", "spherical-harmonics", "--field.background-degree", "4",
    ),
    "hash tables read in half precision, exact normals": (
        "--field.encoding", "hash", "--field.features", "2", "--field.hidden-width", "8", "--field.table-precision", "float16",
        "--light.textureless-ratio", "0.5", "--light.lambertian-ratio", "0.5", "--loss.lambda-orientation", "10",
    ),
    "every way of looking": (
        "--camera.azimuth-deg", "-90,90", "--camera.elevation-deg", "-10,80", "--camera.radius", "2.5,3", "--camera.fov-y-deg", "30,50",
        "--camera.placement", "uniform", "--camera.uniform-sphere-ratio", "0.5", "--camera.position-jitter", "0.2",
        "--camera.target-jitter", "0.1", "--camera.roll-deg", "3", "--camera.progressive", "0,0.2,0.4,1",
        "--guidance.view-prompts", "named", "--camera.front-deg", "60", "--camera.overhead-deg", "40",
        "--training.max-level", "0,0.25,0.4,1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", JOBS.values(), ids=JOBS.keys())
def test_it_makes_a_mesh(generate, words):
    run = generate("a red mug", last=(*words, "--mesh.isovalue", "0.5"))
    assert run.code == 0, run.err
    info = json.loads((run.folder / "result" / "result.json").read_text())
    assert info["steps_done"] == 6 and info["stats"]["n_faces"] > 20 and info["stats"]["open_edges"] == 0
    asked = dict(zip((word[2:].replace("-", "_") for word in words[0::2]), words[1::2]))
    for key, text in asked.items():
        group, name = key.split(".")
        assert str(info["config"][group][name]).strip("[]").replace(" ", "").replace(".0", "") == text.replace(".0", ""), key


def test_without_tinycudann_the_job_says_so_and_leaves_no_result(generate, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tinycudann", None)
    run = generate("a red mug", last=("--field.encoding", "tcnn", "--field.hidden-width", "16"))
    (failed,) = run.of("failed")
    assert run.code == 2 and "tinycudann cannot be used here" in failed["text"] and "--field.encoding hash" in failed["fix"]
    assert not (run.folder / "result").exists()
