"""`tether eval` with the suites that bring their own questions: no data folder, tiny models."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import cli, main
from eval.records import read_run
from eval.suites.suite import is_baseline
from tests.tiny_models import build_transformers_model

CHEAP = ("--set", "encoder.model=hashing", "--set", "generator.backend=none")


def tether(*arguments: object) -> Result:
    done = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_transformers_model(tmp_path_factory.mktemp("model"), positions=2048)


@pytest.mark.parametrize("suite", ["position", "decoding", "injection-attack"])
def test_a_suite_runs_goes_on_and_is_reported_again(tmp_path: Path, suite: str) -> None:
    command = ("--home", tmp_path, *CHEAP, "eval", suite, "--limit", 1, "--out", tmp_path)
    assert f"report: {tmp_path / suite / 'report.html'}" in tether(*command).output
    run = read_run(tmp_path / suite)
    assert run.samples and not [one for one in run.samples if one.failure]
    assert {one.language for one in run.samples} == {"en", "zh"}
    assert any(is_baseline(one.arm) for one in run.samples)
    kept = {name: (tmp_path / suite / name).read_bytes() for name in ("report.html", "report.md")}
    lines = (tmp_path / suite / "samples.jsonl").read_bytes()
    assert "report.zh.html" in tether(*command, "--language", "zh").output
    assert (tmp_path / suite / "samples.jsonl").read_bytes() == lines
    assert "怎样读" in (tmp_path / suite / "report.zh.md").read_text("utf-8")
    tether("report", tmp_path / suite)
    assert kept == {name: (tmp_path / suite / name).read_bytes() for name in kept}


def test_reversal_needs_likelihoods(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("eval", "reversal", "--limit", "1", "--out", str(tmp_path))
    tether("--home", tmp_path, *CHEAP[:2], "--set", f"generator.model={model}", *out)
    run = read_run(tmp_path / "reversal")
    assert {one.kind for one in run.samples} == {"facts, as stated", "facts, in reverse"}
    assert not [one for one in run.samples if one.failure]
    with pytest.raises(SystemExit):
        main(["--home", str(tmp_path), *CHEAP[:2], "--set", "generator.model=x.gguf", *out])
    assert "gives no likelihoods" in capsys.readouterr().err
