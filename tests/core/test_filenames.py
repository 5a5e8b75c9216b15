"""Where runs write: no run over what an earlier one of its process wrote, and nothing that turns out at the end."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from fineserve_shapes.errors import InputError
from fineserve_shapes.filenames import FileNames, named
from fineserve_shapes.options import settings
from fineserve_shapes.streams import Stream
from fineserve_shapes.values import Values

FLAGS = ("--output-file", "--report", "--request-log")


def written(name: str, runs: list[str]) -> list[str]:
    """The names under which these runs write, one after the other."""
    names, found = FileNames(), []
    for run in runs:
        pattern = names.free(Path("out") / name)
        names.write(pattern)
        found.append(str(named(pattern, run)))
    return found


@pytest.mark.parametrize("name", ["summary.json", "summary", "a.b.csv", "{run}.parquet", "log-{run}-{run}.csv"])
def test_every_run_has_a_file_of_its_own(name: str):
    found = written(name, ["a1", "b2", "c3"])
    assert len(set(found)) == 3
    assert {Path(path).suffix for path in found} == {Path(name).suffix}
    assert all("{" not in path for path in found)


def test_the_first_run_has_the_name_that_was_given_and_later_ones_add_theirs():
    assert written("summary.json", ["a1", "b2"]) == ["out/summary.json", "out/summary-b2.json"]
    assert written("{run}.json", ["a1", "b2"]) == ["out/a1.json", "out/b2.json"]


def test_a_name_that_no_run_wrote_to_is_free():
    names = FileNames()
    names.write(Path("other.json"))
    assert names.free(Path("summary.json")) == names.free(Path("summary.json")) == Path("summary.json")


@pytest.mark.parametrize("flag", FLAGS)
def test_a_missing_directory_is_said_before_the_start(tmp_path: Path, flag: str):
    def file(path: Path) -> Path | None:
        values = Values(Namespace(**{flag.removeprefix("--").replace("-", "_"): str(path)}))
        return (
            settings(values, None, [Stream(values=values)]).request_log
            if flag == "--request-log"
            else values.file(flag)
        )

    assert file(tmp_path / "x.csv") == tmp_path / "x.csv"
    with pytest.raises(InputError) as error:
        file(tmp_path / "nowhere" / "x.csv")
    assert str(error.value) == f"there is no directory {tmp_path / 'nowhere'} for x.csv ({flag})"
    with pytest.raises(InputError, match=r"is a directory: name a file in it \(--"):
        file(tmp_path)
