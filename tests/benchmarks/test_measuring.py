"""Turns, ratios and the command line, with a clock that only the contestants advance."""

import itertools
import json

import pytest

from benchmarks import hardware, measuring, performance


class Clock:
    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def takes(self, name, *durations):
        durations = itertools.cycle(durations)

        def contestant():
            self.calls.append(name)
            self.now += next(durations)

        return contestant


def test_turns_alternate_and_each_is_timed():
    clock = Clock()
    contestants = {"a": clock.takes("a", 1.0), "b": clock.takes("b", 2.0), "c": clock.takes("c", 4)}
    seconds = measuring.interleaved(contestants, 3, warm_up=1, clock=clock)
    assert "".join(clock.calls) == "abc" + "abc" + "cba" + "abc"
    assert seconds == {"a": [1.0] * 3, "b": [2.0] * 3, "c": [4.0] * 3}


def test_quick_contestants_fill_their_turn():
    clock = Clock()
    contestants = {"quick": clock.takes("q", 0.25), "slow": clock.takes("s", 2.0)}
    seconds = measuring.interleaved(contestants, 1, warm_up=1, seconds_per_turn=1.0, clock=clock)
    assert "".join(clock.calls) == "qs" + "qqqqs"
    assert seconds == {"quick": [0.25], "slow": [2.0]}


def test_contestants_may_measure_their_own_seconds():
    seconds = measuring.interleaved({"child": lambda: 7.0}, 2, own_clock=True)
    assert seconds == {"child": [7.0, 7.0]}


def test_contestants_that_are_much_slower_take_fewer_turns():
    clock = Clock()
    contestants = {"a": clock.takes("a", 1.0), "b": clock.takes("b", 5.0)}
    seconds = measuring.interleaved(contestants, 4, warm_up=2, patience=9.0, clock=clock)
    assert "".join(clock.calls) == "aa" + "bb" + "ab" + "a" + "a" + "a"
    assert seconds == {"a": [1.0] * 4, "b": [5.0]}
    assert measuring.ratio(seconds, "b", "a")["rounds"] == 1


def test_ratios_are_those_within_a_round():
    # The machine is three times as slow in the last round, which no ratio shows.
    seconds = {"theirs": [2.0, 3.0, 12.0], "ours": [1.0, 1.0, 3.0]}
    expected = {"min": 2.0, "median": 3.0, "max": 4.0, "rounds": 3}
    assert measuring.ratio(seconds, "theirs", "ours") == expected


def test_words_and_tables():
    assert measuring.in_words({"min": 1, "median": 2.345, "max": 30}) == "2.35 (1.00 to 30.00)"
    table = measuring.markdown_table(["what", "ms"], [["this", 1]])
    assert table == "| what | ms |\n| --- | --: |\n| this | 1 |\n"


@pytest.fixture
def page(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text("<!-- tried -->\n<!-- end -->\n")
    machine = {
        "processor": "abacus",
        "cores": 2,
        "cpu_flags": ["avx2"],
        "gpus": [],
        "versions": {"foolbox": "3"},
        "date": "2026-01-01",
    }
    monkeypatch.setattr(measuring, "machine", lambda packages: dict(machine))
    monkeypatch.setattr(measuring, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(performance, "PAGE", page)
    return page


def run(options):
    return {"results": [{"rounds": measuring.rounds(options, 9), "shape": (1, 2)}]}


def table(report):
    return f"rounds: {report['results'][0]['rounds']}"


def test_the_command_line_writes_json_and_table(page):
    measuring.main("tried", run, table, argv=[])
    report = json.loads((page.parent / "results" / "tried.json").read_text())
    assert report == measuring.read("tried")
    assert report["results"] == [{"rounds": 9, "shape": [1, 2]}]
    assert set(report["machine"]["load_average"]) == {"start", "end"}
    before, _, after = page.read_text().partition(
        "rounds: 9\n\n2 cores of abacus (avx2); foolbox 3;"
    )
    assert before == "<!-- tried -->\n\n" and after.endswith("2026-01-01.\n\n<!-- end -->\n")


def test_another_machine_has_its_own_file_and_table(page):
    page.write_text(page.read_text() + "<!-- tried.big -->\n<!-- end -->\n")
    measuring.main("tried", run, table, argv=["--machine=big", "--note=Borrowed."])
    assert measuring.read("tried") is None and measuring.read("tried.big")["results"]
    usual, _, other = page.read_text().partition("<!-- tried.big -->")
    assert "rounds" not in usual and "rounds: 9" in other
    assert other.endswith("2026-01-01. Borrowed.\n\n<!-- end -->\n")


def test_quick_writes_nothing(page, capsys):
    before = page.read_text()
    measuring.main("tried", run, table, argv=["--quick"])
    assert "rounds: 2" in capsys.readouterr().out
    measuring.main("tried", run, table, argv=["--quick", "--rounds=5"])
    assert "rounds: 5" in capsys.readouterr().out
    assert page.read_text() == before and measuring.read("tried") is None


def test_the_machine_can_be_written_as_json():
    machine = hardware.machine(["pytest", "no-such-package"])
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cores"] >= 1 and machine["memory_gib"] > 0
    assert machine["versions"]["pytest"] == pytest.__version__
    assert machine["versions"]["no-such-package"] is None
    assert {"tensorflow", "keras", "numpy", "python"} <= set(machine["versions"])
