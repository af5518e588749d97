"""What a user can get wrong: one sentence, the fix, exit code 2, and nothing that looks finished."""

import json
import os
import shutil

import pytest

from engine.cli import main


def refused(run, text, folder_stays_away=True):
    assert run.code == 2, run.err
    assert run.err.count("\n") == 1 and run.err.startswith("Error: ") and "Traceback" not in run.err
    assert text in run.err
    (failed,) = run.of("failed")
    assert failed["fix"], "an error without a fix"
    assert run.err == f"Error: {failed['text']} {failed['fix']}\n"
    if folder_stays_away:
        assert not run.folder.exists(), "a refused job leaves nothing"
    assert not (run.folder / "result").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([""], "The prompt is empty."),
        (["  "], "The prompt is empty."),
        ([], "The prompt is missing."),
        (["--model", "toybox-image"], "Toybox from a picture makes an object from a picture, and none was given."),
        (["mug " * 2500], "The prompt has 10,000 letters"),
        (["a mug \N{HOT BEVERAGE}"], "holds the sign \N{HOT BEVERAGE}"),
        (["a mug\na spoon"], "has a line break"),
        (
            ["a mug", "--preset", "drafd"],
            "preset is 'drafd', but must be one of draft, standard, high, zero123, mvdream, stable-dreamfusion",
        ),
        (["a mug", "--seed", "zero"], "seed is 'zero', but must be a whole number."),
        (["a mug", "--seed", "-1"], "seed is -1"),
        (["a mug", "--device", "tpu"], "device is 'tpu'"),
        (["a mug", "--training.n-stepz", "3"], "There is no option '--training.n-stepz'. Did you mean --training.n-steps?"),
        (["--prompt", "a mug"], "There is no option '--prompt'. It is one of texture and refine. Those of this command: python"),
        (["a mug", "--training.n-steps", "0"], "training.n-steps is 0"),
        (["a mug", "--training.n-steps"], "expected one argument"),
        (["a mug", "--camera.elevation_deg", "-10,-60"], "camera.elevation-deg is -10,-60"),
        (["a mug", "--guidance.method", "sds", "--guidance.space", "latent"], "has no effect with guidance.method sds"),
        (["a mug", "--resume", "--overwrite"], "exclude each other"),
        (["a mug", "--field.encoding", "frequency"], "waves need a network that reads them"),
        (["a mug", "--field.hidden-layers", "2"], "field.hidden-width is 0, so there is no layer at all"),
        (["a mug", "--light.normal-ratio", "0.6"], "add up to 1.1, but must not exceed 1"),
        (["a mug", "--render.background", "solid", "--render.gray-background", "true"], "render.background is solid and draws nothing"),
        (["a mug", "--output.turntable-frames", "0", "--output.field-videos", "depth"], "but output.turntable-frames is 0"),
        (["a mug", "--output.field-videos", "heat"], "output.field-videos holds 'heat', but knows color, depth"),
        (["a mug", "--resume"], "There is no job in"),
        (["--resume", "--seed", "3"], "so --seed has no effect"),
        (["a mug", "and", "a spoon"], "There is no option 'and'"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_wrong_words_are_refused_before_anything_is_written(generate, words, text):
    refused(generate(*words, small=False), text)


def test_an_unknown_model_lists_the_known_ones(generate):
    refused(generate("a mug", "--model", "sd99", small=False), "model is 'sd99', but must be one of toybox, sd21-base")


def test_a_folder_that_is_no_model_is_refused(generate, tmp_path):
    (tmp_path / "notes").mkdir()
    refused(generate("a mug", "--model", str(tmp_path / "notes"), small=False), "lacks tokenizer, text_encoder, unet, vae, scheduler")


def test_a_model_that_is_not_installed_says_how_to_get_it(generate, monkeypatch, tmp_path):
    monkeypatch.setenv("DREAMFUSION_MODELS", str(tmp_path))
    monkeypatch.setattr("engine.guidance.model_table._cached", lambda source: None)
    refused(generate("a mug", "--model", "sd21-base", small=False), "is not on this machine")


def half(broken):
    """As a download that was broken off leaves it."""
    path = next((broken / "unet").glob("*.safetensors"))
    os.truncate(path, path.stat().st_size // 2)


def pickled(broken):
    next((broken / "unet").glob("*.safetensors")).rename(broken / "unet" / "diffusion_pytorch_model.bin")


def with_code(broken):
    (broken / "vae" / "my_vae.py").write_text("raise SystemExit('it ran')")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (half, "is cut off: it has"),
        (pickled, "unet holds its weights as a pickle only, which can run code. Get the model with .safetensors files"),
        (with_code, "vae holds Python code (my_vae.py), so its weights need code that this program never runs. Choose a model"),
    ],
)
def test_a_model_folder_that_is_not_whole_or_not_safe_is_refused_before_anything_is_written(generate, model, tmp_path, change, text):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    change(broken)
    refused(generate("a mug", "--model", str(broken), small=False), text)


def test_a_shipped_or_fetched_model_that_got_damaged_is_a_sentence_too(generate, model, tmp_path, monkeypatch):
    root = tmp_path / "models"
    shutil.copytree(model, root / "sd21-base")
    half(root / "sd21-base")
    monkeypatch.setenv("DREAMFUSION_MODELS", str(root))
    refused(generate("a mug", "--model", "sd21-base", small=False), "cannot be loaded", folder_stays_away=False)


def test_a_gpu_that_is_not_there_is_refused(generate):
    import torch

    run = generate("a mug", "--device", f"cuda:{torch.cuda.device_count() + 5}")
    refused(run, "torch sees no such GPU", folder_stays_away=False)


def test_a_folder_in_a_folder_that_is_missing_is_made_with_the_job_and_not_before(generate, tmp_path):
    folder = tmp_path / "no" / "such" / "job"
    refused(generate("", folder=folder), "The prompt is empty")
    refused(generate("--resume", folder=folder, small=False), f"There is no job in {folder} to resume")
    assert not (tmp_path / "no").exists()
    run = generate("a red mug", folder=folder)
    assert run.code == 0, run.err
    assert (folder / "result/mesh.npz").is_file()


def test_a_folder_in_a_file_is_refused(generate, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(generate("a mug", folder=tmp_path / "file" / "sub" / "job"), f"{tmp_path / 'file'}, in which the output shall lie, is a file.")


def test_an_output_folder_that_is_a_file(generate, tmp_path):
    (tmp_path / "job").write_text("mine")
    run = generate("a mug")
    assert run.code == 2 and "is a file" in run.err
    assert (tmp_path / "job").read_text() == "mine"


def test_an_output_folder_with_other_files_is_left_alone(generate, tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "taxes.txt").write_text("mine")
    for words in ((), ("--overwrite",)):
        run = generate("a mug", *words)
        assert run.code == 2 and "holds other files" in run.err
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["taxes.txt"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(generate, tmp_path):
    tmp_path.chmod(0o500)
    try:
        refused(generate("a mug"), "cannot be written to")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_without_rights_is_refused_also_for_root(generate, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.job_folder.os.access", lambda path, mode: False)
    refused(generate("a mug"), f"The folder {tmp_path} cannot be written to. Use another --out.")


def test_a_full_disk_is_found_before_the_work(generate, monkeypatch):
    monkeypatch.setattr("engine.job_folder.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 5 << 20))
    refused(generate("a mug"), "has 5 MB left, but a job needs 200 MB")


@pytest.fixture
def started(generate, monkeypatch):
    """A job that ended after its first checkpoint."""

    def stop(run, trainer):
        from engine.errors import UserError

        raise UserError("Stopped.", "Go on.", "test")

    with monkeypatch.context() as patch:
        patch.setattr("engine.jobs._mesh", stop)
        run = generate("a red mug")
    assert run.code == 2 and list((run.folder / "checkpoints").iterdir())
    return run.folder


def test_a_second_job_in_the_same_folder_needs_a_word(generate, started):
    run = generate("a red mug")
    assert run.code == 2 and "already holds a job. Use --resume to continue it, --overwrite to replace it" in run.err
    again = generate("a blue mug", "--overwrite")
    assert again.code == 0
    assert json.loads((again.folder / "job.json").read_text())["request"]["prompt"] == "a blue mug"


def test_resuming_with_another_prompt_is_a_contradiction(generate, started):
    run = generate("a blue mug", "--seed", "9", "--resume")
    assert run.code == 2 and "was started with another prompt and seed" in run.err


def test_a_job_is_resumed_with_its_own_words_or_with_none(generate, started):
    assert generate("--resume", small=False).code == 0


def test_a_checkpoint_that_was_cut_short(generate, started):
    (path,) = (started / "checkpoints").iterdir()
    os.truncate(path, path.stat().st_size - 100)
    run = generate("--resume", small=False)
    assert run.code == 2 and "damaged or was cut short. Delete it to start this job again from the beginning." in run.err
    assert not (started / "result").exists()
    path.unlink()
    assert generate("--resume", small=False).code == 0


def test_a_checkpoint_of_another_version_or_of_other_settings(generate, started):
    from safetensors.torch import save_file

    from engine.training.checkpoint import load_checkpoint

    (path,) = (started / "checkpoints").iterdir()
    checkpoint = load_checkpoint(path)
    tensors = {f"{part}/{name}": value for part, values in checkpoint.parts.items() for name, value in values.items()}
    save_file(tensors, str(path), metadata={"dreamfusion": json.dumps(checkpoint.meta | {"format": 99})})
    run = generate("--resume", small=False)
    assert run.code == 2 and "is of another version of the engine. Delete it to start this job again" in run.err
    tensors["field/encoding.levels.0"] = tensors["field/encoding.levels.0"][:2].clone()
    save_file(tensors, str(path), metadata={"dreamfusion": json.dumps(checkpoint.meta)})
    run = generate("--resume", small=False)
    assert run.code == 2 and "does not fit this job's settings. Start again in another folder." in run.err
    assert not (started / "result").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"request": 3}', '{"request": {"prompt": "x"}, "config": {"nonsense": {}}}'])
def test_a_damaged_job_file(generate, tmp_path, damage):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.json").write_text(damage)
    run = generate("--resume", small=False)
    assert run.code == 2 and "Traceback" not in run.err and run.of("failed")[0]["fix"]


def test_an_unknown_command_and_no_command(capsys):
    assert main(["make"]) == 2 and "invalid choice: 'make'" in capsys.readouterr().err
    assert main([]) == 2 and "Error: " in capsys.readouterr().err
    assert main(["generate", "x", "--nope", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "option"
