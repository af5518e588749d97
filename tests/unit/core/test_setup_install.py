"""The real thing with tiny wheels: venv, pip, phases, cancel, resume, repair, remove, and every way it goes wrong. No network."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from blender_dreamfusion.core import install_engine, setup_task
from blender_dreamfusion.core.install_engine import MARKER
from blender_dreamfusion.core.setup_plan import SetupPlan, repairing
from blender_dreamfusion.core.task_process import TaskState, TaskStatus
from tests.tiny_wheels import LAUNCHER, write_package_root, write_wheel, write_wheels

pytestmark = pytest.mark.slow


def make_plan(root: Path) -> SetupPlan:
    """A plan whose index is a folder with two tiny wheels."""
    wheels = write_wheels(root)
    package = write_package_root(root)
    return SetupPlan(
        folder=str(root / "my engine"),  # people have spaces in their paths
        build="cpu",
        title="CPU",
        base_python=sys.executable,
        torch="torch==2.13.0",
        torch_index=wheels.as_uri(),
        package_index=wheels.as_uri(),
        pip="",
        requirements=str(package / "requirements" / "engine.txt"),
        launcher=str(package / "blender_dreamfusion" / "core" / "launch_engine.py"),
        torch_mb=1.0,
        packages_mb=1.0,
        disk_mb=50.0,
    )


@pytest.fixture
def plan(tmp_path: Path) -> SetupPlan:
    return make_plan(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def no_other_wheels():
    """A store of wheels that this machine names would be found before the tiny ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PIP_FIND_LINKS", raising=False)
        yield


@dataclass(frozen=True)
class FirstSetup:
    plan: SetupPlan
    state: TaskState
    seen: list[TaskState]
    log: str


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> FirstSetup:
    """One set-up from nothing. Making an environment takes long, so the tests of later phases start from copies of this one."""
    root = tmp_path_factory.mktemp("first")
    plan = make_plan(root)
    state, seen = end_of(setup_task.install_task(plan, root / "setup.log"))
    return FirstSetup(plan, state, seen, (root / "setup.log").read_text())


@pytest.fixture
def done(plan: SetupPlan, first: FirstSetup) -> SetupPlan:
    """A plan whose folder holds a finished engine."""
    shutil.copytree(first.plan.folder, plan.folder, symlinks=True)
    return plan


@pytest.fixture
def begun(done: SetupPlan) -> SetupPlan:
    """A plan whose folder holds an environment with pip and no package yet."""
    forget_phases(done, "torch", "packages")
    for path in install_engine.site_packages(install_engine.venv_python(Path(done.folder))).iterdir():
        if path.name.startswith(("torch", "diffusers")):
            shutil.rmtree(path)
    return done


def forget_phases(plan: SetupPlan, *names: str) -> None:
    marker = Path(plan.folder) / MARKER
    state = json.loads(marker.read_text())
    state["phases"] = {name: key for name, key in state["phases"].items() if name not in names}
    state["is_complete"] = False
    marker.write_text(json.dumps(state))


@pytest.fixture
def install(tmp_path: Path):
    tasks = []

    def begin(plan: SetupPlan):
        task = setup_task.install_task(plan, tmp_path / "setup.log")
        tasks.append(task)
        return task

    yield begin
    for task in tasks:
        task.kill()


def end_of(task, timeout_s: float = 240.0) -> tuple[TaskState, list[TaskState]]:
    seen, deadline = [], time.monotonic() + timeout_s
    while (state := task.poll()).is_active:
        if not seen or state._replace(seconds=0.0) != seen[-1]._replace(seconds=0.0):
            seen.append(state)
        assert time.monotonic() < deadline, state
        time.sleep(0.01)
    return state, seen


def wait_for_phase(task, phase: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while (state := task.poll()).phase != phase:
        assert state.is_active and time.monotonic() < deadline, state
        time.sleep(0.01)


def log_of(tmp_path: Path) -> str:
    return (tmp_path / "setup.log").read_text()


def test_set_up_from_nothing(first):
    state, seen = first.state, first.seen
    assert (state.status, state.fix) == (TaskStatus.DONE, ""), first.log
    assert state.text.startswith("Ready: Python 3.") and "torch 2.13.0" in state.text
    assert list(dict.fromkeys(step.phase for step in seen if step.phase)) == ["venv", "pip", "torch", "packages", "check"]
    assert any(step.unit == "packages" for step in seen)
    python = setup_task.installed_python(Path(first.plan.folder))
    assert python is not None and str(python) == state.result["python"]
    assert (install_engine.site_packages(python) / "diffusers" / "__init__.py").is_file()
    assert first.log.startswith("$ ") and "Successfully installed torch-2.13.0" in first.log


def test_a_second_click_only_checks(done, install, tmp_path):
    state, seen = end_of(install(done))
    assert state.status is TaskStatus.DONE and {step.phase for step in seen} <= {"", "check"}
    assert all(f"{phase}: done before" in log_of(tmp_path) for phase in ("venv", "pip", "torch", "packages"))


def test_damage_is_found_by_the_check_and_mended_by_repair(done, install):
    folder = Path(done.folder)
    packages = install_engine.site_packages(install_engine.venv_python(folder))
    for path in packages.glob("torch*"):
        shutil.rmtree(path)
    state, _ = end_of(install(done))
    assert state.status is TaskStatus.FAILED and "torch missing" in state.text and state.fix == "Click Repair."
    assert setup_task.installed_python(folder) is None, "what failed the check is not used"
    assert end_of(install(repairing(done)))[0].status is TaskStatus.DONE
    assert (packages / "torch" / "__init__.py").is_file()


def test_removal_deletes_what_is_ours_and_leaves_the_rest(done):
    folder = Path(done.folder)
    (folder / "my notes.txt").write_text("keep")
    found = setup_task.examine(folder, [])
    assert found.folder_kind == "ours" and found.is_complete and found.installed_mb > 5
    state, _ = end_of(setup_task.remove_task(folder))
    assert state.status is TaskStatus.DONE and "other files" in state.text
    assert [path.name for path in folder.iterdir()] == ["my notes.txt"]


def test_removal_of_everything_takes_the_folder_too(done):
    assert end_of(setup_task.remove_task(Path(done.folder)))[0].text == "The engine was removed."
    assert not Path(done.folder).exists()


def test_cancel_in_the_middle_of_pip_then_go_on(begun, install, tmp_path):
    plan = with_large_torch(begun)
    task = install(plan)
    wait_for_phase(task, "torch")
    time.sleep(0.3)
    clicked = time.monotonic()
    task.cancel()
    state, _ = end_of(task)
    assert state.status is TaskStatus.CANCELLED and time.monotonic() - clicked < 5.0
    assert list(json.loads((Path(plan.folder) / MARKER).read_text())["phases"]) == ["venv", "pip"]
    assert setup_task.installed_python(Path(plan.folder)) is None
    assert not processes_in(plan.folder), "pip is gone too"
    state, _ = end_of(install(plan))
    assert state.status is TaskStatus.DONE, log_of(tmp_path)
    assert "venv: done before" in log_of(tmp_path) and "torch: done before" not in log_of(tmp_path)


def with_large_torch(plan: SetupPlan) -> SetupPlan:
    """The same with a torch that is large enough to be caught being unpacked."""
    write_wheel(Path(plan.torch_index.removeprefix("file://")), "torch", "2.13.0", payload_bytes=150_000_000)
    return replace(plan, disk_mb=400.0)


def processes_in(folder: str) -> list[str]:
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in running.splitlines() if folder in line]


def test_a_package_whose_installation_was_torn_is_installed_again(done, install, tmp_path):
    packages = install_engine.site_packages(install_engine.venv_python(Path(done.folder)))
    (packages / "torch" / "__init__.py").unlink()
    next(packages.glob("torch-*.dist-info/RECORD")).unlink()
    forget_phases(done, "torch", "packages")
    assert end_of(install(done))[0].status is TaskStatus.DONE
    assert (packages / "torch" / "__init__.py").is_file()
    assert "was broken off and is installed again" in log_of(tmp_path)


def test_an_update_of_the_addon_installs_what_changed_and_no_more(done, install, tmp_path):
    Path(done.requirements).write_text("torch==2.13.0\ndiffusers==0.42.1\n# changed\n")
    assert end_of(install(done))[0].status is TaskStatus.DONE
    assert "torch: done before" in log_of(tmp_path) and "packages: done before" not in log_of(tmp_path)


def test_another_build_starts_from_a_new_environment(done, install, tmp_path):
    task = install(replace(done, build="cuda"))
    wait_for_phase(task, "venv")
    task.cancel()
    end_of(task)
    assert "done before" not in log_of(tmp_path)
    assert json.loads((Path(done.folder) / MARKER).read_text())["phases"] == {}, "the new one is not taken for the old"


@pytest.mark.parametrize(
    ("change", "words", "fix"),
    [
        ({"disk_mb": 1e12}, r"needs 1000000000\.0 GB, but .* free", "another disk"),
        ({"torch": "torch==9.9"}, "no version for this Python", "another build"),
        ({"requirements": "/nowhere/engine.txt"}, "nowhere/engine.txt", "Set up again"),
        ({"base_python": "/nowhere/python"}, "is not there: /nowhere/python", "Choose another Python"),
        ({"base_python": "/bin/ls"}, "ended unexpectedly", "log"),
    ],
)
def test_what_cannot_work_ends_with_a_sentence_and_its_fix(begun, install, change, words, fix):
    state, _ = end_of(install(replace(begun, **change)))
    assert state.status is TaskStatus.FAILED
    assert re.search(words, state.text), state
    assert fix in state.fix


def test_a_server_that_cannot_be_reached_is_told_from_a_missing_package(begun, install, monkeypatch):
    monkeypatch.setenv("PIP_RETRIES", "1")
    state, _ = end_of(install(replace(begun, torch_index="http://127.0.0.1:9/simple")))
    assert state.sentence.startswith("The download server 127.0.0.1:9 cannot be reached. Check the network")


def test_a_broken_pip_is_named(begun, install):
    shutil.rmtree(install_engine.site_packages(install_engine.venv_python(Path(begun.folder))) / "pip")
    state, _ = end_of(install(begun))
    assert state.sentence == "pip is broken in the engine's environment. Click Repair."


def test_a_folder_with_other_things_in_it_is_never_touched(plan, install, tmp_path):
    folder = Path(plan.folder)
    folder.mkdir()
    (folder / "thesis.blend").write_text("years of work")
    state, _ = end_of(install(plan))
    assert "is not empty" in state.text and "Choose an empty one" in state.fix
    with pytest.raises(ValueError, match="nothing was deleted"):
        setup_task.remove(folder, lambda *_arguments, **_words: None)
    assert [path.name for path in folder.iterdir()] == ["thesis.blend"]
    assert setup_task.folder_kind(folder) == "foreign"
    assert setup_task.folder_kind(folder / "thesis.blend") == "file"
    assert "is a file" in end_of(install(replace(plan, folder=str(folder / "thesis.blend"))))[0].text


def test_removal_does_not_follow_links_out_of_the_folder(plan, install, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("x")
    folder = Path(plan.folder)
    (folder / "venv").mkdir(parents=True)
    (folder / "cache").symlink_to(outside)
    (folder / "venv" / "link").symlink_to(outside)
    install_engine.write_state(folder, {"phases": {}})
    setup_task.remove(folder, lambda *_arguments, **_words: None)
    assert (outside / "precious.txt").is_file() and not folder.exists()


def test_a_disk_that_fills_up_in_the_middle_is_said_and_the_set_up_goes_on_after(plan, first, install):
    """A real file system of 60 MB; needs the right to mount one."""
    folder = Path(plan.folder)
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "none", folder], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    try:
        shutil.copytree(first.plan.folder, folder, symlinks=True, dirs_exist_ok=True)
        forget_phases(plan, "torch", "packages")
        for path in install_engine.site_packages(install_engine.venv_python(folder)).glob("torch*"):
            shutil.rmtree(path)
        state, _ = end_of(install(replace(with_large_torch(plan), disk_mb=1.0)))
        assert state.sentence == "The disk is full. Make room, then set up again to go on."
        shutil.rmtree(install_engine.site_packages(install_engine.venv_python(folder)) / "torch")  # room is made
        write_wheel(Path(plan.torch_index.removeprefix("file://")), "torch", "2.13.0")
        assert end_of(install(replace(plan, disk_mb=1.0)))[0].status is TaskStatus.DONE
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_folder_that_cannot_be_written_is_a_sentence(plan):
    error = PermissionError(13, "Permission denied", "/locked/engine")
    assert install_engine.os_error_words(error) == ("The folder /locked/engine cannot be written.", "Choose another folder for the engine.")
    text, fix = install_engine.os_error_words(OSError(28, "No space left on device", "/x"))
    assert text == "The disk is full." and "Make room" in fix


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="/proc is a folder that nobody can write, on Linux only")
def test_a_read_only_folder_is_found_before_and_said_when_installing(plan, install):
    locked = Path("/proc/dreamfusion")
    assert setup_task.folder_kind(locked) == "locked"
    state, _ = end_of(install(replace(plan, folder=str(locked))))
    assert state.status is TaskStatus.FAILED and state.fix


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full."),
        ("OSError: [WinError 112] There is not enough space on the disk", "The disk is full."),
        ("ConnectTimeoutError(...): timed out\nERROR: No matching distribution found for torch", "The download server cannot be reached."),
        ("ERROR: No matching distribution found for xatlas==0.0.11", "A package has no version for this Python on this system."),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...", "certificate is not trusted"),
        ("OSError: [WinError 206] The filename or extension is too long", "too long for Windows"),
        ("/venv/bin/python: No module named pip", "pip is broken"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "A downloaded file is damaged."),
        ("line\nERROR: something nobody foresaw.", "pip could not do it: something nobody foresaw."),
    ],
)
def test_what_pip_says_becomes_a_sentence_with_a_fix(said, words):
    error = install_engine.words_for(said.splitlines(), "pip could not do it", "Set up again.")
    assert words in error.text and error.fix


def test_wrong_python_versions_are_refused():
    for version in ((3, 10), (3, 14), (2, 7)):
        with pytest.raises(install_engine.SetupError, match="needs 3.11, 3.12 or 3.13"):
            install_engine.check_python(version)
    install_engine.check_python((3, 13))


def test_a_python_without_ensurepip_is_refused_with_the_package_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(install_engine.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object())
    with pytest.raises(install_engine.SetupError, match="lacks ensurepip") as error:
        install_engine.make_venv(tmp_path)
    assert f"python3.{sys.version_info[1]}-venv" in error.value.fix


def test_pips_lines_become_megabytes_and_packages(tmp_path, capsys):
    progress = install_engine.PipProgress("torch", 300.0, tmp_path)
    lines = [
        "Collecting torch==2.13.0",
        "  Downloading https://x.org/whl/torch-2.13.0-cp311-cp311-linux.whl.metadata (30 kB)",
        "  Downloading https://x.org/whl/torch-2.13.0-cp311-cp311-linux.whl (191.8 MB)",
        "Progress 100000000 of 191800000",
        "  Using cached sympy-1.14.0-py3-none-any.whl (6.3 MB)",
    ]
    assert [progress.take(line) for line in lines] == [True, True, True, False, True]
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [round(entry.get("done", 0), 1) for entry in said] == [0, 0, 0, 100.0, 198.1]
    assert {entry["text"] for entry in said[2:4]} == {"Downloading torch 2.13.0"} and said[-1]["of"] == 300.0
    assert install_engine.megabytes("12 kB") == pytest.approx(0.012) and install_engine.megabytes("?") == 0.0


def test_an_existing_python_is_judged_by_the_engines_doctor(plan, tmp_path):
    launcher = Path(plan.launcher)
    launcher.write_text(LAUNCHER.replace('state": "ok" if v else "missing', 'state": "ok'))
    check = lambda: end_of(setup_task.check_task(Path(sys.executable), tmp_path / "package", tmp_path / "check.log"))[0]  # noqa: E731
    assert check().text.startswith("Ready: Python 3.")
    launcher.write_text("print('hello')")
    assert "does not start in this Python" in check().text
    launcher.write_text("raise ImportError('libcudart')")
    state = check()
    assert state.status is TaskStatus.FAILED and "ImportError: libcudart" in state.text and "set up the engine here" in state.fix


def test_the_set_up_ends_with_blender(begun, install):
    plan = with_large_torch(begun)
    task = install(plan)
    wait_for_phase(task, "torch")
    task._close_input()  # what the system does when Blender is killed
    assert task._process.wait(10) != 0
    deadline = time.monotonic() + 10
    while processes_in(plan.folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_marker_that_was_torn_by_a_crash_is_still_ours(tmp_path):
    (tmp_path / MARKER).write_text('{"phases": {"ve')
    assert install_engine.read_state(tmp_path) == {"what": install_engine.WHAT, "phases": {}}
    assert setup_task.installed_python(tmp_path) is None
    assert install_engine.read_state(tmp_path / "nothing") is None
