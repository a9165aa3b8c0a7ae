"""docs/performance.md: tables between markers are replaced, and prose stays."""

import importlib
import re

import pytest

from benchmarks import measuring, performance

PAGE = "# Title\n\nProse.\n\n<!-- a -->\nold\n<!-- end -->\nMore.\n\n<!-- b -->\n<!-- end -->\n"


def test_only_the_named_table_changes():
    page = performance.replaced(PAGE, {"a": "| new \\1 |\n"})
    assert page == PAGE.replace("old\n", "\n| new \\1 |\n\n")
    assert performance.replaced(page, {"a": "| new \\1 |"}) == page


@pytest.mark.parametrize("broken", ["no marker", "<!-- a -->\nno end", "<!-- a -->\n<!-- b -->\n"])
def test_a_page_without_a_place_for_a_table_is_refused(broken):
    with pytest.raises(ValueError, match="must have <!-- a --> and then <!-- end -->"):
        performance.replaced(broken, {"a": "table"})


def test_every_benchmark_has_its_file_and_its_place():
    markers = re.findall(r"<!-- (\w+) -->\n(?:(?!<!-- ).)*<!-- end -->", page(), re.DOTALL)
    folder = measuring.RESULTS.parent
    for name in performance.BENCHMARKS:
        assert (folder / f"{name}.py").exists()
        assert markers.count(name) == 1


def page():
    return performance.PAGE.read_text(encoding="utf-8")


def test_the_command_fills_the_page_from_what_was_measured(tmp_path, monkeypatch):
    machine = {
        "processor": "abacus",
        "cores": 2,
        "cpu_flags": [],
        "gpus": [],
        "versions": {},
        "date": "2026-01-01",
        "load_average": {"start": 0.1, "end": 0.2},
    }
    row = {"layer": "BN", "mode": "training step", "shape": [2, 3], "dtype": "float32"}
    faster = {"min": 1.0, "median": 1.5, "max": 2.0, "rounds": 7}
    row |= {"ours_ms": 2.0, "keras_ms": 3.0, "times_faster": faster}
    path = tmp_path / "performance.md"
    names = ("normalization", "normalization.big", "attack")
    path.write_text("Prose.\n" + "".join(f"<!-- {name} -->\n<!-- end -->\n" for name in names))
    monkeypatch.setattr(performance, "PAGE", path)
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    for name in names[:2]:
        measuring.write({"benchmark": name, "machine": machine, "results": [row]})
    performance.main()
    text = path.read_text()
    assert text.count("BN, training step, 7 rounds:") == 2
    assert "| 2 x 3, float32 | 2.00 | 3.00 | 1.50 (1.00 to 2.00) |" in text
    assert (
        "2 cores of abacus" in text and "load average 0.1 at the start and 0.2 at the end" in text
    )
    assert text.startswith("Prose.\n") and text.endswith("<!-- attack -->\n<!-- end -->\n")


def attack_report(name="small", flags=()):
    times = {
        "floor": 1.0,
        "tfadv float32": 1.02,
        "tfadv float32 folded": 0.8,
        "tfadv bfloat16 folded": 0.5,
        "cleverhans": 1.0,
        "foolbox": 4.0,
        "ART": 5.0,
    }
    seconds = {contestant: [value] * 3 for contestant, value in times.items()}
    attack = importlib.import_module("benchmarks.attack")
    return {
        "machine": {"cpu_flags": list(flags), "gpus": []},
        "results": [
            {
                "case": name,
                "title": "a network",
                "batch_size": 64,
                "num_steps": 10,
                "clean_accuracy": 0.9,
                "seconds": seconds,
                "times_floor": {c: measuring.ratio(seconds, c, "floor") for c in times},
                "strength": {
                    c: None
                    if c == "floor"
                    else {"images": 64, "percent": 10.9, "percent_of_tfadv_float32": 10.4}
                    for c in times
                },
                "ratios": attack.ratios(seconds),
            }
        ],
    }


def test_the_attacks_table_compares_requirements_and_results():
    attack = importlib.import_module("benchmarks.attack")
    table = attack.table(attack_report())
    one = "1.02 (1.02 to 1.02)"
    assert f"| tfadv float32 | floor | small | at most 1.03 | {one} | yes |" in table
    row = "| cleverhans | tfadv float32 folded | small | at least 1.2 | 1.25 (1.25 to 1.25) | yes |"
    assert row in table
    row = "| cleverhans | tfadv bfloat16 folded | small | at least 2.5 | 2.00 (2.00 to 2.00) |"
    assert f"{row} no; no `amx_bf16` here |" in table
    assert f"{row} no |" in attack.table(attack_report(flags=["amx_bf16"]))
    assert (
        "| cleverhans | 1.000 (1.000 to 1.000) | 1.00 (1.00 to 1.00) | 10.9% (10.4%) of 64 images |"
        in table
    )
    assert "| small | at most 1 point apart | 0.5 points apart | yes |" in table
    # The mixture's speed is measured too, but has no requirement.
    mixture = attack.table(attack_report("mixture"))
    assert f"| tfadv float32 | floor | mixture |  | {one} |  |" in mixture
