"""Random cameras and lights."""

import pytest
import torch

from engine.scene.cameras import camera_angles, camera_rays
from engine.scene.sampling import sample_cameras, sample_lights
from engine.scene.scene_config import CameraConfig, LightConfig


def draw(config, n=64, step=0, n_steps=100, seed=0):
    return sample_cameras(config, n, step, n_steps, generator=torch.Generator().manual_seed(seed))


def test_angles_and_distances_lie_in_their_ranges():
    config = CameraConfig(azimuth_deg=(-90, 45), elevation_deg=(-30, 10), radius=(2, 3), fov_y_deg=(20, 50))
    cameras = draw(config, 500)
    azimuth, elevation = camera_angles(cameras)
    assert -90.01 <= azimuth.min() < -80 and 35 < azimuth.max() <= 45.01
    assert -30.01 <= elevation.min() < -28 and 8 < elevation.max() <= 10.01
    radius = cameras.positions.norm(dim=-1)
    assert 2 <= radius.min() < 2.1 and 2.9 < radius.max() <= 3.0001
    fov = 2 * torch.rad2deg(torch.atan(cameras.window[:, 3]))
    assert 20 <= fov.min() < 22 and 48 < fov.max() <= 50.01


def test_stratified_cameras_see_the_object_from_all_round():
    for seed in range(20):
        azimuth = camera_angles(draw(CameraConfig(), 4, seed=seed))[0].sort().values
        gaps = torch.diff(azimuth, append=azimuth[:1] + 360)
        assert gaps.max() <= 180.01  # two draws in neighbouring quarters are at most two quarters apart


def test_the_parts_of_the_circle_turn_from_draw_to_draw():
    quarters = [((camera_angles(draw(CameraConfig(), 4, seed=seed))[0] + 180) // 90).unique() for seed in range(20)]
    assert min(len(each) for each in quarters) < 4, "always one camera in each fixed quarter: its borders are never looked across"


def test_uniform_placement_leaves_holes_that_stratified_does_not():
    def widest(placement):
        azimuths = [camera_angles(draw(CameraConfig(placement=placement), 4, seed=s))[0].sort().values for s in range(50)]
        return max(float(torch.diff(a, append=a[:1] + 360).max()) for a in azimuths)

    assert widest("uniform") > 200 > 180.01 >= widest("stratified")


def test_azimuths_are_spread_evenly_over_many_draws():
    azimuth = torch.cat([camera_angles(draw(CameraConfig(), 4, seed=s))[0] for s in range(500)])
    counts = torch.histc(azimuth, bins=8, min=-180, max=180)
    assert counts.min() > 0.8 * counts.mean()


def test_uniform_on_the_sphere_has_an_even_height():
    config = CameraConfig(elevation_deg=(-90, 90), uniform_sphere_ratio=1.0)
    height = torch.cat([c.positions[:, 2] / c.positions.norm(dim=-1) for c in (draw(config, 500, seed=s) for s in range(4))])
    counts = torch.histc(height, bins=5, min=-1, max=1)  # Archimedes: equal heights, equal areas
    assert counts.min() > 0.85 * counts.mean()


def test_a_progressive_run_starts_at_the_front_and_ends_with_the_whole_range():
    config = CameraConfig(progressive=(0.0, 0.0, 1.0, 1.0))
    azimuth, elevation = camera_angles(draw(config, step=0))
    assert azimuth.abs().max() < 1e-3 and (elevation - 15).abs().max() < 1e-3
    azimuth, _ = camera_angles(draw(config, 500, step=99))
    assert azimuth.min() < -170 and azimuth.max() > 170


def test_the_same_generator_state_draws_the_same_cameras_and_another_one_others():
    assert torch.equal(draw(CameraConfig()).camera_to_world, draw(CameraConfig()).camera_to_world)
    assert not torch.equal(draw(CameraConfig()).camera_to_world, draw(CameraConfig(), seed=1).camera_to_world)


@pytest.mark.parametrize("elevation", [0.0, 60.0, 90.0, -90.0])
def test_jittered_cameras_stay_rigid_and_look_near_the_origin(elevation):
    config = CameraConfig(elevation_deg=(elevation, elevation), position_jitter=0.2, target_jitter=0.1, roll_deg=5)
    cameras = draw(config, 200)
    rotation = cameras.camera_to_world[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(200), atol=1e-5)
    rays_o, rays_d = camera_rays(cameras, 1, 1)
    distance = torch.linalg.cross(rays_d, rays_o).norm(dim=-1)
    assert 0.02 < distance.mean() < 0.3


def test_without_jitter_every_camera_looks_at_the_origin():
    rays_o, rays_d = camera_rays(draw(CameraConfig()), 1, 1)
    assert torch.linalg.cross(rays_d, rays_o).norm(dim=-1).max() < 1e-5


def test_lights_are_unit_vectors_on_the_camera_side():
    cameras = draw(CameraConfig(), 500)
    lights = sample_lights(LightConfig(), cameras, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(lights.norm(dim=-1), torch.ones(500), atol=1e-5)
    toward_camera = (lights * torch.nn.functional.normalize(cameras.positions, dim=-1)).sum(-1)
    assert (toward_camera > 0).float().mean() > 0.95
    assert lights[:, 2].mean() > (cameras.positions[:, 2] / cameras.positions.norm(dim=-1)).mean(), "the light hangs above the camera"


def test_without_spread_and_lift_the_light_is_at_the_camera():
    cameras = draw(CameraConfig())
    lights = sample_lights(LightConfig(spread=0.0, lift=0.0), cameras, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(lights, torch.nn.functional.normalize(cameras.positions, dim=-1), atol=1e-6)


def test_four_views_stand_a_quarter_apart_with_one_height_distance_and_lens():
    config = CameraConfig(placement="four-view", elevation_deg=(-20, 60), radius=(2, 3), fov_y_deg=(20, 50))
    cameras = draw(config, 12)
    azimuth, elevation = camera_angles(cameras)
    groups = azimuth.view(3, 4)
    turns = (groups - groups[:, :1]) % 360
    torch.testing.assert_close(turns, torch.tensor([0.0, 90, 180, 270]).expand(3, 4), atol=1e-3, rtol=0)
    for values in (elevation, cameras.positions.norm(dim=-1), cameras.window[:, 3]):
        each = values.view(3, 4)
        torch.testing.assert_close(each, each[:, :1].expand(3, 4), atol=1e-4, rtol=0)
        assert len(each[:, 0].unique()) == 3
    rotation = cameras.camera_to_world[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(12, 3, 3), atol=1e-5, rtol=0)


def test_four_views_turn_a_jittered_camera_as_a_whole():
    cameras = draw(CameraConfig(placement="four-view", position_jitter=0.3, target_jitter=0.1, roll_deg=10), 4)
    there_and_back = torch.tensor([[-1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(cameras.camera_to_world[2], there_and_back @ cameras.camera_to_world[0], atol=1e-5, rtol=0)


def test_a_batch_that_is_not_made_of_fours_is_refused():
    with pytest.raises(ValueError, match="a batch of 6 views is not made of groups of 4"):
        draw(CameraConfig(placement="four-view"), 6)
