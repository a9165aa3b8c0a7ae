"""Speed and strength of PGD against foolbox, ART and cleverhans: `python -m benchmarks.attack`.

All attack the same Keras model from the same starts, towards the same targets, with the same number
of steps, step size and epsilon. They take turns, with the same images in each turn. An attack's
time ends when its images are in memory; the float32 model then counts, off the clock, how many of
them reached their targets.
"""

import dataclasses
import itertools
import time

import numpy as np
import tensorflow as tf

from benchmarks import attackers, measuring, networks
from tfadv import attacks, models

PACKAGES = ("foolbox", "adversarial-robustness-toolbox", "cleverhans", "eagerpy")
EPSILON = 4.0  # pixels of 255; at 16 every image would reach its target within 10 steps
FOLDED, FOLDED_BFLOAT16 = "tfadv float32 folded", "tfadv bfloat16 folded"


@dataclasses.dataclass(frozen=True)
class Case:
    """How one of `networks.NETWORKS` is measured."""

    batch_size: int
    num_steps: int
    rounds: int


CASES = {
    "small": Case(batch_size=64, num_steps=10, rounds=15),
    "resnet50": Case(batch_size=8, num_steps=3, rounds=9),
    "mixture": Case(batch_size=64, num_steps=10, rounds=15),
}
# Required ratios of times: whose, over whose, "at most" or "at least", and the bound of each case.
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
    """Returns the task, its batches, and their description for the JSON.

    Args:
        name: Key of `CASES`.
        steps: Number of training updates; None for the network's own.
    """
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
    """Attacks the next batch, times it, and records which images reach their targets.

    Args:
        run: Function that attacks an `attackers.Batch`.
        batches: List of batches, used in turn.
        predict: Function, images -> the float32 model's classes; None for the floor.
        epsilon: Largest distance allowed, in the units of the images.
    """

    def __init__(self, run, batches, predict, epsilon):
        self._run = run
        self._turns = itertools.cycle(enumerate(batches))
        self._predict = predict
        self._epsilon = epsilon
        self.hits = {}  # number of the batch -> which of its images reached their targets

    def __call__(self):
        number, batch = next(self._turns)
        start = time.perf_counter()
        images = np.asarray(self._run(batch))
        seconds = time.perf_counter() - start
        if self._predict is not None and number not in self.hits:
            distance = np.abs(images - batch.images).max()
            if distance > self._epsilon * 1.001:
                raise RuntimeError(
                    f"an attack must stay within epsilon={self._epsilon}; received an image at "
                    f"distance {distance}"
                )
            self.hits[number] = self._predict(images) == batch.targets.numpy()
        return seconds


def strength(runner, reference):
    """Percentage of the images that reached their targets, and the reference's on the same."""

    def percent(contestant):
        return 100 * float(np.mean([contestant.hits[number] for number in runner.hits]))

    if not runner.hits:
        return None
    return {
        "images": sum(map(len, runner.hits.values())),
        "percent": percent(runner),
        "percent_of_tfadv_float32": percent(reference),
    }


def measure(name, options):
    """Measures one case: each contestant's seconds in every round, the ratios, the strengths."""
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
        patience=20 if options.quick else 60,  # 16-bit attacks take very long without AMX
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
    """Returns the measured ratios that `REQUIRED` bounds."""
    return [{"of": of, "to": to, **measuring.ratio(seconds, of, to)} for of, to, _, _ in REQUIRED]


def run(options):
    if not options.quick and options.models != list(CASES):
        raise SystemExit("--models needs --quick: a saved report must have all models of one run")
    settings = {
        "data": f"{networks.DATA}: networks are trained briefly (see `training`) on the training "
        "digits, and attacked on the validation digits",
        "starts": attackers.__doc__.partition("\n\n")[2].strip(),
        "timed": "tfadv: a call of PGD, including its checks and the draw of the start; "
        "cleverhans: its function; foolbox: `run`, without the evaluation that a call adds; ART: "
        "`generate`, which also evaluates its result once",
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
    """Returns the table of the required ratios and the measured ones.

    The mixture is measured too, but has no requirement.
    """
    fast = "amx_bf16" in report["machine"]["cpu_flags"] or report["machine"]["gpus"]
    heading = ["time of", "over time of", "model", "required", "reached: median (min to max)", ""]
    rows = []
    for of, to, sense, bounds in REQUIRED:
        for result in report["results"]:
            ratio = next(r for r in result["ratios"] if (r["of"], r["to"]) == (of, to))
            bound = bounds.get(result["case"])
            required, verdict = "", ""
            if bound is not None:
                holds = ratio["median"] <= bound if sense == "at most" else ratio["median"] >= bound
                required, verdict = f"{sense} {bound:g}", "yes" if holds else "no"
                if to == FOLDED_BFLOAT16 and not fast:
                    verdict += "; no `amx_bf16` here"
            case = result["case"]
            rows.append([of, to, case, required, measuring.in_words(ratio), verdict])
    for result in report["results"]:
        apart = max(
            abs(reached["percent"] - reached["percent_of_tfadv_float32"])
            for name, reached in result["strength"].items()
            if reached is not None and not name.startswith(attackers.SIXTEEN_BITS)
        )
        row = ["images at their targets, float32", "", result["case"], "at most 1 point apart"]
        rows.append([*row, f"{apart:.1f} points apart", "yes" if apart <= 1 else "no"])
    return measuring.markdown_table(heading, rows)


def _strength(reached):
    if reached is None:
        return ""
    return (
        f"{reached['percent']:.1f}% ({reached['percent_of_tfadv_float32']:.1f}%) "
        f"of {reached['images']} images"
    )


if __name__ == "__main__":
    measuring.main("attack", run, table, packages=PACKAGES, arguments=arguments)
