"""Settings: presets, overrides, JSON, and one sentence with the fix for whatever is wrong."""

import dataclasses
import json
import subprocess
import sys
import typing

import PIL.Image
import pytest

from engine.config import PRESETS, check_request, config_from_json, config_to_json, default_text, make_config, options
from engine.errors import UserError
from engine.options import field_docs, parse_value
from engine.protocol import JobRequest


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_survives_json(preset):
    config = make_config(preset, {})
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize("preset", PRESETS)
def test_every_value_as_text_gives_the_same_value_again(preset):
    texts = {key: default_text(option, preset) for key, option in options().items()}
    assert make_config("draft", texts) == make_config(preset, {})


def test_the_users_value_wins_over_the_presets():
    assert make_config("high", {"training.n_steps": "7"}).training.n_steps == 7
    assert make_config("high", {}).training.n_steps != 7


def test_dashes_may_stand_for_underscores():
    assert make_config("draft", {"training.n-steps": "7"}).training.n_steps == 7


def test_every_option_says_what_it_does_and_its_range_if_it_is_a_number():
    for option in options().values():
        assert option.help.endswith((".", "?")), option.key
        if option.kind in (int, float):
            assert ".." in option.help, f"{option.key} does not say its range"


def test_configs_are_frozen():
    config = make_config("draft", {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.n_steps = 3


@pytest.mark.parametrize(
    ("key", "text", "error"),
    [
        ("training.n_steps", "0", r"training.n-steps is 0, but must lie in 1\.\.1000000"),
        ("training.n_steps", "many", "training.n-steps is 'many', but must be a whole number. Use for example --training.n-steps 1"),
        ("training.n_steps", "1.5", "must be a whole number"),
        ("guidance.guidance_scale", "strong", "must be a number"),
        ("guidance.guidance_scale", "nan", "must be a finite number"),
        ("guidance.method", "sjc", "guidance.method is 'sjc', but must be one of image-target, sds, csd"),
        ("guidance.timestep_weight", "sigma", "which guidance.method image-target does not know"),
        ("guidance.t_low", "0.9", "guidance.t-low is 0.9, but must not exceed guidance.t-high"),
        ("camera.elevation_deg", "60,-10", "must be two numbers in -90..90, the lower first"),
        ("camera.elevation_deg", "1,2,3", "must be 2 numbers with commas between"),
        ("camera.fov_y_deg", "0,40", "must be two numbers in 1..120"),
        ("render.gray_background", "maybe", "must be true or false"),
        ("light.textureless_ratio", "0.9", "add up to 1.25, but must not exceed 1"),
        ("light.normal_ratio", "0,0.2,1,0.6", "At step .* light.normal-ratio add up to 1.0.*, but must not exceed 1"),
        ("render.background_color", "white", "render.background-color is 'white', but must be # and six hexadecimal digits"),
        ("render.occupancy_cascades", "5", r"render.occupancy-cascades is 5, but must lie in 1\.\.4"),
        ("render.cone_angle", "0.3", r"render.cone-angle is 0.3, but must lie in 0\.\.0.2"),
        ("field.encoding", "frequency", "waves need a network that reads them"),
        ("field.background_encoding", "sh", "field.background-encoding is 'sh', but must be one of frequency, spherical-harmonics"),
        ("field.background_degree", "9", r"field.background-degree is 9, but must lie in 1\.\.8"),
        ("field.table_precision", "half", "field.table-precision is 'half', but must be one of float32, float16"),
        ("field.table_precision", "float16", "but field.encoding dense has no table that would be read so. .*--field.encoding hash"),
        ("output.formats", "glb,fbx", "holds 'fbx', but knows glb, obj and ply"),
        ("output.turntable_frames", "-3", "output.turntable-frames is -3"),
        ("training.batch_sise", "3", "There is no setting 'training.batch_sise'. Did you mean --training.batch-size"),
        ("n_steps", "3", "There is no setting 'n_steps'"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_the_fix(key, text, error):
    with pytest.raises(UserError, match=error) as raised:
        make_config("draft", {key: text})
    assert raised.value.fix and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("method", "key", "text", "error"),
    [
        ("sds", "n_ddim_steps", "4", "guidance.n-ddim-steps has no effect with guidance.method sds. .* --guidance.method image-target"),
        ("sds", "negative_scale", "0.5", "guidance.negative-scale has no effect with guidance.method sds. .* --guidance.method csd"),
        ("image-target", "bridge", "1", "guidance.bridge has no effect with guidance.method image-target"),
        ("nfsd", "flaws", "gray", "guidance.flaws has no effect with guidance.method nfsd. .* --guidance.method sds-bridge"),
        ("ism", "inversion_eta", "0.5", "guidance.inversion-eta has no effect with guidance.method ism. .* --guidance.method sdi"),
        ("sdi", "inversion_gap", "0.5", "guidance.inversion-gap has no effect with guidance.method sdi. .* --guidance.method ism"),
        ("sdi", "timestep_weight", "sigma", "which guidance.method sdi does not know. Use one of auto, uniform, sds"),
        ("csd", "timestep_weight", "sds", "which guidance.method csd does not know. Use one of auto, sigma, uniform, x0"),
        ("sds-bridge", "flaws", " ", "guidance.flaws is empty"),
        ("sds", "perp_neg", "11", r"guidance.perp-neg is 11, but must lie in 0\.\.10"),
        ("ism", "n_inversion_steps", "51", r"guidance.n-inversion-steps is 51, but must lie in 0\.\.50"),
    ],
)
def test_settings_that_a_guidance_does_not_know_are_refused(method, key, text, error):
    with pytest.raises(UserError, match=error):
        make_config("draft", {"guidance.method": method, f"guidance.{key}": text})


@pytest.mark.parametrize(("key", "name"), [("perp_neg", "perp-neg"), ("prompt_side", "prompt-side")])
def test_settings_about_views_need_view_prompts(key, name):
    with pytest.raises(UserError, match=f"guidance.{name} needs view prompts, but guidance.view-prompts is off"):
        make_config("draft", {"guidance.view_prompts": "off", f"guidance.{key}": "1"})


def test_a_prompt_for_one_view_is_checked_like_the_prompt():
    with pytest.raises(UserError, match="The guidance.prompt-side has a line break"):
        check_request(JobRequest(prompt="a mug", overrides={"guidance.prompt_side": "a mug\nwith a handle"}))


def test_what_trains_the_u_net_cannot_have_it_taken_apart():
    with pytest.raises(UserError, match="vsd trains a part of the U-Net.* Use --vram normal"):
        make_config("draft", {"guidance.method": "vsd", "model.vram": "low"})


def test_a_solid_background_draws_no_grays():
    with pytest.raises(UserError, match="render.background is solid and draws nothing. Leave --render.gray-background out"):
        make_config("draft", {"render.background": "solid", "render.gray_background": "true"})


def test_a_finer_grid_fits_into_the_cells_of_a_coarser_one():
    settings = {"render.occupancy_cascades": "2", "render.occupancy_resolution": "50"}
    with pytest.raises(UserError, match="but 4 does not divide the 50 cells of render.occupancy-resolution. Use .*resolution 48"):
        make_config("draft", settings)
    assert make_config("draft", settings | {"render.occupancy_cascades": "1"}).render.occupancy_resolution == 50


@pytest.mark.parametrize(
    ("encoding", "key", "value", "error"),
    [
        (
            "frequency",
            "loss.lambda_grid_tv",
            "5",
            "field.encoding frequency, which stores no grid. Use --loss.lambda-smooth",
        ),
        ("frequency", "loss.lambda_grid_tv", "0,0,1,5", "loss.lambda-grid-tv has no effect"),
        ("tcnn", "loss.lambda_grid_tv", "5", "no effect with field.encoding tcnn, which keeps its grid to itself"),
        ("frequency", "optimizer.weight_decay", "0.1", "optimizer.weight-decay has no effect with field.encoding frequency"),
    ],
)
def test_what_acts_on_a_grid_needs_one(encoding, key, value, error):
    settings = {"field.encoding": encoding, "field.hidden_width": "16"}
    with pytest.raises(UserError, match=error):
        make_config("draft", settings | {key: value})
    make_config("draft", settings | {key: "0,0,1,0" if "," in value else "0"})
    make_config("draft", settings | {key: value, "field.encoding": "hash"})


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(UserError, match="preset is 'drafty', but must be one of draft, standard, high, .*Use --preset draft"):
        make_config("drafty", {})


def test_a_setting_of_another_version_in_json_is_refused():
    data = config_to_json(make_config("draft", {}))
    data["training"]["epochs"] = 3
    with pytest.raises(UserError, match="training.epochs is no setting of this version"):
        config_from_json(data)


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("", "The prompt is empty"),
        ("   ", "The prompt is empty"),
        ("mug " * 2500, "The prompt has 10,000 letters, but at most 1,000 are read"),
        ("a mug\nand a spoon", "The prompt has a line break"),
        ("a mug\u2028and a spoon", "The prompt has a line break"),
        ("a \N{TEACUP WITHOUT HANDLE} mug", "holds the sign \N{TEACUP WITHOUT HANDLE}"),
        ("a mug \N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-3}", "holds the sign"),
        ("a \x00 mug", r"holds the sign U\+0000"),
        ("a \ud800 mug", r"holds the sign U\+D800"),
        ("a \u202emug", r"holds the sign U\+202E"),
    ],
)
def test_a_prompt_that_no_encoder_reads_is_refused(prompt, error):
    with pytest.raises(UserError, match=error) as raised:
        check_request(JobRequest(prompt=prompt))
    assert raised.value.code == "prompt" and len(str(raised.value)) < 200


@pytest.mark.parametrize("prompt", ["a red mug", "café, rouge – très “beau”!", "マグカップ", "a mug's 3 handles; 50% bigger"])
def test_prompts_in_any_language_are_taken(prompt):
    check_request(JobRequest(prompt=prompt))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"device": "tpu"}, "device is 'tpu', but must be auto, cpu, cuda or cuda:N"),
        ({"negative": "x" * 2000}, "The negative has 2,000 letters"),
        ({"reference_image": "/x.png"}, "There is no picture /x.png"),
        ({"start_mesh": "/x.glb", "start_from": "/x"}, "only one can be"),
    ],
)
def test_what_else_can_be_wrong_with_a_request(change, error):
    with pytest.raises(UserError, match=error):
        check_request(JobRequest(prompt="a mug", **change))


def test_numbers_and_words_are_parsed_by_their_type():
    assert parse_value("0,1,0.5,2", float | tuple[float, ...], "x") == (0.0, 1.0, 0.5, 2.0)
    assert parse_value("[1, 2]", tuple[float, float], "x") == (1.0, 2.0)
    assert parse_value("on", bool, "x") is True
    assert parse_value("b", typing.Literal["a", "b"], "x") == "b"


def test_field_docs_are_the_strings_under_the_fields():
    from engine.training.training_config import TrainingConfig

    assert field_docs(TrainingConfig)["n_steps"] == "Steps of the run. 1..1000000."


def test_reading_the_settings_and_the_command_line_does_not_import_torch():
    code = "import sys, engine.cli, engine.jobs, engine.server; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["False", "False"]


def test_a_model_prompted_by_a_picture_gets_no_clay_unless_told_to(tmp_path):
    picture = PIL.Image.new("RGB", (64, 64), (255, 255, 255))
    picture.paste((200, 20, 20), (16, 16, 48, 48))
    picture.save(tmp_path / "mug.png")

    def ratio(model, **overrides):
        asked = {f"light.{name}": value for name, value in overrides.items()}
        request = JobRequest(prompt="a mug", model=model, reference_image=str(tmp_path / "mug.png"), overrides=asked)
        return check_request(request).light.textureless_ratio

    by_default = make_config("draft", {}).light.textureless_ratio
    assert by_default > 0 and ratio("toybox") == by_default
    assert ratio("toybox-image") == ratio("zero123-xl") == 0
    assert ratio("toybox-image", textureless_ratio="0.1") == 0.1
    assert ratio("no such model") == by_default, "what is no model is told later, in a sentence of its own"
