"""Runs that were trained or measured differently never stand beside the paper's numbers."""

import pytest

SMALL = [
    *("--dataset=digits", "--network=small_resnet", "--depth=8", "--epsilon=80", "--epochs=20"),
    *("--num_steps=10", "--step_size=10", "--batch_size=64"),
]
DIGITS = dict(dataset="digits", image_shape=[8, 8, 1])


def numbers(table, *columns):
    """The filled cells of a table, as lists of some columns."""
    return table.dropna(subset="ours")[list(columns)].values.tolist()


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
        ([], dict(precision="bfloat16"), {}),
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
        (SMALL, dict(epsilon=80.0), DIGITS),
    ],
)
def test_they_have_no_number_of_the_papers_beside_them(
    make_run, result, make_report, read, flags, changes, details
):
    path = make_run("x", flags, [result(2000, 20.0, **changes)], **details)
    report = make_report(path)
    files = report.files()
    text = files.pop("report.md")
    assert "No run was trained and measured as in the paper." in text
    # PGD-2000 of the paper's row is 20.9.
    assert "20.0 [" in text and "20.9" not in text.split("## Other data or sizes")[1]
    [name] = report.others
    assert set(files) == {f"{name}-table7.csv", "results.csv"}
    for each in map(read, files.values()):
        assert numbers(each, "ours") == [[20]] and each["paper"].isna().all()
    assert (read(files["results.csv"])["comparable"] == "no").all()


def test_clean_images_are_the_same_under_every_attack(make_run, result, make_report, read):
    path = make_run("x", [], [result(n, 70.0, epsilon=8.0) for n in (0, 10)])
    files = make_report(path).files()
    assert numbers(read(files["table7.csv"]), "measured", "difference") == [["clean", -8]]
    other = read(files["imagenet2012-resnet-epsilon8-table7.csv"])
    assert numbers(other, "measured", "ours") == [["clean", 70], ["PGD-10", 70]]


def test_the_last_epoch_is_the_finished_network(make_run, result, make_report):
    model = "checkpoints/epoch-0110.keras"
    report = make_report(make_run("x", [], [result(2000, 21.0)], model=model))
    assert not report.others and "1 of the paper's 52" in report.summary


def test_a_branch_stands_beside_its_own_numbers_alone(make_run, result, make_report, read):
    results = [result(n, v, domain="clean") for n, v in ((0, 79.0), (2000, 1.0))]
    report = make_report(make_run("x", ["--norm=mbn"], results))
    assert not report.others and "0 of the paper's 52 rows filled, and 1 more" in report.summary
    table = read(report.files()["table7.csv"])
    assert set(table["training strategy"]) == {"MBN_clean, 100% adv + 100% clean"}
    assert numbers(table.dropna(subset="paper"), "ours", "paper", "difference") == [
        [79, 79.3, -0.3]
    ]


def test_rows_that_the_paper_lacks_stand_in_its_table_without_a_number(
    make_run, result, make_report, read
):
    report = make_report(
        make_run("ln", ["--norm=ln"], [result(2000, 37.0)]),
        make_run("gn", ["--norm=gn"], [result(2000, 39.5)]),
        make_run("d200", ["--adversarial=false", "--depth=200"], [result(0, 79.2)]),
        make_run("starts", ["--num_steps=0"], [result(0, 77.0)]),
    )
    assert not report.others
    table = read(report.files()["table7.csv"]).fillna({"paper": 0})
    columns = ("network", "training with", "training strategy", "ours", "paper")
    assert numbers(table, *columns) == [
        ["ResNet-152", "PGD-30", "GN, 100% adv + 100% clean", 39.5, 39.0],
        ["ResNet-152", "PGD-30", "LN, 100% adv + 100% clean", 37, 0],
        ["ResNet-152", "PGD-0", "100% adv + 100% clean", 77, 0],
        ["ResNet-200", "-", "0% adv + 100% clean", 79.2, 0],
    ]


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
    assert {name: set(section.results["run"]) for name, section in report.others.items()} == {
        "digits-small_resnet-epsilon80": {"runs/a80", "runs/clean"},
        "digits-small_resnet-epsilon40": {"runs/a40", "runs/clean"},
    }


def test_sections_with_one_title_are_named_by_what_tells_them_apart(make_run, result, make_report):
    def run(name, *flags, **changes):
        results = [result(10, 60.0, total=360, epsilon=80.0, **changes)]
        return make_run(name, [*SMALL, *flags], results, **DIGITS)

    report = make_report(
        run("a", "--images_per_worker=16"),
        run("b", attack="apgd"),
        run("c", loss="margin", restarts=2),
        run("d"),
        run("e", "--clean_ratio=0"),
    )
    title = "digits-small_resnet-epsilon80"
    assert {name: set(section.results["run"]) for name, section in report.others.items()} == {
        f"{title}-images_per_worker16": {"runs/a"},
        f"{title}-apgd": {"runs/b"},
        f"{title}-margin": {"runs/c"},
        title: {"runs/d", "runs/e"},
    }


def test_small_runs_fill_the_papers_layouts(make_run, result, make_report, read):
    def run(name, *flags, **percents):
        results = [result(int(n[1:]), v, total=1000, epsilon=80.0) for n, v in percents.items()]
        return make_run(name, [*SMALL, *flags], results, whole_validation_set=False, **DIGITS)

    files = make_report(
        run("bn", n10=60, n100=30),
        run("adv", "--clean_ratio=0", n10=65, n100=60),
        run("star", "--clean_ratio=0", "--running_statistics=2", n10=65, n100=62, n500=61),
        run("pgd5", "--clean_ratio=0", "--num_steps=5", n10=62, n100=50),
        run("batch", "--clean_ratio=0", "--running_statistics=2", "--batch_size=128", n100=58),
    ).files()
    prefix = "digits-small_resnet-epsilon80-table"
    tables = {name[len(prefix)]: read(each) for name, each in files.items() if prefix in name}
    assert list(tables) == ["2", "4", "5", "6", "7"]
    # PGD-100 is the largest number of steps that all of them have.
    strategies = ["100% adv + 0% clean", "100% adv + 0% clean*"]
    filled = ["training strategy", "measured", "ours", "change"]
    assert numbers(tables["2"].fillna(0), *filled) == [
        [strategies[0], "PGD-100", 60, 0], [strategies[1], "PGD-100", 62, 2]
    ]  # fmt: skip
    assert numbers(tables["4"].fillna({"change": 0}), "training with", "ours", "change") == [
        ["PGD-10", 60, 0], ["PGD-10", 30, 0], ["PGD-5", 50, -10]
    ]  # fmt: skip
    assert numbers(tables["6"].fillna({"change": 0}), "training batch size", "ours", "change") == [
        [64, 62, 0], [128, 58, -4]
    ]  # fmt: skip


def test_table_3_goes_across_the_settings_that_its_rows_vary(make_run, result, make_report, read):
    flags = ["--pairing_weight=0.5", "--label_smoothing=0"]
    files = make_report(
        make_run("sgd", flags, [result(10, 40.0), result(2000, 10.0)]),
        make_run("rmsprop", [*flags, "--optimizer=rmsprop"], [result(10, 30.0)]),
        make_run("other", ["--pairing_weight=0.5", "--epsilon=8"], [result(10, 50.0)]),
    ).files()
    assert [name for name in files if name.startswith("other-")] == ["other-table3.csv"]
    assert numbers(read(files["other-table3.csv"]), "optimizer", "measured", "ours") == [
        ["sgd", "PGD-10", 40], ["sgd", "PGD-2000", 10], ["rmsprop", "PGD-10", 30]
    ]  # fmt: skip
