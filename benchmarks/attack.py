"""PGD beside foolbox, ART and cleverhans, strength beside speed: `python -m benchmarks.attack`.

All attack the same Keras model from the same starts, towards the same targets, with the same number
of steps, step size and epsilon, in turns. In each turn all have the same images. What an attack
takes ends when its images are in memory; how many of them it brought to their targets is seen by
the float32 model after its clock has stopped.
"""

import dataclasses
import itertools
import time

import numpy as np
import tensorflow as tf

from benchmarks import attackers, measuring, networks
from tfadv import attacks, models

PACKAGES = ("foolbox", "adversarial-robustness-toolbox", "cleverhans", "eagerpy")
EPSILON = 4.0  # pixels of 255; within 16 every image would reach its target, within 10 steps
FOLDED, FOLDED_BFLOAT16 = "tfadv float32 folded", "tfadv bfloat16 folded"


@dataclasses.dataclass(frozen=True)
class Case:
    """What one of `networks.NETWORKS` is measured with."""

    batch_size: int
    num_steps: int
    rounds: int


CASES = {
    "small": Case(batch_size=64, num_steps=10, rounds=15),
    "resnet50": Case(batch_size=8, num_steps=3, rounds=9),
    "mixture": Case(batch_size=64, num_steps=10, rounds=15),
}
# Rows of issue 4: what, the ratio of whose seconds to whose, at most or at least what in each case.
REQUIRED = (
    ("tfadv float32", attackers.FLOOR, "at most", {"small": 1.03, "resnet50": 1.03}),
    ("cleverhans", FOLDED, "at least", {"small": 1.2, "resnet50": 1.05}),
    ("foolbox", FOLDED, "at least", {"small": 3.5, "resnet50": 2.3}),
    ("ART", FOLDED, "at least", {"small": 3.5, "resnet50": 2.3}),
    ("cleverhans", FOLDED_BFLOAT16, "at least", {"small": 2.5, "resnet50": 2.5}),
    ("foolbox", FOLDED_BFLOAT16, "at least", {"small": 8.0, "resnet50": 5.5}),
    ("ART", FOLDED_BFLOAT16, "at least", {"small": 8.0, "resnet50": 5.5}),
)


def task_of(name, steps):
    """The task, its batches, and what the JSON says of them; `steps` of training, or None."""
    case, network = CASES[name], networks.NETWORKS[name]
    model = network.trained(margin=EPSILON, steps=steps)
    mixture = bool(models.mixtures(model))
    task = attackers.Task(
        attack=attacks.PGD(epsilon=EPSILON, step_size=1, num_steps=case.num_steps),
        model=model,
        plain=models.extract(model, "adv") if mixture else model,
        value_range=networks.VALUE_RANGE,
        num_classes=networks.NUM_CLASSES,
    )
    digits = network.digits(case.batch_size, margin=EPSILON)
    batches = [task.batch(*batch, number) for number, batch in enumerate(digits)]
    about = {
        "title": network.title,
        "batch_size": case.batch_size,
        "num_steps": case.num_steps,
        "epsilon": EPSILON,
        "step_size": task.attack.effective_step_size,
        "image_size": network.image_size,
        "training": {
            "image_size": network.tile,
            "steps": steps or network.steps,
            "batch_size": network.batch_size,
            "adam_learning_rate": network.learning_rate,
        },
        "others_attack": "models.extract(model, 'adv')" if mixture else "the same model",
    }
    return task, batches, about


class Contestant:
    """Calls an attack of the next batch, times it, and counts the images that it misleads.

    Args:
        run: Function of an `attackers.Batch`.
        batches: List of batches, taken in turn.
        predict: Function, images -> the classes that the float32 model sees; None for the floor.
        epsilon: In the units of the images, the largest distance that is let pass.
    """

    def __init__(self, run, batches, predict, epsilon):
        self._run = run
        self._turns = itertools.cycle(enumerate(batches))
        self._predict = predict
        self._epsilon = epsilon
        self.hits = {}  # number of a batch -> which of its images reached their targets

    def __call__(self):
        number, batch = next(self._turns)
        start = time.perf_counter()
        images = np.asarray(self._run(batch))
        seconds = time.perf_counter() - start
        if self._predict is not None and number not in self.hits:
            distance = np.abs(images - batch.images).max()
            if distance > self._epsilon * 1.001:
                raise RuntimeError(f"an attack left its ball: {distance} of {self._epsilon}")
            self.hits[number] = self._predict(images) == batch.targets.numpy()
        return seconds


def strength(runner, reference):
    """Images brought to their targets, each counted once, beside the reference's of the same."""

    def percent(of):
        return 100 * float(np.mean([of.hits[number] for number in runner.hits]))

    if not runner.hits:
        return None
    return {
        "images": sum(map(len, runner.hits.values())),
        "percent": percent(runner),
        "percent_of_tfadv_float32": percent(reference),
    }


def measure(name, options):
    """One case: seconds of each contestant and round, their ratios, their strength."""
    task, batches, about = task_of(name, 10 if options.quick else None)

    @tf.function(autograph=False)
    def classes(images):
        return tf.argmax(task.plain(images, training=False), axis=-1, output_type=tf.int32)

    def predict(images):
        return classes(tf.constant(images)).numpy()

    clean = np.mean([np.mean(predict(each.images) == each.labels) for each in batches])
    runners = {
        contestant: Contestant(
            run, batches, None if contestant == attackers.FLOOR else predict, EPSILON
        )
        for contestant, run in attackers.contestants(task).items()
    }
    seconds = measuring.interleaved(
        runners,
        measuring.rounds(options, CASES[name].rounds),
        warm_up=1,
        own_clock=True,
        patience=20 if options.quick else 60,  # for sixteen bits without instructions for them
        label=name,
    )
    return {
        "case": name,
        **about,
        "clean_accuracy": float(clean),
        "seconds": seconds,
        "times_floor": {each: measuring.ratio(seconds, each, attackers.FLOOR) for each in seconds},
        "strength": {
            each: strength(runner, runners["tfadv float32"]) for each, runner in runners.items()
        },
        "ratios": ratios(seconds),
    }


def ratios(seconds):
    """What is required, as it was reached."""
    return [{"of": of, "to": to, **measuring.ratio(seconds, of, to)} for of, to, _, _ in REQUIRED]


def run(options):
    if not options.quick and options.models != list(CASES):
        raise SystemExit("--models goes with --quick: what is written down is one run of all")
    settings = {
        "data": f"{networks.DATA}: networks are trained for a moment, see `training`, with those "
        "that train, and attacked with those that validate",
        "starts": attackers.__doc__.partition("\n\n")[2].strip(),
        "timed": "tfadv: a call of PGD, its draw of the start and its checks included; cleverhans: "
        "its function; foolbox: `run`, without the evaluation of a call; ART: `generate`, which "
        "also evaluates its result once",
    }
    return {"settings": settings, "results": [measure(name, options) for name in options.models]}


def arguments(parser):
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))


def table(report):
    parts = [_required(report)]
    for result in report["results"]:
        heading = [
            "attack",
            "seconds: median (min to max)",
            "times the floor",
            "at target (tfadv float32)",
        ]
        rows = [
            [
                name,
                measuring.in_words(measuring.spread(seconds), 3),
                measuring.in_words(result["times_floor"][name]),
                _strength(result["strength"][name]),
            ]
            for name, seconds in result["seconds"].items()
        ]
        parts.append(
            f"{result['title']}; batch of {result['batch_size']}, {result['num_steps']} steps, "
            f"{len(result['seconds'][attackers.FLOOR])} rounds; "
            f"accuracy on clean images {100 * result['clean_accuracy']:.0f}%:\n"
        )
        parts.append(measuring.markdown_table(heading, rows))
    return "\n".join(parts)


def _required(report):
    """Every ratio that issue 4 asks for beside what was reached; the mixture's has no number."""
    fast = "amx_bf16" in report["machine"]["cpu_flags"] or report["machine"]["gpus"]
    heading = ["time of", "over time of", "model", "required", "reached: median (min to max)", ""]
    rows = []
    for of, to, sense, bounds in REQUIRED:
        for result in report["results"]:
            found = next(r for r in result["ratios"] if (r["of"], r["to"]) == (of, to))
            bound = bounds.get(result["case"])
            required, verdict = "", ""
            if bound is not None:
                holds = found["median"] <= bound if sense == "at most" else found["median"] >= bound
                required, verdict = f"{sense} {bound:g}", "yes" if holds else "no"
                if to == FOLDED_BFLOAT16 and not fast:
                    verdict += "; no `amx_bf16` here"
            title = result["case"]
            rows.append([of, to, title, required, measuring.in_words(found), verdict])
    for result in report["results"]:
        apart = max(
            abs(found["percent"] - found["percent_of_tfadv_float32"])
            for name, found in result["strength"].items()
            if found is not None and not name.startswith(attackers.SIXTEEN_BITS)
        )
        what = ["images at their targets, float32", "", result["case"], "at most 1 point apart"]
        rows.append([*what, f"{apart:.1f} points apart", "yes" if apart <= 1 else "no"])
    return measuring.markdown_table(heading, rows)


def _strength(found):
    if found is None:
        return ""
    return (
        f"{found['percent']:.1f}% ({found['percent_of_tfadv_float32']:.1f}%) "
        f"of {found['images']} images"
    )


if __name__ == "__main__":
    measuring.main("attack", run, table, packages=PACKAGES, arguments=arguments)
