"""Which build, from where, how large: what the set-up says before it does anything. Recorded answers of the tools, no hardware."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from blender_dreamfusion.core import hardware, setup_plan
from blender_dreamfusion.core.hardware import BasePython, Gpu
from blender_dreamfusion.core.setup_plan import AUTOMATIC, Findings, make_plan, obstacles, read_builds, recommended_build

ROOT = Path(__file__).resolve().parents[3]
SMI = "NVIDIA GeForce RTX 4070, 12282, 580.65.06, 8.9\nNVIDIA GeForce GTX 1080, 8192, 580.65.06, 6.1\n"
FOUND = Findings(
    platform="linux-x64", gpus=(), pythons=(BasePython("/usr/bin/python3", "3.12.3"),), folder="/e", folder_kind="new", free_mb=1e6
)


def tools(**answers: str):
    return lambda command: answers.get(Path(command[0]).name.replace("-", "_"), "")


def test_nvidia_cards_are_read_with_memory_and_driver():
    gpus = hardware.find_gpus(tools(nvidia_smi=SMI), "windows-x64")
    assert gpus[0] == Gpu("cuda", "NVIDIA GeForce RTX 4070", 12282, "580.65.06", 8.9)
    assert gpus[0].sentence == "NVIDIA GeForce RTX 4070, 12 GB, driver 580.65.06" and len(gpus) == 2
    odd = "NVIDIA GB10, [N/A], 580.1, 12.1\nNo devices were found\n"
    assert [gpu.vram_mb for gpu in hardware.find_gpus(tools(nvidia_smi=odd), "linux-x64", Path("/nowhere"))] == [0]


def test_amd_cards_come_from_the_kernel_and_small_ones_are_left_out(tmp_path):
    for number, (vendor, gigabytes) in enumerate([("0x1002", 16), ("0x1002", 1), ("0x8086", 8)]):
        device = tmp_path / f"sys/class/drm/card{number}/device"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "mem_info_vram_total").write_text(str(gigabytes << 30))
    (tmp_path / "sys/class/drm/card0-HDMI-A-1").mkdir()
    rocminfo = "  Marketing Name:          AMD Ryzen 9 7950X\n  Marketing Name:          AMD Radeon RX 7800 XT\n"
    assert hardware.find_gpus(tools(rocminfo=rocminfo), "linux-x64", tmp_path) == [], "no compute driver, no use"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    assert hardware.find_gpus(tools(rocminfo=rocminfo), "linux-x64", tmp_path) == [Gpu("rocm", "AMD Radeon RX 7800 XT", 16384)]
    assert hardware.find_gpus(tools(), "linux-x64", tmp_path)[0].name == "AMD graphics card"
    assert hardware.find_gpus(tools(), "windows-x64", tmp_path) == []


def test_apple_silicon_is_a_card_and_an_intel_mac_has_none():
    run = lambda command: {"hw.memsize": "17179869184\n", "machdep.cpu.brand_string": "Apple M3\n"}.get(command[-1], "")  # noqa: E731
    assert hardware.find_gpus(run, "macos-arm64") == [Gpu("mps", "Apple M3", 16384)]
    assert hardware.find_gpus(run, "macos-x64") == []


def test_tools_that_are_missing_fail_or_hang_answer_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "TOOL_TIMEOUT_S", 0.2)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 5\n")
    slow.chmod(0o755)
    assert [hardware.run_tool([name]) for name in ("/nowhere/nvidia-smi", "false", str(slow))] == ["", "", ""]


@pytest.mark.parametrize(
    ("system", "machine", "tag"),
    [("linux", "x86_64", "linux-x64"), ("win32", "AMD64", "windows-x64"), ("darwin", "arm64", "macos-arm64")],
)
def test_system_is_named_as_in_manifests(system, machine, tag):
    assert hardware.platform_tag(system, machine) == tag


def test_pythons_are_judged_and_those_that_were_named_come_first(tmp_path):
    answers = {
        "/blender/python3.11": "3|11|7|/blender/python3.11|ensurepip\n",
        "/p/python3.13": "3|13|1|/p/python3.13\n",
        "/p/python3": "3|13|1|/p/python3.13\n",
        "/old": "3|9|1|/old\n",
    }
    found = [hardware.about_python(path, lambda command: answers.get(command[0], "")) for path in [*answers, "/bin/ls"]]
    assert [python.reason.partition(",")[0] for python in found] == [
        "Python 3.11.7 lacks ensurepip",
        "",
        "",
        "Python 3.9.1 does not fit: the engine needs 3.11",
        "/bin/ls is no Python that runs here",
    ]
    for name in ("python3.13", "python3"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    run = lambda command: answers.get(command[0].replace(str(tmp_path), "/p"), "")  # noqa: E731
    pythons = hardware.find_pythons(["/blender/python3.11", ""], {"PATH": str(tmp_path)}, run)
    assert [python.path for python in pythons] == ["/blender/python3.11", "/p/python3.13"], "the same Python is listed once"
    assert replace(FOUND, pythons=tuple(pythons)).python.path == "/p/python3.13", "Blender's own cannot: another is taken"


def test_this_python_is_found_for_real():
    import sys

    (python, *_) = hardware.find_pythons([sys.executable], {"PATH": ""})
    assert python.reason == "" and python.version == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("platform", "gpus", "build"),
    [
        ("linux-x64", [], "cpu"),
        ("linux-x64", [Gpu("cuda", "RTX", 12000, "580.65.06", 8.9)], "cuda"),
        ("windows-x64", [Gpu("cuda", "RTX", 12000, "566.36", 8.9)], "cuda_legacy"),
        ("linux-x64", [Gpu("cuda", "GTX 1080", 8000, "580.65.06", 6.1)], "cuda_legacy"),
        ("linux-x64", [Gpu("rocm", "RX", 16000)], "rocm"),
        ("windows-x64", [Gpu("rocm", "RX", 16000)], "cpu"),
        ("macos-arm64", [Gpu("mps", "M3", 16000)], "mps"),
        ("macos-arm64", [], "mps"),
        ("macos-x64", [], ""),
        ("linux-arm64", [], ""),
    ],
)
def test_build_follows_from_the_hardware(platform, gpus, build):
    assert recommended_build(read_builds(ROOT, platform).builds, gpus) == build


def test_plan_names_what_is_fetched_from_where_and_how_large():
    table = read_builds(ROOT, "linux-x64")
    plan = make_plan(table, FOUND, AUTOMATIC, ROOT)
    assert plan.sources == "download.pytorch.org and pip's own index" and plan.torch.startswith("torch==")
    assert plan.base_python == "/usr/bin/python3" and Path(plan.launcher).is_file() and Path(plan.requirements).is_file()
    assert plan.disk_mb > plan.download_mb > 300
    assert make_plan(table, FOUND, "cuda", ROOT).download_mb > 2000
    mirrored = make_plan(table, FOUND, "cpu", ROOT, torch_index="https://mirror.example/torch", package_index="file:///wheels")
    assert mirrored.sources == "mirror.example and file:///wheels" and mirrored.is_online
    assert make_plan(table, FOUND, "mps", ROOT) is None


def test_every_row_of_the_table_is_whole_and_offered_in_the_preferences():
    table = tomllib.loads((ROOT / "requirements" / "builds.toml").read_text())
    builds = [name for name, row in table.items() if isinstance(row, dict)]
    page = (ROOT / "blender_dreamfusion" / "ui" / "preferences_page.py").read_text()
    assert all(f'("{name}", ' in page for name in builds)
    for platform in ("linux-x64", "windows-x64", "macos-arm64"):
        for build in read_builds(ROOT, platform).builds:
            assert build.title and (not build.index or build.index.startswith("https://")) and build.disk_mb > build.download_mb


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"folder_kind": "foreign"}, ["is not empty", "Choose an empty one"]),
        ({"folder_kind": "file"}, ["is a file"]),
        ({"folder_kind": "locked"}, ["cannot be written. Choose another one"]),
        ({"free_mb": 100.0}, ["the disk has 100 MB free", "Make room"]),
        ({"free_mb": 100.0, "phases": ("venv", "pip", "torch")}, []),
        ({"pythons": ()}, ["No Python was found", "python.org"]),
        (
            {"pythons": (BasePython("/b", "3.11.7", "Python 3.11.7 lacks ensurepip"),)},
            ["lacks ensurepip. Install the system's package python3.11-venv"],
        ),
    ],
)
def test_what_stands_in_the_way_is_said_before_with_its_fix(change, words):
    found = replace(FOUND, **change)
    said = obstacles(make_plan(read_builds(ROOT, "linux-x64"), found, AUTOMATIC, ROOT), found)
    assert len(said) == min(1, len(words)) and all(word in said[0] for word in words)


def test_a_system_without_torch_is_told_so():
    (said,) = obstacles(None, replace(FOUND, platform="macos-x64"))
    assert "(macos-x64)" in said and "Apple silicon" in said


def test_long_paths_are_warned_of_on_windows_only():
    long = "C:\\Users\\someone\\AppData\\Roaming\\Blender Foundation\\Blender\\4.5\\extensions\\.user\\engine"
    assert "Choose a short one" in setup_plan.folder_warning(long, "win32")
    assert setup_plan.folder_warning(long, "linux") == setup_plan.folder_warning("C:\\dreamfusion", "win32") == ""


def test_findings_are_read_out_in_words():
    found = replace(FOUND, gpus=(Gpu("cuda", "RTX 4070", 12288),), free_mb=68_400.0)
    said = [text for text, _icon in setup_plan.findings_lines(found)]
    assert said == ["RTX 4070, 12 GB", "Python 3.12.3 at /usr/bin/python3", "68.4 GB free on the disk"]
    assert setup_plan.findings_lines(FOUND)[0][0] == "No graphics card that torch can use"
