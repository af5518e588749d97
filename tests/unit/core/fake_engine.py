"""A small engine that speaks the protocol and misbehaves on demand. Started as a real process: `python fake_engine.py MODE`.

Only for failures of the process; what a well-behaved engine makes is tested with the real one.
"""

import json
import os
import subprocess
import sys
import threading
import time

MODE = sys.argv[1]
STEP_S = 0.02
# Ignores every command and the end of its input.
DEAF = {"deaf", "deaf_load"}


def say(kind: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"type": kind, **fields}) + "\n")
    sys.stdout.flush()


def commands() -> None:
    """Reader thread: keeps the last word per kind; ends the process at end of input as the real engine does."""
    for line in sys.stdin:
        command = json.loads(line)
        seen[command["type"]] = command
        arrived.set()
    if MODE not in DEAF:
        os._exit(0)


seen: dict[str, dict] = {}
arrived = threading.Event()

if MODE == "die_in_load":
    sys.stderr.write("ImportError: no module named torch\n")
    os._exit(3)
if MODE == "never_greets":
    time.sleep(60)
if MODE == "flood":  # rubbish as fast as the pipe takes it
    while True:
        sys.stdout.write("rubbish {\n" * 1000)
if MODE == "not_an_engine":
    for number in range(500):
        print(f"Welcome to something else, line {number}", flush=True)
    time.sleep(60)

threading.Thread(target=commands, daemon=True).start()
if MODE == "babble":
    print("A library says hello on stdout", flush=True)
say("hello", protocol=99 if MODE == "other_protocol" else 1, engine="fake", pid=os.getpid(), from_the_future=True)
while "generate" not in seen:
    arrived.wait(0.05)
    arrived.clear()
job = seen["generate"]["job"]
if MODE == "endless_line":
    sys.stdout.write("x" * 3_000_000)
    sys.stdout.flush()
if MODE == "trickle":  # a line that never ends, so slowly that its length is never noticed
    while True:
        sys.stdout.write("x")
        sys.stdout.flush()
        time.sleep(STEP_S)
if MODE == "deaf_load":  # a library that holds on to the thread while heartbeats go on
    while True:
        say("heartbeat", job=job, state="busy")
        time.sleep(STEP_S)
if MODE == "bad_alloc":
    sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    sys.stderr.flush()
    os.abort()
if MODE == "cuda_memory":
    sys.stderr.write("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\nAborted\n")
    os._exit(1)
if MODE == "exit_137":  # what a shell round the engine makes of a kill
    os._exit(137)
if MODE == "disk_full":
    fix = "Make room or give access, then continue with --resume."
    say("failed", job=job, code="output", text="Writing to /jobs/1 failed: No space left on device.", fix=fix)
    MODE = "idle"
if MODE == "orphan":  # something that the engine started keeps its output open
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
if MODE == "orphan_alive":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    say("progress", job=job, phase="load", step=0, of=1, text=f"child {child.pid}")
    time.sleep(60)

if MODE == "fast":  # thousands of events before anyone looks
    STEP_S = 0.0
n_steps = 3000 if MODE == "fast" else 0 if MODE == "idle" else 10_000 if MODE in {"slow", "deaf"} else 20
for step in range(n_steps):
    say("progress", job=job, phase="train", step=step + 1, of=n_steps, seconds_per_step=STEP_S, eta_s=(n_steps - step) * STEP_S)
    say("preview", job="of another job", path="/nowhere", view="turn")
    say("telemetry", job=job)  # a type of a newer engine
    if MODE == "babble":
        print("rubbish {", flush=True)
    if MODE == "crash" and step == 5:
        os.abort()
    if MODE == "killed" and step == 5:
        os.kill(os.getpid(), 9)
    if MODE == "hang" and step == 5:
        time.sleep(60)
    if MODE == "orphan" and step == 5:
        os._exit(1)
    if "cancel" in seen and MODE not in DEAF:
        say("failed", job=job, code="cancelled", text="Cancelled.")
        break
    if "finish_now" in seen and MODE not in DEAF:
        say("result", job=job, folder=f"/finished/at/{step}")
        break
    while "pause" in seen and "resume" not in seen:
        time.sleep(0.01)
    time.sleep(STEP_S)
else:
    if MODE == "idle":
        pass
    elif MODE == "out_of_memory":
        say("failed", job=job, code="memory", text="The graphics card has no memory left.", fix="Take the preset draft.")
    else:
        say("result", job=job, folder="/finished")
time.sleep(60)
