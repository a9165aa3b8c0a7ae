"""Memory of an update's pass by depth, with and without rematerialization.

`python -m benchmarks.memory` takes each measurement in its own process: the peak of the resident
memory during the pass, less the memory that was resident right before. The difference is
activations, gradients and the workspace of kernels; weights and the optimized graph exist before.
"""

import ctypes
import json
import pathlib
import re
import subprocess
import sys
import time

import numpy as np

from benchmarks import measuring

DEPTHS = (50, 152, 338, 638)
WIDTH, SIZE, IMAGES = 8, 64, 256
KINDS = ("none", "step")


def resident(name):
    """Returns this process's resident memory in bytes: VmRSS is the current, VmHWM the peak."""
    text = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", text)[1])


def measure(depth, kind):
    """Measures the memory and the time of one pass, in bytes and seconds."""
    import tensorflow as tf

    from tfadv import models

    model = models.ResNet(depth, num_classes=10, image_size=SIZE, width=WIDTH, seed=0)
    images = tf.constant(
        np.random.default_rng(0).uniform(0, 255, [IMAGES, SIZE, SIZE, 3]), "float32"
    )
    labels = tf.range(IMAGES) % 10

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            logits = models.call(model, images, training=True, rematerialize=kind != "none")
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf.reduce_mean(loss)
        return [loss, *tape.gradient(loss, [v.value for v in model.trainable_variables])]

    start = time.perf_counter()
    gradients.get_concrete_function()
    traced = time.perf_counter()
    gradients()[0].numpy()  # the first call optimizes the graph, which takes extra memory
    ctypes.CDLL(None).malloc_trim(0)  # returns what the first call freed
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
    before = resident("VmRSS")
    begin = time.perf_counter()
    loss = float(gradients()[0])
    seconds = {"trace": traced - start, "pass": time.perf_counter() - begin}
    peak = resident("VmHWM") - before
    return {"depth": depth, "kind": kind, "bytes": peak, "before": before, "loss": loss, **seconds}


def child(depth, kind):
    command = [sys.executable, "-m", "benchmarks.memory", f"--child={depth},{kind}"]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(process.stdout.splitlines()[-1])
    measuring.progress(f"ResNet-{depth}, {kind}: {result['bytes'] / 2**20:.0f} MiB")
    return result


def run(options):
    depths = DEPTHS[:1] if options.quick else DEPTHS
    results = []
    for depth in depths:
        plain, step = (child(depth, kind) for kind in KINDS)
        # Both must compute the same function, or the comparison means nothing.
        np.testing.assert_allclose(step["loss"], plain["loss"], 1e-4)
        ratio = step["bytes"] / plain["bytes"]
        results.append({"depth": depth, "none": plain, "step": step, "ratio": ratio})
    settings = {"width": WIDTH, "image_size": SIZE, "images": IMAGES, "dtype": "float32"}
    return {"settings": settings, "results": results}


def table(report):
    rows = []
    for result in report["results"]:
        plain, step = result["none"], result["step"]
        rows.append(
            [
                f"ResNet-{result['depth']}",
                "at most 0.5" if result["depth"] == 638 else "",
                f"{result['ratio']:.2f}",
                *(f"{each['bytes'] / 2**20:.0f}" for each in (plain, step)),
                *(f"{each['pass']:.1f}" for each in (plain, step)),
            ]
        )
    settings = report["settings"]
    heading = ["update's pass", "required", "ratio of memory", "MiB", "MiB, rematerialized"]
    return (
        measuring.markdown_table([*heading, "seconds", "seconds, rematerialized"], rows)
        + f"\nWidth {settings['width']}, {settings['images']} images of {settings['image_size']} "
        "pixels. Each process runs one pass, so each time was measured once.\n"
    )


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("--child="):
        depth, kind = sys.argv[1].partition("=")[2].split(",")
        print(json.dumps(measure(int(depth), kind)))
    else:
        measuring.main("memory", run, table)
