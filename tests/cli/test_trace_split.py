"""`fineserve trace split`: the values of a column, and a mix with a stream for each."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from toolruns import run, write


def test_split_counts_the_values_of_a_column(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "x.csv", [(0, 1, 1, "a"), (1000, 3, 5, "b"), (3000, 5, 7, "b"), (9000, 1, 1, "")],
                 "timestamp,input_length,output_length,model")  # fmt: skip
    given = (path, "--by", "model", "--timestamp-unit", "ms")
    assert run("split", *given) == 0
    text = capsys.readouterr().out
    assert re.search(r"^b +2 +2 +50.00 % +1 s +3 s +0.5 +4 +6$", text, re.MULTILINE)
    assert "without a model: 1 row, of which 1 usable" in text
    assert run("split", *given, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [value["value"] for value in found["values"]] == ["b", "a", ""]
    assert found["values"][0] == {
        "value": "b", "rows": 2, "usable": 2, "first_s": 1.0, "last_s": 3.0, "input_tokens": 4.0, "output_tokens": 6.0,
    }  # fmt: skip


def test_a_mix_has_a_stream_for_each_value_and_how_the_trace_is_read(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "x.csv", [(0, 1, 1, "GPT-4", "text"), (1, 3, 5, "Model B", "text")],
                 "timestamp,input_length,output_length,model,type")  # fmt: skip
    out = tmp_path / "mix.toml"
    assert run("split", path, "--by", "model", "--mix", out, "--timestamp-unit", "s", "--where", "type=text",
               "--max-model-len", "4096") == 0  # fmt: skip
    assert f"wrote {out}" in capsys.readouterr().out
    text = out.read_text()
    assert tomllib.loads(text) == {
        "defaults": {"timestamp_unit": "s", "max_model_len": "4096", "time_origin": "trace"},
        "streams": {
            "gpt-4": {"kind": "replay", "request_trace_csv": str(path), "where": "type=text,model=GPT-4"},
            "model-b": {"kind": "replay", "request_trace_csv": str(path), "where": "type=text,model=Model B"},
        },
    }
    assert text.count("# host = ") == 2
    assert '# model = "Model B"' in text
