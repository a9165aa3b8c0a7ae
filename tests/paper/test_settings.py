"""Which settings train the same thing, and the names of strategies and networks."""

import pytest

from tests.flags.cases import ROWS, train
from tfadv import paper
from tfadv.paper.settings import network, strategy
from tfadv.programs import flags as program_flags
from tfadv.settings import TRAIN


def canonical(*flags):
    settings = program_flags.parse(TRAIN, list(flags))
    return paper.trained(vars(settings))


def test_the_52_rows_are_different_trainings_called_as_in_the_paper():
    rows = {row["flagfile"]: row for row in reversed(ROWS)}
    runs = {name: paper.trained(vars(train(name))) for name in rows}
    assert len({str(run) for run in runs.values()}) == len(rows) == 52
    for name, row in rows.items():
        if row["table"] != "3":
            domain = "adv" if "MBN" in row["label"] else None
            assert strategy(runs[name], domain) == row["label"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--image_size=224", "--seed=3", "--keep_checkpoints=2", "--eval_num_steps="],
        ["--blocks=3,8,36,3"],
        ["--clean_weight=0.5"],
        ["--steps_per_epoch=313"],
        ["--step_size_rule=fixed", "--data_dir=/data", "--rematerialize=all"],
        ["--decay_rate=0.5", "--rmsprop_rho=0.5"],
    ],
)
def test_equal_trainings_have_equal_settings(flags):
    assert canonical(*flags) == canonical()


@pytest.mark.parametrize(
    "flag",
    "--depth=101 --norm=gn --clean_ratio=0.99 --clean_weight=0.4 --pairing_weight=0.1 --epochs=109 "
    "--epsilon=8 --step_size=2 --num_steps=31 --targeted=false --batch_size=2048 --momentum=0.8 "
    "--images_per_worker=16 --dtype=mixed_bfloat16 --label_smoothing=0 --clip_start "
    "--image_size=160 --init_from=runs/x --trainable=norm --running_statistics=5 "
    "--dataset=synthetic".split(),
)
def test_different_trainings_have_different_settings(flag):
    assert canonical(flag) != canonical()


def test_the_step_size_is_the_one_that_its_rule_gives():
    assert canonical("--num_steps=10")["step_size"] == 1.6
    assert canonical("--num_steps=10") == canonical("--num_steps=10", "--step_size=1.6")
    assert canonical("--num_steps=10", "--step_size_rule=fixed")["step_size"] == 1.0


def test_a_start_from_the_image_is_not_clipped():
    image = "--start_from_clean=1"
    assert canonical(image) == canonical(image, "--clip_start") != canonical("--clip_start")


def test_the_attack_has_no_effect_without_adversarial_images():
    clean = canonical("--adversarial=false")
    assert clean == canonical("--adversarial=false", "--clip_start")
    assert clean == canonical("--adversarial=false", "--epsilon=8", "--num_steps=5")
    assert strategy(clean) == "0% adv + 100% clean"


@pytest.mark.parametrize(
    "flags,domain,name",
    [
        (["--norm=mbn", "--affine=shared"], "adv", "MBN_adv, shared affine, 100% adv + 100% clean"),
        (["--norm=mbn"], "clean", "MBN_clean, 100% adv + 100% clean"),
        (["--norm=ln"], None, "LN, 100% adv + 100% clean"),
        (["--clean_weight=0.25"], None, "100% adv + 100% clean, alpha 0.25"),
        (["--pairing_weight=2"], None, "100% adv + 100% clean, ALP of weight 2"),
        (["--batch_statistics=apart"], None, "100% adv + 100% clean, apart"),
        (
            ["--norm=mbn", "--statistics=shared", "--batch_statistics=apart"],
            None,
            "MBN, shared statistics, 100% adv + 100% clean, apart",
        ),
        (["--running_statistics=3"], None, "100% adv + 100% clean* (last 3)"),
    ],
)
def test_names_of_strategies_that_the_paper_does_not_have(flags, domain, name):
    assert strategy(canonical(*flags), domain) == name


def test_names_of_networks():
    assert network(canonical()) == "ResNet-152"
    assert network(canonical("--blocks=3,9,35,3")) == "ResNet-152 (3-9-35-3)"
