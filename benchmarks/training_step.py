"""tfadv's training step against Keras's own: `python -m benchmarks.training_step`.

Both are `fit`'s train function, on the same images, with the same attack. Keras's step is the one
that a user would write: attack, concatenate both batches, call `keras.Model.train_step`.
"""

import keras
import numpy as np
import tensorflow as tf

from benchmarks import measuring
from tfadv import attacks, callbacks, models
from tfadv.layers import scope

ROUNDS = 15
BATCH = 32
NUM_STEPS = 10
PARTS = 4  # accumulated steps of one update
NORMS = ("bn", "mbn", "gn")
WITHOUT = {"mbn": "mixture BN", "bn": "tfadv's BN", "keras": "Keras's BN"}


def network(norm):
    model = models.SmallResNet(20, norm=norm, width=16, image_size=32, seed=0)
    return compiled(model)


def compiled(model):
    model.compile(
        optimizer=keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def batches(images, labels):
    return iter(tf.data.Dataset.from_tensors((images, labels)).repeat())


def tfadv_step(model, attack, images, labels, **options):
    """Returns the training step of `fit` with `AdversarialTraining`."""
    callback = callbacks.AdversarialTraining(attack, **options)
    callback.set_model(model)
    iterator = batches(images, labels)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    count = iter(range(10**9))

    def step():
        callback.on_train_batch_begin(next(count))
        return float(model.train_function(iterator)["loss"])

    return step


def keras_step(model, attack, images, labels):
    """Returns the training step of `fit` with the attack and `keras.Model.train_step`."""
    network = models.Frozen(model)

    def train_step(data):
        images, labels = data
        seed = tf.stack([0, model.optimizer.iterations.value])
        adversarial = attack(
            network, images, labels, value_range=(0, 255), seed=seed, num_classes=10
        )
        both = tf.concat([adversarial, images], 0), tf.concat([labels, labels], 0)
        with scope.enter(images.shape[0]):
            return keras.Model.train_step(model, both)

    model.train_step = train_step
    return own_step(model, images, labels)


def own_step(model, images, labels, domain="adv"):
    """Returns the training step of `fit` without callbacks."""
    model.make_train_function()
    iterator = batches(images, labels)

    def step():
        with scope.enter(domain):  # read when the first call traces the step
            return float(model.train_function(iterator)["loss"])

    return step


def run(options):
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, [BATCH, 32, 32, 3]), tf.float32)
    labels = tf.constant(rng.integers(0, 10, BATCH))
    attack = attacks.PGD(num_steps=NUM_STEPS)
    turns = measuring.rounds(options, ROUNDS)
    results = []
    for norm in NORMS:
        seconds = measuring.interleaved(
            {
                "tfadv": tfadv_step(network(norm), attack, images, labels),
                "attack + Keras's step": keras_step(network(norm), attack, images, labels),
            },
            turns,
            label=norm,
        )
        ratio = measuring.ratio(seconds, "tfadv", "attack + Keras's step")
        results.append({"norm": norm, "seconds": seconds, "ratio": ratio})
    many, of_many = tf.concat([images] * PARTS, 0), tf.concat([labels] * PARTS, 0)
    together = measuring.interleaved(
        {
            str(parts): tfadv_step(
                network("mbn"),
                attack,
                many,
                of_many,
                accumulation_steps=PARTS,
                attack_parts=parts,
            )
            for parts in (1, 2, PARTS)
        },
        max(2, turns // 3),
        label="parts attacked together",
    )
    # The mixture sees as many adversarial images as clean ones.
    both, twice = tf.concat([images, images], 0), tf.concat([labels, labels], 0)
    networks = {"bn": network("bn"), "mbn": network("mbn")}
    networks["keras"] = compiled(models.extract(networks["bn"], "adv"))
    seconds = measuring.interleaved(
        {norm: own_step(model, both, twice, domain=BATCH) for norm, model in networks.items()},
        3 * turns,
        label="without the attack",
    )
    return {
        "settings": {
            "network": "SmallResNet-20, width 16, 32 pixels",
            "images": f"{BATCH} clean and {BATCH} adversarial",
            "attack": f"PGD-{NUM_STEPS}",
        },
        "results": results,
        "together": {"parts": PARTS, "seconds": together},
        "without_attack": {
            "seconds": seconds,
            "mbn_to_bn": measuring.ratio(seconds, "mbn", "bn"),
            "mbn_to_keras": measuring.ratio(seconds, "mbn", "keras"),
            "bn_to_keras": measuring.ratio(seconds, "bn", "keras"),
        },
    }


def table(report):
    rows = []
    for result in report["results"]:
        ours, theirs = (
            f"{measuring.spread(result['seconds'][name])['median']:.2f}"
            for name in ("tfadv", "attack + Keras's step")
        )
        reached = measuring.in_words(result["ratio"])
        rows.append([f"with the attack, {result['norm']}", "at most 1.05", reached, ours, theirs])
    # Reports from before there was a choice do not have it.
    seconds = report.get("together", {"seconds": {}})["seconds"]
    for parts in list(seconds)[1:]:
        times = (f"{measuring.spread(seconds[each])['median']:.2f}" for each in (parts, "1"))
        what = f"{report['together']['parts']} accumulated steps, {parts} attacked together against"
        reached = measuring.in_words(measuring.ratio(seconds, parts, "1"))
        rows.append([f"{what} each alone, mbn", "", reached, *times])
    alone = report["without_attack"]
    for key, required in (
        ("mbn_to_bn", "at most 1.15"),
        ("mbn_to_keras", "below 1"),
        ("bn_to_keras", ""),
    ):
        names = key.split("_to_")
        times = (f"{measuring.spread(alone['seconds'][name])['median']:.3f}" for name in names)
        what = " against ".join(WITHOUT[name] for name in names)
        rows.append(
            [f"without the attack, {what}", required, measuring.in_words(alone[key]), *times]
        )
    settings = ", ".join(report["settings"].values())
    heading = ["training step", "required", "ratio of times", "seconds", "seconds of the other"]
    return measuring.markdown_table(heading, rows) + f"\n{settings}.\n"


if __name__ == "__main__":
    measuring.main("training_step", run, table)
