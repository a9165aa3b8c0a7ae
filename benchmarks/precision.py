"""Effect of the attack's precision on the robust accuracy that it measures.

`python -m benchmarks.precision` evaluates the quickstart's network (runs/quickstart, which
`make quickstart` writes) and one trained on Fashion-MNIST. PGD-20 attacks them in float32, bfloat16
and float16, from the same starts and towards the same targets. Rounding decides some attacks either
way, so each image has several starts and targets. The predictions are always in float32.
"""

import gzip
import pathlib

import keras
import numpy as np

from benchmarks import measuring
from tfadv import attacks, callbacks, data, evaluation, models

NUM_STEPS = 20
SEEDS = range(4)
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
TRAIN, EPOCHS, IMAGES = 4096, 4, 250


def fashion(which, count):
    """Returns images `[count, 28, 28, 1]` from 0 to 255, and their labels."""
    arrays = []
    for kind, offset in (("images-idx3", 16), ("labels-idx1", 8)):
        with gzip.open(FASHION / f"{which}-{kind}-ubyte.gz") as file:
            arrays.append(np.frombuffer(file.read(), np.uint8, offset=offset))
    images, labels = arrays
    images = images.reshape(-1, 28, 28, 1)[:count].astype("float32")
    return images, labels[:count].astype("int32")


def fashion_network(epochs):
    """Returns an 8-layer ResNet with mixture BN, trained under PGD-10 with epsilon 32."""
    model = models.SmallResNet(8, norm="mbn", image_size=28, channels=1, seed=0)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    measuring.progress(f"Fashion-MNIST: {epochs} epochs of training")
    images, labels = fashion("train", TRAIN)
    attack = attacks.PGD(epsilon=32, num_steps=10, start_from_clean=0.2)
    training = callbacks.AdversarialTraining(attack)
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=2, callbacks=[training])
    return model


def cases(options):
    """Yields (title, model, (images, labels), epsilon)."""
    path = pathlib.Path("runs/quickstart/model.keras")
    if not path.exists():
        raise SystemExit("benchmarks.precision needs runs/quickstart: run make quickstart first")
    digits = data.load("digits")
    parts = [
        (images[indices >= 0], labels[indices >= 0])
        for images, labels, indices in digits.validation_batches(60).as_numpy_iterator()
    ]
    images, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    yield "the quickstart's network, digits", keras.saving.load_model(path), (images, labels), 80
    if not FASHION.exists():
        raise SystemExit("benchmarks.precision needs Debian's package dataset-fashion-mnist")
    model = fashion_network(1 if options.quick else EPOCHS)
    count = 64 if options.quick else IMAGES
    yield "8-layer ResNet, mixture BN, Fashion-MNIST", model, fashion("t10k", count), 32


def run(options):
    results = []
    for title, model, dataset, epsilon in cases(options):
        for precision in models.PRECISIONS:
            attack = attacks.PGD(epsilon=epsilon, num_steps=NUM_STEPS)
            domains = ("adv", "clean")
            evaluations = [
                evaluation.evaluate(
                    model, dataset, attack, domains=domains, attack_precision=precision, seed=seed
                )
                for seed in SEEDS
            ]
            for by_seed in zip(*evaluations, strict=True):
                if by_seed[0].num_steps:
                    results.append({"network": title, **_mean(by_seed)})
                    measuring.progress(*results[-1].values())
    return {"settings": {"attack": f"PGD-{NUM_STEPS}", "seeds": len(SEEDS)}, "results": results}


def _mean(results):
    """Averages results that differ only in their seeds."""
    return {
        "domain": results[0].domain,
        "precision": results[0].precision,
        "accuracy": float(np.mean([result.accuracy for result in results])),
        "success": float(np.mean([result.success for result in results])),
        "total": results[0].total,
    }


def table(report):
    rows, exact = [], {}
    for result in report["results"]:
        key = (result["network"], result["domain"])
        accuracy, success = 100 * result["accuracy"], 100 * result["success"]
        exact.setdefault(key, accuracy)  # float32 comes first
        rows.append(
            [
                f"{result['network']}, {result['domain']} branch",
                result["precision"],
                f"{accuracy:.1f}",
                f"{accuracy - exact[key]:+.1f}",
                f"{success:.1f}",
                result["total"],
            ]
        )
    heading = ["network", "attacked in", "robust accuracy, %", "against float32", "success, %"]
    return (
        measuring.markdown_table([*heading, "images"], rows)
        + f"\n{report['settings']['attack']}, targeted; means over {report['settings']['seeds']} "
        "starts and targets of each image. Required of bfloat16: within one point.\n"
    )


if __name__ == "__main__":
    measuring.main("precision", run, table)
