"""Robust accuracy under tfadv's AutoAttack and under the original, on the same images and weights.

`python -m benchmarks.autoattack_strength --original=FOLDER` needs Torch, two trained networks, and
a clone of fra31/auto-attack, which FOLDER or the environment variable AUTO_ATTACK names. The
original is measured with several seeds, since it draws its starts and its squares. What is measured
is kept in runs/autoattack_strength.jsonl, from which a run that was interrupted goes on.
"""

import json
import pathlib
import time
import zlib

import numpy as np

from benchmarks import ensembles, measuring
from tfadv import data, models

PACKAGES = ("torch",)
SEEDS = (0, 1, 2)
BATCH_SIZE = 60
FINISHED = pathlib.Path("runs/autoattack_strength.jsonl")
# Title, data set, number of images, directory of the run, branch, epsilons.
NETWORKS = (
    ("quickstart, adv branch", "digits", 360, "quickstart", "adv", (48, 64)),
    ("quickstart, clean branch", "digits", 360, "quickstart", "clean", (24, 32)),
    ("Fashion-MNIST, recipe of the study", "fashion_mnist", 500, "fashion", "adv", (32, 48)),
)
MAKE = {
    "quickstart": "python -m tfadv.train --flagfile=flags/quickstart.flags",
    "fashion": "python -m tfadv.train --flagfile=flags/study/recipe.flags --run_dir=runs/fashion",
}


def images_of(dataset, count):
    """Returns the first validation images, float32 from 0 to 255, and their labels."""
    batches = data.load(dataset).validation_batches(BATCH_SIZE, limit=count)
    images, labels, indices = map(np.concatenate, zip(*batches.as_numpy_iterator(), strict=True))
    order = np.argsort(indices)[np.sum(indices < 0) :]
    return images[order].astype(np.float32), labels[order]


def checksum(model):
    """Returns a number that tells a network from one that was trained again."""
    return zlib.crc32(b"".join(np.asarray(each).tobytes() for each in model.get_weights()))


def contestants(task, options, images):
    """Yields (who, seed, contestant); each makes its graphs when it is called."""
    yield "tfadv", 0, lambda: ensembles.ours(task, BATCH_SIZE)
    for seed in SEEDS[:1] if options.quick else SEEDS:
        yield (
            "original",
            seed,
            lambda seed=seed: ensembles.original(task, options.original, len(images), seed),
        )


def run(options):
    if options.original is None:
        raise SystemExit("benchmarks.autoattack_strength needs --original (see --help)")
    finished = {}
    if FINISHED.exists() and not options.quick:
        for line in FINISHED.read_text(encoding="utf-8").splitlines():
            key, remaining = json.loads(line)
            finished[tuple(key)] = remaining
    results = []
    for title, dataset, count, name, domain, epsilons in NETWORKS:
        path = pathlib.Path("runs") / name / "model.keras"
        if not path.exists():
            raise SystemExit(f"benchmarks.autoattack_strength needs {path}: run {MAKE[name]}")
        model = models.load(path)
        model = models.extract(model, domain) if models.mixtures(model) else model
        count = 20 if options.quick else count
        images, labels = images_of(dataset, count)
        weights = checksum(model)
        clean = np.mean(model.predict(images, verbose=0).argmax(axis=-1) == labels)
        for epsilon in epsilons:
            steps = dict(num_steps=10, num_queries=50) if options.quick else {}
            task = ensembles.Task(model, epsilon, **steps)
            result = {"network": title, "epsilon": epsilon, "images": count, "clean": float(clean)}
            for who, seed, make in contestants(task, options, images):
                key = (title, weights, epsilon, count, who, seed)
                if key not in finished:
                    start = time.perf_counter()
                    finished[key] = make()(images, labels)
                    measuring.progress(*key, finished[key], f"{time.perf_counter() - start:.0f} s")
                    if not options.quick:
                        with FINISHED.open("a", encoding="utf-8") as file:
                            print(json.dumps([key, finished[key]]), file=file)
                result.setdefault(who, {})[seed] = finished[key]
            results.append(result)
    return {"settings": {"seeds": SEEDS, "commands": MAKE}, "results": results}


def table(report):
    heading = ["network", "epsilon", "images", "clean", "tfadv", "original", "apart", "allowed", ""]
    rows, parts = [], []
    for result in report["results"]:
        percent = 100 / result["images"]
        [ours] = result["tfadv"].values()
        theirs = [each["Square"] * percent for each in result["original"].values()]
        apart = ours["Square"] * percent - np.mean(theirs)
        allowed = max(0.5, max(theirs) - min(theirs))
        start = [result["network"], result["epsilon"]]
        rows.append(
            [
                *(*start, result["images"], f"{100 * result['clean']:.1f}"),
                f"{ours['Square'] * percent:.1f}",
                ", ".join(f"{each:.1f}" for each in theirs),
                f"{apart:+.1f}",
                f"{allowed:.1f}",
                "yes" if abs(apart) <= allowed + 1e-9 else "no",
            ]
        )
        parts.append(start)
        for part in ensembles.PARTS:
            of_seeds = [each[part] * percent for each in result["original"].values()]
            parts[-1].append(f"{ours[part] * percent:.1f} ({np.mean(of_seeds):.1f})")
    return "\n".join(
        [
            "Robust accuracy in percent; the original's with "
            f"{len(theirs)} seeds. Allowed: half a point, or how far its seeds differ:\n",
            measuring.markdown_table(heading, rows),
            "What is left after each part, tfadv's (and the original's mean):\n",
            measuring.markdown_table(["network", "epsilon", *ensembles.PARTS], parts),
        ]
    )


if __name__ == "__main__":
    measuring.main(
        "autoattack_strength", run, table, packages=PACKAGES, arguments=ensembles.add_option
    )
