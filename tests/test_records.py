"""Records on disk: what is written comes back, kills lose nothing, other runs are refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eval.records import (
    Description,
    Sample,
    by_key,
    describe,
    digest,
    open_run,
    read_run,
    sample_key,
)
from ingest.errors import StoreError, UsageError
from model.answers import Citation

IDENTITY = {"weights": "a" * 64, "code": "b" * 64}
DESCRIPTION = Description(
    "answers", "tether eval answers", 7, IDENTITY, {"device": "cpu"}, {"python": "3.11"}, "c" * 40
)
SAMPLE = Sample(
    suite="answers",
    arm="rag",
    case_id="q1",
    cluster="p1",
    language="zh",
    question="谁建了桥？",
    prompt="段落 [1]\u2028\r\n谁建了桥？",
    output="玛拉\ud800奥恩",  # a lone half of a pair, as a broken tokenizer may give it
    expected=("玛拉·奥恩",),
    scores={"f1": 0.5, "cited": None},
    seconds=0.25,
    identity={**IDENTITY, "adapter": "d" * 64},
    kind="reverse",
    passages=(("d1:0-9", 0.75), ("d2:0-4", -1.5)),
    citations=(Citation(1, "d1", 0, 4, "玛拉奥恩"),),
    confidence=0.9,
)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    failed = replace(SAMPLE, case_id="q2", scores={}, failure="the loss is not a number")
    with open_run(tmp_path / "run", DESCRIPTION) as writer:
        writer.add(SAMPLE)
        assert read_run(tmp_path / "run").samples == (SAMPLE,)  # while it is written
        writer.add(failed)
        assert writer.samples == (SAMPLE, failed)
    run = read_run(tmp_path / "run")
    assert run.name == "run"
    assert run.description == DESCRIPTION
    assert run.samples == (SAMPLE, failed)
    assert by_key([run]) == {SAMPLE.key: SAMPLE}  # a failure is measured again elsewhere


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with open_run(tmp_path, DESCRIPTION) as writer:
        writer.add(SAMPLE)
    later = replace(DESCRIPTION, command="tether eval answers --resume", commit=None)
    with open_run(tmp_path, later) as writer:
        assert writer.done(SAMPLE.key)
        with pytest.raises(ValueError, match="there already"):
            writer.add(SAMPLE)
        assert not writer.done(sample_key("answers", "rag", "q2", SAMPLE.identity))
        writer.add(replace(SAMPLE, case_id="q2"))
    assert [sample.case_id for sample in read_run(tmp_path).samples] == ["q1", "q2"]
    assert read_run(tmp_path).description == DESCRIPTION  # how it was first started


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path, kept: int) -> None:
    with open_run(tmp_path, DESCRIPTION) as writer:
        writer.add(SAMPLE)
    file = tmp_path / "samples.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole.replace(b'"q1"', b'"q2"')[:kept])
    assert read_run(tmp_path).samples == (SAMPLE,)
    assert file.read_bytes() != whole  # a reader changes nothing
    with open_run(tmp_path, DESCRIPTION) as writer:
        assert writer.samples == (SAMPLE,)
        writer.add(replace(SAMPLE, case_id="q2"))
    assert len(read_run(tmp_path).samples) == 2


KILLED = """
import os, sys
from pathlib import Path
from dataclasses import replace
from tests.test_records import DESCRIPTION, SAMPLE
from eval.records import open_run
with open_run(Path(sys.argv[1]), DESCRIPTION) as writer:
    for number in range(3):
        writer.add(replace(SAMPLE, case_id=str(number)))
    os._exit(9)  # no cleaning up
"""


def test_a_killed_writer_leaves_its_samples_and_no_lock(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == 9
    with open_run(tmp_path, DESCRIPTION) as writer:
        assert [sample.case_id for sample in writer.samples] == ["0", "1", "2"]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, DESCRIPTION),
        pytest.raises(UsageError, match=r"another program: .*--out$"),
        open_run(tmp_path, DESCRIPTION),
    ):
        pytest.fail("two writers at once")
    with open_run(tmp_path, DESCRIPTION):  # released
        pass


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(DESCRIPTION, seed=8), "seed 7, now 8"),
        (replace(DESCRIPTION, suite="position"), "suite answers, now position"),
        (
            replace(DESCRIPTION, identity={**IDENTITY, "weights": "e" * 64}),
            "weights aaaaaaaaaaaa, now eeeeeeeeeeee",
        ),
        (replace(DESCRIPTION, identity={"weights": "a" * 64}), "code bbbbbbbbbbbb, now absent"),
        (
            replace(DESCRIPTION, seed=8, suite="x", identity={"p": "1", "q": "2", "r": "3"}),
            "and 3 more",
        ),
    ],
)
def test_another_run_is_refused_by_name(tmp_path: Path, other: Description, said: str) -> None:
    with open_run(tmp_path, DESCRIPTION) as writer:
        writer.add(SAMPLE)
    with (
        pytest.raises(UsageError, match="choose another --out") as caught,
        open_run(tmp_path, other),
    ):
        pytest.fail("samples of two runs in one folder")
    assert said in str(caught.value)
    assert read_run(tmp_path).samples == (SAMPLE,)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_refused(tmp_path: Path, version: object) -> None:
    with open_run(tmp_path, DESCRIPTION):
        pass
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": version}))
    with pytest.raises(UsageError, match=f"format {version} .*another --out$"):
        read_run(tmp_path)
    with pytest.raises(UsageError, match="format"), open_run(tmp_path, DESCRIPTION):
        pytest.fail("formats mixed")


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "{}",
        json.dumps({"suite": "answers", "arm": "rag"}),
        "REPEATED",
        "UNKNOWN",
        "NOT_FINITE",
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    with open_run(tmp_path, DESCRIPTION) as writer:
        writer.add(SAMPLE)
    file = tmp_path / "samples.jsonl"
    row = file.read_text().rstrip("\n")
    line = {
        "REPEATED": row,
        "UNKNOWN": row.replace('"suite"', '"sweet"'),
        "NOT_FINITE": row.replace("0.25", "NaN").replace("q1", "q2"),
    }.get(line, line)
    file.write_text(f"{row}\n{line}\n")
    with pytest.raises(UsageError, match=r"damaged at line 2.*--out$"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "sweet": 2}'])
def test_a_damaged_description_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match=r"run\.json is damaged: restore"):
        read_run(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give the folder of a run, which holds run\.json$"):
        read_run(tmp_path)
    (tmp_path / "samples.jsonl").write_text("")
    with (
        pytest.raises(UsageError, match=r"samples without run\.json"),
        open_run(tmp_path, DESCRIPTION),
    ):
        pytest.fail("samples of nobody knows what")


def test_what_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="run the same command again"),
        open_run(tmp_path / "file" / "run", DESCRIPTION),
    ):
        pytest.fail("a folder within a file")


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_half_written_line_is_taken_back(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from dataclasses import replace
from ingest.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
{
        KILLED.replace("for number in range(3):", "for number in range(0):").replace(
            "os._exit(9)",
            '''
    writer.add(SAMPLE)
    size = (writer.folder / "samples.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        writer.add(replace(SAMPLE, case_id="q2"))
        sys.exit(1)
    except StoreError:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.add(replace(SAMPLE, case_id="q3"))
''',
        )
    }
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert [sample.case_id for sample in read_run(tmp_path).samples] == ["q1", "q3"]


def test_a_key_covers_everything_that_shapes_a_sample() -> None:
    keys = {
        sample_key("answers", "rag", "q1", {"a": "1", "b": "2"}),
        sample_key("answers", "rag", "q1", {"a": "1", "b": "3"}),
        sample_key("answers", "rag", "q1", {"a": "1"}),
        sample_key("answers", "rag", "q2", {"a": "1", "b": "2"}),
        sample_key("answers", "base", "q1", {"a": "1", "b": "2"}),
        sample_key("position", "rag", "q1", {"a": "1", "b": "2"}),
    }
    assert len(keys) == 6
    assert sample_key("answers", "rag", "q1", {"b": "2", "a": "1"}) in keys  # in any order
    assert SAMPLE.key == sample_key("answers", "rag", "q1", SAMPLE.identity)
    assert digest({"temperature": 0.0, "stop": ["\n"]}) == digest(
        {"stop": ["\n"], "temperature": 0.0}
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_sample_holds_finite_numbers_or_none(number: float) -> None:
    with pytest.raises(ValueError, match="make it a failure"):
        replace(SAMPLE, scores={"loss": number})
    with pytest.raises(ValueError, match="make it a failure"):
        replace(SAMPLE, confidence=number)
    with pytest.raises(ValueError, match="no scores"):
        replace(SAMPLE, failure="broken")


def test_a_run_is_described_by_where_it_runs() -> None:
    found = describe("answers", "tether eval answers", seed=3, identity=IDENTITY)
    assert (found.suite, found.seed, found.identity) == ("answers", 3, IDENTITY)
    assert found.hardware["device"] == "cpu" and "torch" in found.versions
    json.dumps(found.hardware)


def test_reading_records_loads_no_torch() -> None:
    code = "import sys, eval.records, eval.comparison; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
