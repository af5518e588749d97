"""An engine that makes the same result of every prompt, at once, and stays for the next job: `python box_engine.py RESULT_FOLDER`.

Words in the prompt change what happens: "slow" works until it is told otherwise, "dies" takes the engine with it, "fails" and "full"
end without a result. The job folder looks as the real engine's does.
"""

import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

RESULT = Path(sys.argv[1])
said: set[str] = set()
jobs: list[dict] = []
news = threading.Condition()


def say(kind: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"type": kind, **fields}) + "\n")
    sys.stdout.flush()


def listen() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        with news:
            jobs.append(command) if command["type"] == "generate" else said.add(command["type"])
            news.notify()
    os._exit(0)


def work(command: dict) -> None:
    job, folder, prompt = command["job"], Path(command["out_dir"]), command["request"]["prompt"]
    if "full" in prompt.split():
        say("failed", job=job, code="output", text="Writing failed: No space left on device.", fix="Make room, then use --resume.")
        return
    folder.mkdir(exist_ok=True)
    created = "2026-11-01T12:00:00+00:00"
    body = {"format": 1, "created": created, "request": command["request"], "config": {"training": {"n_steps": 300}}}
    (folder / "job.json").write_text(json.dumps(body))
    with (folder / "commands.log").open("a") as log:
        log.write(json.dumps(command) + "\n")
    while True:
        say("progress", job=job, phase="train", step=30, of=300, seconds_per_step=0.1, eta_s=27)
        if "dies" in prompt.split():
            os._exit(7)
        if "cancel" in said:
            say("failed", job=job, code="cancelled", text="The job was cancelled.")
            return
        if "slow" not in prompt.split() or "finish_now" in said:
            break
        time.sleep(0.02)
    if "fails" in prompt.split():
        say("failed", job=job, code="diverged", text="It came to nothing.", fix="Use --seed 1.")
        return
    shutil.copytree(RESULT, folder / "result", dirs_exist_ok=True)
    info = json.loads((folder / "result" / "result.json").read_text())
    info["request"] = command["request"]
    (folder / "result" / "result.json").write_text(json.dumps(info))
    say("result", job=job, folder=str(folder / "result"))


threading.Thread(target=listen, daemon=True).start()
say("hello", protocol=1, engine="box", pid=os.getpid())
while True:
    with news:
        while not jobs:
            news.wait()
        command = jobs.pop(0)
        said.clear()
    work(command)
