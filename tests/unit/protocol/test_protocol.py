"""The messages: what goes out comes back, and nothing that comes in can hurt."""

import dataclasses
import json
import random
import subprocess
import sys

import pytest

from engine import protocol
from engine.protocol import (
    COMMANDS,
    EVENTS,
    MAX_LINE_BYTES,
    Cancel,
    Generate,
    Hello,
    JobRequest,
    Progress,
    ProtocolError,
    SetView,
    check_hello,
    decode_command,
    decode_event,
    encode,
)

REQUEST = JobRequest(prompt="a “red” mug\t☕", overrides={"guidance.guidance_scale": "30"}, seed=3)
EXAMPLES = [
    Hello(engine="0.1.0", pid=12),
    protocol.Heartbeat(job="a", state="busy"),
    Progress(job="a", phase="train", step=3, of=300, seconds_per_step=0.25, eta_s=71.5, text="x"),
    protocol.Preview(job="a", path="/tmp/x y.png", view="camera", step=3),
    protocol.Proxy(job="a", path="/tmp/x y.npz", step=3),
    protocol.Plan(job="a", text="300 steps."),
    protocol.Warn(job="a", text="line one\nline two"),
    protocol.Result(job="a", folder="C:\\jobs\\a\\result"),
    protocol.Failed(job="a", code="prompt", text="The prompt is empty.", fix="Say what to make."),
    Generate(job="a", request=REQUEST, out_dir="/jobs/a", resume=True),
    Cancel(job="a"),
    protocol.Pause(job="a"),
    protocol.Resume(job="a"),
    protocol.FinishNow(job="a"),
    SetView(job="a", camera_to_world=tuple(float(i) for i in range(16)), window=(-0.5, 0.5, -0.4, 0.4), orthographic=True),
    protocol.ClearView(job="a"),
    protocol.SetProxy(job="a", every_s=2.5),
    protocol.Shutdown(),
]


def decoded(line):
    body = json.loads(line)
    return decode_event(line) if body["type"] in EVENTS else decode_command(line)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_comes_back_as_it_went_out_in_one_line(message):
    line = encode(message)
    assert line.endswith("\n") and line.count("\n") == 1
    assert decoded(line) == message
    assert decoded(line.encode()) == message


def test_there_is_an_example_of_every_message():
    assert {type(m) for m in EXAMPLES} == {*EVENTS.values(), *COMMANDS.values()}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_fields_of_a_newer_version_are_ignored(message):
    body = json.loads(encode(message)) | {"of_tomorrow": {"x": [1]}}
    assert decoded(json.dumps(body)) == message


def test_fields_with_a_default_may_be_missing():
    assert decode_command('{"type":"generate","job":"a","request":{"prompt":"mug"},"out_dir":"/x"}') == Generate(
        job="a", request=JobRequest(prompt="mug"), out_dir="/x"
    )


def test_a_type_of_a_newer_version_is_none_and_each_side_reads_its_own():
    assert decode_event('{"type":"telepathy"}') is None
    assert decode_event(encode(Cancel(job="a"))) is None
    assert decode_command(encode(Hello(engine="1", pid=1))) is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "not a message"),
        ("Loading weights: 100%", "not a message"),
        (b"\xff\xfe", "not a message"),
        ("[1, 2]", "must be an object"),
        ('{"job":"a"}', "must be an object with a type"),
        ('{"type":["cancel"]}', "must be an object with a type"),
        ('{"type":"cancel"}', "cancel.job is missing"),
        ('{"type":"cancel","job":7}', "cancel.job must be str, got int"),
        ('{"type":"generate","job":"a","request":7,"out_dir":"/x"}', "generate.request must be an object"),
        ('{"type":"generate","job":"a","request":{"prompt":"x","seed":true},"out_dir":"/x"}', "seed must be int, got bool"),
        ('{"type":"generate","job":"a","request":{"prompt":"x","overrides":{"a":1}},"out_dir":"/x"}', "must be str, got int"),
        ('{"type":"set_view","job":"a","camera_to_world":[1],"window":[1,1,1,1]}', "must have 16 numbers, got 1"),
        ('{"type":"set_view","job":"a","camera_to_world":"0123456789abcdef","window":[1,1,1,1]}', "must be"),
    ],
)
def test_what_is_no_message_is_refused_by_text(line, text):
    with pytest.raises(ProtocolError, match=text):
        decode_command(line)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_numbers_that_are_not_finite_are_refused(number):
    with pytest.raises(ProtocolError):
        decode_event(f'{{"type":"progress","job":"a","phase":"train","step":1,"of":2,"eta_s":{number}}}')


def test_a_number_that_is_not_finite_is_not_sent():
    with pytest.raises(ProtocolError, match="progress holds a number that is not finite"):
        encode(Progress(job="a", phase="train", step=1, of=2, eta_s=float("nan")))


def test_lines_are_bounded_both_ways():
    with pytest.raises(ProtocolError, match="bytes"):
        encode(protocol.Warn(job="a", text="x" * MAX_LINE_BYTES))
    with pytest.raises(ProtocolError, match="bytes"):
        decode_event(" " * MAX_LINE_BYTES + encode(Hello(engine="1", pid=1)))
    with pytest.raises(ProtocolError, match="not a message"):  # deep nesting must not end the process
        decode_event("[" * (MAX_LINE_BYTES - 10))


def test_random_damage_gives_a_message_or_a_protocol_error_and_nothing_else():
    random_state = random.Random(0)
    lines = [encode(message).encode() for message in EXAMPLES]
    for _ in range(3000):
        line = bytearray(random_state.choice(lines))
        for _ in range(random_state.randint(1, 4)):
            line[random_state.randrange(len(line))] = random_state.randrange(256)
        for decode in (decode_event, decode_command):
            try:
                message = decode(bytes(line))
            except ProtocolError:
                continue
            assert message is None or type(message) in (*EVENTS.values(), *COMMANDS.values())


def test_another_protocol_is_refused_with_what_to_update():
    check_hello(Hello(engine="0.1.0", pid=1))
    with pytest.raises(ProtocolError, match="Update the engine"):
        check_hello(Hello(protocol=0, engine="0.0.1", pid=1))
    with pytest.raises(ProtocolError, match="Update the add-on"):
        check_hello(Hello(protocol=99, engine="9", pid=1))


def test_every_message_is_frozen_and_keyword_only():
    for cls in (*EVENTS.values(), *COMMANDS.values(), JobRequest):
        assert cls.__dataclass_params__.frozen
        assert all(item.kw_only for item in dataclasses.fields(cls))


def test_the_module_needs_the_standard_library_alone():
    code = "import sys, engine.protocol; print([n for n in sys.modules if n.split('.')[0] in ('torch','numpy','diffusers')])"
    assert subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("prompt", "picture", "title"),
    [
        ("a red mug", "/a/shoe.png", "a red mug"),
        (" ", "/a/Left Shoe.v2.jpg", "Left Shoe.v2"),
        ("", "C:\\pictures\\shoe.png", "shoe"),
        ("", "/jobs/shoe-0/reference.png", "shoe-0"),  # the copy that another job kept
        ("", "", ""),
    ],
)
def test_a_job_without_words_is_called_after_its_picture(prompt, picture, title):
    assert JobRequest(prompt=prompt, reference_image=picture).title == title
