import numpy as np
import pytest
import torch

from engine.meshing import unwrap as unwrap_module
from engine.meshing.bake import bake_albedo, fill_gutters, seen_depth, vertex_normals
from engine.meshing.cleanup import decimate, smooth
from engine.meshing.isosurface import extract
from engine.meshing.turntable import sample_texture
from engine.meshing.unwrap import overlap_pixels, unwrap, uv_overlap
from tests.unit.meshing.known_fields import SHAPES, KnownField, color_of


@pytest.fixture(scope="module", params=["sphere", "table"])
def unwrapped(request):
    vertices, faces = extract(KnownField(SHAPES[request.param]).density_at, resolution=32, isovalue=20)
    vertices, faces = decimate(smooth(vertices, faces, 5), faces, 1200)
    return vertices, faces, unwrap(vertices, faces, texture_size=256)[0]


def surface_points(vertices, faces, corner_uvs, n=4000):
    """Random points of the surface and their UVs."""
    rng = np.random.default_rng(0)
    face = rng.integers(len(faces), size=n)
    weights = rng.dirichlet([1, 1, 1], n)
    return np.einsum("nk,nkd->nd", weights, vertices[faces[face]]), np.einsum("nk,nkd->nd", weights, corner_uvs[face])


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


def test_uv_map_has_no_overlap_and_uses_its_square(unwrapped):
    _, _, corner_uvs = unwrapped
    assert corner_uvs.min() >= 0 and corner_uvs.max() <= 1
    assert uv_overlap(corner_uvs, 256) == 0
    _, covered = overlap_pixels(corner_uvs, 256)
    u, v = corner_uvs[:, 1] - corner_uvs[:, 0], corner_uvs[:, 2] - corner_uvs[:, 0]
    assert abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum() / 2 > 0.4


def test_texels_are_about_square_and_of_one_size_on_the_surface(unwrapped):
    vertices, faces, corner_uvs = unwrapped
    world = np.linalg.norm(vertices[faces[:, [1, 2, 0]]] - vertices[faces], axis=2)
    in_uv = np.linalg.norm(corner_uvs[:, [1, 2, 0]] - corner_uvs, axis=2)
    ratio = (in_uv / world)[world > 0.02]
    assert np.quantile(ratio, 0.95) / np.quantile(ratio, 0.05) < 2


def test_overlapping_triangles_are_counted_and_named():
    triangle = np.array([[0.1, 0.1], [0.6, 0.1], [0.1, 0.6]])
    apart = np.stack([triangle, triangle + 0.35])
    assert overlap_pixels(np.stack([triangle, 0.9 - triangle + 0.05]), 64)[0] == 0
    count, faces = overlap_pixels(np.stack([triangle, triangle + 0.05, apart[1] + 0.5]), 64)
    assert count >= 300 and list(faces) == [0, 1]


def folding_atlas(monkeypatch, folded, times=1):
    """xatlas folds an island now and then; here always, the first `times` times. Returns the list of its calls."""
    real, calls = unwrap_module._atlas, []

    def folding(vertices, groups, texture_size, padding):
        result = real(vertices, groups, texture_size, padding)
        calls.append(len(groups))
        if len(calls) <= times:
            result[0][folded] = result[0][900 : 900 + len(folded)]
        return result

    monkeypatch.setattr(unwrap_module, "_atlas", folding)
    return calls


def test_a_few_overlapping_triangles_move_into_gaps_without_a_second_packing(unwrapped, monkeypatch):
    vertices, faces, _ = unwrapped
    calls = folding_atlas(monkeypatch, [5, 6, 7])
    corner_uvs, overlap = unwrap(vertices, faces, texture_size=256, padding=2)
    assert calls == [1] and overlap == 0 == uv_overlap(corner_uvs, 256)
    assert corner_uvs.min() >= 0 and corner_uvs.max() <= 1
    u, v = corner_uvs[:, 1] - corner_uvs[:, 0], corner_uvs[:, 2] - corner_uvs[:, 0]
    in_uv = abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    world = np.linalg.norm(np.cross(*(vertices[faces[:, i]] - vertices[faces[:, 0]] for i in (1, 2))), axis=1)
    moved = np.r_[5:8, 900:903]
    np.testing.assert_allclose(in_uv[moved].sum() / world[moved].sum(), in_uv.sum() / world.sum(), rtol=0.3)  # texels of one size


def test_moved_triangles_keep_padding_from_everything_else(unwrapped):
    vertices, faces, corner_uvs = unwrapped
    tidy = unwrap_module.move_to_gaps(corner_uvs, vertices, faces, np.array([3, 700]), 256, 2)
    for u, v in zip(tidy[[3, 700], 1] - tidy[[3, 700], 0], tidy[[3, 700], 2] - tidy[[3, 700], 0]):
        assert u[0] * v[1] - u[1] * v[0] > 0  # not mirrored
    others = np.delete(corner_uvs, [3, 700], axis=0)
    for face, other in ((3, 700), (700, 3)):
        grown = (
            tidy[face]
            + (tidy[face] - tidy[face].mean(0)) / np.linalg.norm(tidy[face] - tidy[face].mean(0), axis=1, keepdims=True) * 2 / 256
        )
        assert overlap_pixels(np.concatenate([others, tidy[[other]], grown[None]]), 512)[0] == 0


def test_without_room_nothing_is_moved(unwrapped):
    vertices, faces, corner_uvs = unwrapped
    assert unwrap_module.move_to_gaps(corner_uvs, vertices, faces, np.array([3]), 256, 64) is None


def test_many_overlapping_triangles_are_cut_off_and_packed_anew(unwrapped, monkeypatch):
    vertices, faces, _ = unwrapped
    calls = folding_atlas(monkeypatch, list(range(60)))
    corner_uvs, overlap = unwrap(vertices, faces, texture_size=256)
    assert calls == [1, 2] and overlap == 0 == uv_overlap(corner_uvs, 256)


@pytest.mark.parametrize("supersample", [1, 2])
def test_the_texture_shows_the_fields_color_at_every_surface_point(unwrapped, supersample):
    vertices, faces, corner_uvs = unwrapped
    texture, baked = bake_albedo(color_of, vertices, faces, corner_uvs, texture_size=256, supersample=supersample)
    points, uvs = surface_points(vertices, faces, corner_uvs)
    wanted = color_of(torch.from_numpy(points).float()).numpy()
    assert psnr(sample_texture(texture, uvs), wanted) > 38  # measured 41 to 45
    assert texture.dtype == np.float32 and 0.3 < baked.mean() < 1
    assert texture.min() > 0.29  # color_of is never darker: no texel is black, to the border


def test_a_constant_color_is_baked_exactly_everywhere(unwrapped):
    vertices, faces, corner_uvs = unwrapped
    color = torch.tensor([0.25, 0.5, 0.75])
    texture, _ = bake_albedo(lambda p: color.expand(len(p), 3), vertices, faces, corner_uvs, texture_size=128)
    np.testing.assert_allclose(texture, np.broadcast_to(color.numpy(), (128, 128, 3)), atol=1e-6)


def test_supersampling_blurs_a_checker_less_into_noise(unwrapped):
    vertices, faces, corner_uvs = unwrapped

    def stripes(p):
        return (0.5 + 0.5 * torch.sign(torch.sin(40 * p[:, :1]))).expand(-1, 3)

    points, uvs = surface_points(vertices, faces, corner_uvs)
    wanted = stripes(torch.from_numpy(points).float()).numpy()
    textures = [bake_albedo(stripes, vertices, faces, corner_uvs, texture_size=256, supersample=n)[0] for n in (1, 3)]
    one, three = (psnr(sample_texture(texture, uvs), wanted) for texture in textures)
    assert three > one


def test_even_an_island_smaller_than_a_texel_has_its_own_color():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5], [5.1, 5, 5], [5, 5.1, 5]], float)
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    corner_uvs = np.array([[[0.05, 0.05], [0.6, 0.05], [0.05, 0.6]], [[0.901, 0.901], [0.902, 0.901], [0.901, 0.902]]])
    texture, _ = bake_albedo(lambda p: (p / 6).clamp(0, 1), vertices, faces, corner_uvs, texture_size=32)
    np.testing.assert_allclose(sample_texture(texture, np.array([[0.9013, 0.9013]]))[0], [0.84, 0.84, 5 / 6], atol=0.01)


def test_gutters_take_the_nearest_baked_texel():
    texture = np.zeros((8, 8, 3))
    baked = np.zeros((8, 8), bool)
    texture[2, 1], texture[5, 7] = [1, 0, 0], [0, 0, 1]
    baked[2, 1] = baked[5, 7] = True
    filled = fill_gutters(texture, baked)
    np.testing.assert_array_equal(filled[0, 0], [1, 0, 0])
    np.testing.assert_array_equal(filled[7, 7], [0, 0, 1])
    assert (filled.sum(-1) == 1).all()
    with pytest.raises(ValueError, match="no texel is baked"):
        fill_gutters(texture, np.zeros((8, 8), bool))


def test_normals_of_a_ball_point_outward():
    vertices, faces = extract(KnownField(SHAPES["sphere"]).density_at, resolution=32, isovalue=20)
    normals = vertex_normals(vertices, faces)
    unit = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    assert (normals * unit).sum(1).min() > 0.95
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-5)


def test_seen_depth_of_a_hard_wall_is_one_mean_free_path():
    """Density sigma below z = 0: the expected depth of a ray straight down is 1 / sigma."""
    depth = seen_depth(lambda p: torch.where(p[:, 2] < 0, 100.0, 0.0), np.zeros((4, 3)), np.tile([0.0, 0, 1], (4, 1)), 0.02)
    np.testing.assert_allclose(depth, 0.01, atol=0.003)  # samples are 0.0067 apart
    np.testing.assert_allclose(seen_depth(lambda p: p[:, 0] * 0, np.zeros((4, 3)), np.tile([0.0, 0, 1], (4, 1)), 0.02), 0)


def test_reading_colors_below_the_cut_is_right_where_only_seen_places_have_learned_theirs():
    """A soft ball whose color is right only where training rays put weight, and gray elsewhere, as SDS leaves it."""
    field = KnownField(SHAPES["sphere"], peak=80, softness=0.03)

    def half_learned(p):
        depth = -field.sdf(p)
        # Along a radial ray: density peak * sigmoid(depth / s), so transmittance exp(-peak * s * softplus(depth / s)).
        weight = field.density_at(p) * torch.exp(-80 * 0.03 * torch.nn.functional.softplus(depth / 0.03))
        learned = (weight / 10).clamp(max=1)[:, None]  # the highest weight is 21
        return learned * color_of(p) + (1 - learned) * 0.5

    vertices, faces = extract(field.density_at, resolution=32, isovalue=3)  # about where silhouettes put it
    vertices, faces = decimate(vertices, faces, 1200)
    corner_uvs, _ = unwrap(vertices, faces, texture_size=128)
    points, uvs = surface_points(vertices, faces, corner_uvs)
    wanted = color_of(torch.from_numpy(points).float()).numpy()
    inset = seen_depth(field.density_at, vertices, vertex_normals(vertices, faces), 0.04)
    on, inside = (
        psnr(sample_texture(bake_albedo(half_learned, vertices, faces, corner_uvs, texture_size=128, inset=d)[0], uvs), wanted)
        for d in (None, inset)
    )
    assert inside > on + 6
