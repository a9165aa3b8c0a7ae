"""What was trained or measured in another way never stands beside the paper's numbers."""

import pytest

from tfadv.reporting import tables

SMALL = [
    *("--dataset=digits", "--network=small_resnet", "--depth=8", "--epsilon=80", "--epochs=20"),
    *("--num_steps=10", "--step_size=10", "--batch_size=64"),
]
DIGITS = dict(dataset="digits", image_shape=[8, 8, 1])
MBN = ["--norm=mbn"]


@pytest.mark.parametrize(
    "flags,changes,details",
    [
        ([], dict(epsilon=8.0), {}),
        ([], dict(targeted=False), {}),
        ([], dict(loss="margin"), {}),
        ([], dict(restarts=2), {}),
        ([], dict(start_from_clean=1.0), {}),
        ([], dict(clip_start=True), {}),
        (["--clip_start"], {}, {}),
        ([], dict(step_size=2.0), {}),
        ([], dict(total=1000), dict(whole_validation_set=False)),
        ([], dict(total=50), {}),  # a miniature ImageNet, whole
        ([], {}, dict(model="best.keras")),
        ([], {}, dict(model="checkpoints/epoch-0030.keras")),
        ([], {}, dict(image_shape=[160, 160, 3])),
        ([], {}, dict(dataset="image_folder")),
        (["--epsilon=8"], {}, {}),
        (["--epochs=10"], {}, {}),
        (["--dtype=mixed_float16"], {}, {}),
        (["--images_per_worker=64"], {}, {}),
        (["--init_from=runs/x", "--trainable=norm"], {}, {}),
        (SMALL, dict(epsilon=80.0), DIGITS),
    ],
)
def test_no_number_of_the_papers_beside(make_run, result, make_report, flags, changes, details):
    path = make_run("x", flags, [result(2000, 20.0, **changes)], **details)
    report = make_report(path)
    assert not any(entry.filled for entry in report.papers.entries)
    [section] = report.others
    [table] = tables.tables(section)
    [[_, [cell]]] = table.rows
    assert (cell.number.ours, cell.number.paper) == (20, None)
    files = report.files()
    assert "No run was trained and measured as in the paper." in files["report.md"]
    # PGD-2000 of the paper's row is 20.9.
    assert "20.9" not in files["report.md"].split("## Other data or sizes")[1]
    assert all(line.endswith(",,,no") for line in files["results.csv"].splitlines()[1:])


def test_clean_images_are_the_same_under_every_attack(make_run, result, make_report):
    path = make_run("x", [], [result(n, 70.0, epsilon=8.0) for n in (0, 10)])
    report = make_report(path)
    [entry] = [entry for entry in report.papers.entries if entry.filled]
    numbers = {column.name: number for column, number in entry.numbers.items() if number}
    assert list(numbers) == ["clean"] and numbers["clean"].difference == pytest.approx(-8)
    [section] = report.others
    assert [column.name for column in section.columns] == ["clean", "PGD-10"]


def test_the_last_epoch_is_the_finished_network(make_run, result, make_report):
    model = "checkpoints/epoch-0110.keras"
    report = make_report(make_run("x", [], [result(2000, 21.0)], model=model))
    assert not report.others and "1 of the paper's 52" in report.summary


def test_a_branch_stands_beside_its_own_numbers_alone(make_run, result, make_report):
    results = [result(n, v, domain="clean") for n, v in ((0, 79.0), (2000, 1.0))]
    report = make_report(make_run("x", MBN, results))
    assert not report.others
    [entry] = [entry for entry in report.papers.entries if entry.filled]
    assert report.papers.label(entry) == "MBN_clean, 100% adv + 100% clean"
    numbers = {column.name: n for column, n in entry.numbers.items()}
    assert numbers["clean"].paper == 79.3 and numbers["PGD-2000"].paper is None
    assert numbers["clean"].difference == pytest.approx(-0.3)


def test_what_the_paper_leaves_open_stands_in_its_table_without_a_number(
    make_run, result, make_report
):
    paths = [
        make_run("ln", ["--norm=ln"], [result(2000, 37.0)]),
        make_run("gn", ["--norm=gn"], [result(2000, 39.5)]),
        make_run("d200", ["--adversarial=false", "--depth=200"], [result(0, 79.2)]),
    ]
    report = make_report(*paths)
    assert not report.others
    files = report.files()
    lines = [line for line in files["report.md"].splitlines() if line.startswith("| ResNet")]
    assert [line.split(" | ")[3] for line in lines] == [
        *("GN, 100% adv + 100% clean", "LN, 100% adv + 100% clean", "0% adv + 100% clean")
    ]
    assert [(c.name, n.paper) for e in report.papers.entries if e.filled and not e.tables
            for c, n in e.numbers.items()] == [("PGD-2000", None), ("clean", None)]  # fmt: skip


def test_a_network_trained_on_clean_images_stands_beside_every_attack(
    make_run, result, make_report
):
    def measured(epsilon, percent):
        return [result(n, percent, epsilon=epsilon, total=360) for n in (0, 10)]

    other = [*SMALL, "--epsilon=40"]
    report = make_report(
        make_run("a80", [*SMALL, "--clean_ratio=0"], measured(80.0, 60), **DIGITS),
        make_run("a40", [*other, "--clean_ratio=0"], measured(40.0, 70), **DIGITS),
        make_run("clean", [*SMALL, "--adversarial=false"], [result(0, 95, total=360)], **DIGITS),
    )
    assert [section.runs for section in report.others] == [
        ["runs/a80", "runs/clean"], ["runs/a40", "runs/clean"]
    ]  # fmt: skip
    assert report.names[1:] == ["digits-small_resnet-epsilon80", "digits-small_resnet-epsilon40"]


def test_small_runs_fill_the_papers_layouts(make_run, result, make_report):
    def run(name, *flags, domain=None, **percents):
        results = [
            result(int(n[1:]), v, total=1000, epsilon=80.0, domain=domain)
            for n, v in percents.items()
        ]
        return make_run(name, [*SMALL, *flags], results, whole_validation_set=False, **DIGITS)

    report = make_report(
        run("bn", n10=60, n100=30),
        run("adv", "--clean_ratio=0", n10=65, n100=60),
        run("star", "--clean_ratio=0", "--running_statistics=2", n10=65, n100=62, n500=61),
        run("pgd5", "--clean_ratio=0", "--num_steps=5", n10=62, n100=50),
        run("batch", "--clean_ratio=0", "--running_statistics=2", "--batch_size=128", n100=58),
    )
    [section] = report.others
    found = {table.name: table for table in tables.tables(section)}
    assert list(found) == ["Table 2", "Table 4", "Table 5", "Table 6", "Table 7"]

    def cells(name):
        return [
            (round(cell.number.ours), cell.reference and round(cell.reference.ours))
            for _, [cell, *_] in found[name].rows
        ]

    # PGD-100 is the largest number of steps that all of them have.
    assert found["Table 2"].columns == ("PGD-100",)
    assert cells("Table 2") == [(60, None), (62, 60)]
    assert cells("Table 4") == [(60, None), (50, 60)]
    assert cells("Table 6") == [(62, None), (58, 62)]
    assert [labels for labels, _ in found["Table 6"].rows] == [("64",), ("128",)]
