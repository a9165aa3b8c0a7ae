"""A new attack is one file and one line: here they are, and the programs use it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tfadv import event_files
from tfadv.programs import flags, train
from tfadv.settings import TRAIN

ROOT = pathlib.Path(__file__).resolve().parents[2]

FILE = '''\
import tensorflow as tf

from tfadv.attacks.attack import Attack
from tfadv.attacks.steps import scale_to_range


class SignStep(Attack):
    """One step of epsilon along the sign of the gradient."""

    def perturb(self, logits_fn, images, labels, goals, value_range, seed):
        step = scale_to_range(self.epsilon, value_range)
        sign = tf.sign(self.gradient(logits_fn, images, goals))
        return images - step * sign if self.targeted else images + step * sign
'''
LINE = '    "sign_step": Entry("tfadv.attacks.sign_step:SignStep", has_steps=False),\n'


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of this repository's programs with one more attack."""
    house = tmp_path_factory.mktemp("house")
    for folder in ("tfadv", "flags"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, house / folder, ignore=ignored)
    (house / "tfadv/attacks/sign_step.py").write_text(FILE)
    table = house / "tfadv/tables/attacks.py"
    lines = table.read_text().splitlines(keepends=True)
    lines.insert(lines.index("ATTACKS = {\n") + 1, LINE)
    table.write_text("".join(lines))
    return house


def program(house, name, *flags, status=0):
    done = subprocess.run(
        [sys.executable, "-m", f"tfadv.{name}", *flags],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout if not status else done.stderr


TINY = [
    "--flagfile=flags/quickstart.flags", "--epochs=1", "--steps_per_epoch=2", "--batch_size=8",
    "--images_per_worker=8", "--eval_every=1", "--eval_limit=10", "--width=4",
    "--strong_eval_num_steps=100", "--attack=sign_step", "--run_dir=",
]  # fmt: skip
RUN = "runs/digits-small_resnet8-mbn-signstep"  # by default


@pytest.fixture(scope="module")
def trained(house):
    return program(house, "train", *TINY)


def test_it_trains_evaluates_and_is_reported_by_its_name(house, trained):
    run = house / RUN
    assert "100% adv + 100% clean, targeted SignStep, epsilon 80 (pixels of 255)" in trained
    [line] = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    assert {"val_clean_accuracy", "val_signstep_accuracy", "val_signstep_success"} <= set(line)
    assert not any("pgd" in name for name in line)
    assert (run / "checkpoints/best.keras").is_file()
    assert "--attack=sign_step" in (run / "flags.txt").read_text().splitlines()

    flags = ("--attack=sign_step", "--limit=20", "--domain=both")
    said = program(house, "evaluate", f"--run_dir={run}", *flags)
    assert "\nSignStep  " in said and "sanity checks: no doubts" in said
    assert "targeted SignStep in L-infinity: epsilon 80 of 255; restarts 1; 20 images" in said
    document = json.loads((run / "evaluation.json").read_text())
    assert [row["name"] for row in document["results"]] == ["clean", "SignStep"] * 2
    assert document["attack"] == {"label": "SignStep", "epsilon": 80.0, "targeted": True}
    for part in ("validation", "evaluation"):
        [tags] = event_files.read_scalars(run / part).values()
        shown = {"accuracy/clean", "accuracy/signstep", "attack_success/signstep"}
        assert shown <= set(tags)

    program(house, "report", str(run))
    report = (house / "report/report.md").read_text()
    assert "| training strategy | clean | SignStep |" in report
    assert "targeted SignStep, epsilon 80 of 255, restarts 1" in report
    assert "| SmallResNet-8 | 8 | SignStep |" in report
    assert "PGD-" not in report


@pytest.mark.slow
def test_it_is_inspected_and_planned(house, trained):
    said = program(house, "inspect", f"--run_dir={RUN}", "--channels=2")
    assert "2 mini-batches of 8 adversarial images (SignStep) and 8 clean ones" in said
    said = program(house, "plan", *TINY, "--device=cpu")
    assert "strategy:    SignStep, 100% adv + 100% clean" in said


def test_a_run_without_the_flag_attack_is_one_of_pgd(tmp_path):
    """Runs from before there was a choice can be continued and evaluated."""
    given = [f"--flagfile={ROOT}/flags/quickstart.flags", f"--run_dir={tmp_path}"]
    settings, run = train.parse(given)
    text = flags.flagfile(TRAIN, settings)
    assert "--attack=pgd\n" in text
    run.flags.write_text(text.replace("--attack=pgd\n", ""))
    assert run.settings().attack == "pgd"
    train.parse([*given, "--resume"])


def test_a_wrong_name_is_answered_with_both(house):
    refused = program(house, "train", *TINY, "--attack=fgsm", status=2)
    assert refused.startswith("tfadv.train: attack must be one of sign_step, pgd, ")
    assert refused.endswith("; received 'fgsm'\n")
