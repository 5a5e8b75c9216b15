"""`fineserve trace` as a command: its help, its progress, and one clear line for what it cannot take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toolruns import MOE, inspected, run

from fineserve_shapes.tracetools import progress


@pytest.mark.parametrize(
    ("tool", "flag"), [*((tool, "--seed") for tool in ("inspect", "fit", "synth", "convert")), ("split", "--where")]
)
def test_every_tool_explains_itself(capsys: Any, tool: str, flag: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tool, "--help")
    assert ended.value.code == 0
    assert flag in capsys.readouterr().out


def test_the_tools_need_neither_locust_nor_gevent() -> None:
    script = "import sys, fineserve_shapes.tracetools.command; print({'locust', 'gevent'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_progress_is_on_stderr_for_what_takes_longer(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_S", 0.0)
    assert inspected(capsys, MOE)["rows"] == 5052
    run("inspect", "--json", MOE)
    output = capsys.readouterr()
    assert "reading MoE_gt100B.csv: 5,052 rows in" in output.err
    json.loads(output.out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: TOOL"),
        (("inspect",), "required: FILE"),
        (("inspect", "nowhere.csv"), "there is no such file"),
        (("inspect", MOE, "--plot", "x.pdf"), "(--plot)"),
        (("inspect", MOE, "--timestamp-unit", "weeks"), "invalid choice"),
        (("inspect", MOE, "--start-at", "1e9"), "--start-at"),
        (("inspect", MOE, "--time-scale", "0"), "--time-scale"),
        (("inspect", MOE, "--prefix-block-tokens", "16"), "no column hash_ids (--prefix-block-tokens)"),
        (
            ("inspect", MOE, "--input-length-column", "latency"),
            "; say --timestamp-unit s, ms, us or ns: its 5,052 rows span ",
        ),
        (("fit", MOE), "--out"),
        (("fit", MOE, "--out", MOE), "--out"),
        (("fit", MOE, "--out", "x", "--name", "a/b"), "--name"),
        (("fit", MOE, "--out", "x", "--burst-within", "-1"), "--burst-within"),
        (("fit", MOE, "--out", "x", "--parametric-window-seconds", "0"), "--parametric-window-seconds"),
        (("synth", "--out", "x.csv"), "--duration"),
        (("synth", "--out", "x.csv", "--duration", "-1"), "--duration"),
        (("synth", "--out", "x.csv", "--duration", "9", "--model-class", "none"), "--model-class"),
        (("convert", MOE), "--out"),
        (("convert", MOE, "--out", "x.csv", "--keep-fraction", "2"), "--keep-fraction"),
        (("convert", MOE, "--out", "x.csv", "--keep", "modle"), "no column modle to keep (--keep)"),
        (("convert", MOE, "--out", "x.csv", "--keep", "latency"), "is written by every conversion"),
        (("inspect", MOE, "--where", "scale"), "--where takes COLUMN=VALUE"),
        (("inspect", MOE, "--where", "scal=x"), "did you mean scale?"),
        (("inspect", MOE, "--time-origin", "x"), "invalid choice"),
        (("split", MOE), "--by"),
        (("split", MOE, "--by", "latncy"), "did you mean latency?"),
        (("split", MOE, "--by", "scale", "--mix", "nowhere/x.toml"), "(--mix)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert output.err.startswith("fineserve: error: ")


@pytest.mark.parametrize("tool", [("inspect",), ("fit", "--out", "fit"), ("convert", "--out", "out.csv")])
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0\1\2\xff", b"timestamp,input_length,output_length\n", b"a,b\n1,2\n",
        b"timestamp,input_length,output_length\n1,x,3\n", b"timestamp,input_length,output_length\ninf,1,3\n",
        b"timestamp,input_length,output_length\n1e300,1,3\n-1e300,1,3\n",
        b"timestamp,input_length,output_length\n9e18,1,3\n-9e18,1,3\n",
        b"timestamp,input_length,output_length,hash_ids\n1,2,3,[x]\n", b"\xef\xbb\xbftimestamp\r\n1\r\n",
    ],
)  # fmt: skip
def test_no_file_is_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tool: tuple[str, ...], content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_bytes(content)
    code = run(tool[0], "x.csv", "--timestamp-unit", "s", *tool[1:])
    assert code in (0, 2)
    assert code == 0 or capsys.readouterr().err.startswith("fineserve: error: ")
