"""Adversarial training in a loop of your own, on any number of workers.

    python examples/custom_loop.py
    horovodrun -np 2 python examples/custom_loop.py
    python examples/custom_loop.py --quick    # 8x8 digits and four epochs, without a network

`AdversarialTraining` does all of this in `fit`, and checks more. Write the loop yourself where you
need another loss or another order of steps.
"""

import sys

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import tfadv

quick = "--quick" in sys.argv

# First of all: each worker takes its GPU or its share of the cores.
tfadv.distributed.init()
rank, workers = tfadv.distributed.rank(), tfadv.distributed.size()
keras.utils.set_random_seed(rank)

if quick:
    digits = load_digits()
    images, labels = digits.images[..., None] * (255 / 16), digits.target
    x_train, y_train, x_test, y_test = images[360:], labels[360:], images[:360], labels[:360]
else:
    (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    y_train, y_test = y_train[:, 0], y_test[:, 0]

# Each worker trains on its share of the images, in the same number of batches as all others.
train = tf.data.Dataset.from_tensor_slices((x_train[rank::workers], y_train[rank::workers]))
train = train.shuffle(10_000).batch(64, drop_remainder=True).take(len(x_train) // (64 * workers))

model = tfadv.models.SmallResNet(
    depth=8 if quick else 20,
    norm="mbn",  # mixture batch normalization: a branch for each domain
    image_size=x_train.shape[1],
    channels=x_train.shape[-1],
)
optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
optimizer.build(model.trainable_variables)
tfadv.distributed.broadcast(model.variables + optimizer.variables)
loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

epsilon = 48 if quick else 8
attack = tfadv.attacks.PGD(epsilon, step_size=epsilon / 4, num_steps=7)
statistics = [v for v in model.non_trainable_variables if "moving" in v.path]


def adv_branch(images):
    return tfadv.models.call(model, images, training=False, domain="adv")


@tf.function(reduce_retracing=True)
def train_step(images, labels, step):
    # One key for each worker and step makes the random starts and targets reproducible.
    adversarial = attack(
        adv_branch, images, labels, value_range=(0, 255), seed=tf.stack([rank, step])
    )
    both = tf.concat([adversarial, tf.cast(images, tf.float32)], axis=0)
    with tf.GradientTape() as tape:
        # The first len(images) images take the adv branches, the others the clean ones.
        logits = tfadv.models.call(model, both, training=True, domain=tf.shape(images)[0])
        loss = loss_fn(tf.concat([labels, labels], axis=0), logits)
    gradients = tape.gradient(loss, model.trainable_variables)
    # One collective operation, which every worker reaches in every step.
    means = tfadv.distributed.mean([loss, *gradients, *[v.value for v in statistics]], "step")
    optimizer.apply(means[1 : len(gradients) + 1], model.trainable_variables)
    for variable, mean in zip(statistics, means[len(gradients) + 1 :], strict=True):
        variable.assign(mean)
    return means[0]


step = 0
for epoch in range(4 if quick else 30):
    for x, y in train:
        loss = train_step(x, y, tf.constant(step))
        step += 1
    if rank == 0:
        print(f"epoch {epoch + 1}: loss {float(loss):.3f}", flush=True)

# Every image counts once, whatever the number of workers.
results = tfadv.evaluation.evaluate(
    model, (x_test, y_test), attack.with_steps(20), domains=["adv", "clean"]
)
if rank == 0:
    print(tfadv.evaluation.table(results))
    model.save("robust.keras")
