"""Predictions of `tfadv.plan` against measurements: `python -m benchmarks.scale`.

FLOPs are counted in TensorFlow's graphs. This machine's throughput and the time of an all-reduce
come from results/workers.json, which `python -m benchmarks.workers` writes; the throughput of V100s
and other devices is in tfadv/tables/devices.tsv, with its sources.
"""

import statistics

import keras

from benchmarks import measuring
from tfadv import models
from tfadv.programs import costs
from tfadv.programs import plan as plan_program
from tfadv.programs.time_model import Work, predict
from tfadv.tables import devices, networks

PUBLISHED_HOURS = 52  # ResNet-152, PGD-30, 100% adv + 0% clean, 128 V100 (the pipeline's readme)
PUBLISHED_EVALUATION_HOURS = 1  # "about": ResNet-152, PGD-100, 50,000 images, 16 V100
ALLOWED = 0.15
STRATEGIES = {
    "0% adv + 100% clean": dict(num_steps=None, clean_images=32),
    "PGD-5, 100% adv + 0% clean": dict(num_steps=5, clean_images=0),
    "PGD-10, 100% adv + 100% clean": dict(num_steps=10, clean_images=32),
    "PGD-30, 100% adv + 0% clean": dict(num_steps=30, clean_images=0),
    "PGD-30, 100% adv + 100% clean": dict(num_steps=30, clean_images=32),
}
ANSWERS = (
    ("table7/resnet152-pgd30-clean0", 128, "v100"),
    ("table7/resnet152-pgd30-mbn", 128, "v100"),
    ("table7/resnet152-pgd30-mbn", 128, "a100"),
    ("table7/resnet152-pgd30-mbn", 128, "h100"),
    ("table7/resnet152-pgd30-mbn", 128, "h200"),
    ("table7/resnet152-pgd30-mbn", 8, "h100"),
    ("table7/resnet638-pgd30-clean0-running", 128, "v100"),
    ("table7/resnet638-pgd30-clean0-running", 128, "h200"),
)


def counted(depth, **options):
    """Returns the cost of a ResNet, without initializing its variables."""
    with keras.StatelessScope(initialize_variables=False):
        model = models.ResNet(depth, **options)
    measuring.progress(f"counting ResNet-{depth}")
    return costs.network_cost(model)


def flops(by_depth):
    """Returns the FLOPs by depth and strategy."""
    return [
        {
            "depth": depth,
            "gmacs": cost.forward / 2e9,
            "parameters": cost.parameters,
            "activation_bytes": cost.update_bytes,
            "gflop_a_clean_image": {
                name: (work.attack_flops(cost) + work.update_flops(cost)) / 32e9
                for name, work in (
                    (name, Work(images=32, updates=1, **options))
                    for name, options in STRATEGIES.items()
                )
            },
        }
        for depth, cost in by_depth.items()
    ]


def against_workers(report):
    """Compares the predicted seconds of an update with those measured in results/workers.json."""
    settings, rows = report["settings"], []
    cost = costs.network_cost(models.SmallResNet(settings["depth"]))
    work = Work(
        images=settings["images"],
        clean_images=settings["images"],
        num_steps=settings["num_steps"],
        updates=1,
    )
    for stage in ("arithmetic", "wait"):
        results = [result for result in report["results"] if result["stage"] == stage]
        one = results[0]
        alone = [seconds for turn in one["updates"] for seconds in turn]
        jitter = statistics.stdev(alone) / statistics.mean(alone)
        for result in results:
            count = result["workers"]
            if stage == "arithmetic":
                rates = dict(attack_rate=one["attack_rate"], update_rate=one["update_rate"])
            else:
                # The wait itself takes as long as for one worker, which gives a rate.
                whole = work.attack_flops(cost) + work.update_flops(cost)
                rates = dict.fromkeys(
                    ("attack_rate", "update_rate"), whole / statistics.median(alone)
                )
            reductions = result["reductions"]
            predicted = predict(
                work,
                cost,
                workers=count,
                jitter=jitter,
                **rates,
                **ring(reductions, count),
            )
            measured = statistics.median(result["seconds"])
            rows.append(
                {
                    "stage": stage,
                    "workers": count,
                    "predicted_seconds": predicted.seconds_per_update,
                    "measured_seconds": measured,
                    "difference": predicted.seconds_per_update / measured - 1,
                    "jitter": jitter,
                    "communication_seconds": predicted.communication,
                }
            )
    return rows


def ring(reductions, count):
    """Estimates the ring's bandwidth and latency from all-reduces of everything and of a number."""
    if count == 1:
        return {}
    steps = 2 * (count - 1)
    sending = max(reductions["all"] - reductions["one"], 1e-9)
    return {
        "bandwidth": steps * reductions["bytes"] / count / sending,
        "latency": reductions["one"] / steps,
    }


def published(cost):
    """Predicts the published times of 128 and of 16 V100, and finds the efficiency they imply."""
    prediction, work = answer(*ANSWERS[0], cost)
    device = devices.known_device("v100")
    sending = work.updates * prediction.communication / 3600
    # All time but that of communication is inversely proportional to the efficiency.
    implied = device.efficiency * (prediction.hours - sending) / (PUBLISHED_HOURS - sending)
    evaluation = 50000 * (100 * cost.image_gradient + cost.forward)
    seconds = evaluation / (16 * device.rate)
    return {
        "predicted_hours": prediction.hours,
        "published_hours": PUBLISHED_HOURS,
        "difference": prediction.hours / PUBLISHED_HOURS - 1,
        "efficiency": device.efficiency,
        "efficiency_source": device.source,
        "implied_efficiency": implied,
        "evaluation_predicted_hours": seconds / 3600,
        "evaluation_published_hours": PUBLISHED_EVALUATION_HOURS,
    }


def answer(name, workers, device, cost):
    """Returns the prediction of `python -m tfadv.plan` for a flagfile, and the work."""
    flags = [f"--flagfile=flags/{name}.flags", f"--workers={workers}", f"--device={device}"]
    settings = plan_program.parse(flags)
    work = plan_program.work(settings, workers)
    device = devices.known_device(device)
    prediction = predict(
        work,
        cost,
        attack_rate=device.rate,
        update_rate=device.update_rate,
        bandwidth=1e9 * settings.bandwidth,
        latency=1e-6 * settings.latency,
        workers=workers,
        jitter=settings.jitter,
    )
    return prediction, work


def run(options):
    workers = measuring.read("workers")
    if workers is None:
        raise SystemExit("results/workers.json is missing: run python -m benchmarks.workers first")
    depths = (50, 152) if options.quick else tuple(networks.DEPTHS)
    by_depth = {depth: counted(depth) for depth in depths}
    mixtures = {}
    answers = []
    for name, count, device in ANSWERS:
        settings = plan_program.parse([f"--flagfile=flags/{name}.flags", f"--workers={count}"])
        if settings.depth not in by_depth:
            continue
        key = settings.depth, settings.norm
        if key not in mixtures:
            mixtures[key] = counted(settings.depth, norm=settings.norm)
        prediction, work = answer(name, count, device, mixtures[key])
        answers.append(
            {
                "flagfile": name,
                "workers": count,
                "device": device,
                "hours": prediction.hours,
                "device_hours": prediction.device_hours,
                "images_per_second": prediction.images_per_second,
                "memory_bytes": work.memory(mixtures[key], count),
            }
        )
    return {
        "settings": {"allowed": ALLOWED, "workers_machine": workers["machine"]},
        "results": {
            "flops": flops(by_depth),
            "workers": against_workers(workers),
            "published": published(by_depth[152]),
            "answers": answers,
        },
    }


def table(report):
    results = report["results"]
    names = list(STRATEGIES)
    by_depth = measuring.markdown_table(
        ["ResNet", "GMAC an image", "parameters, millions", *(f"{name}, GFLOP" for name in names)],
        [
            [
                row["depth"],
                f"{row['gmacs']:.2f}",
                f"{row['parameters'] / 1e6:.1f}",
                *(f"{row['gflop_a_clean_image'][name]:,.0f}" for name in names),
            ]
            for row in results["flops"]
        ],
    )
    by_workers = measuring.markdown_table(
        ["stage", "workers", "predicted, s an update", "measured", "difference"],
        [
            [
                row["stage"],
                row["workers"],
                f"{row['predicted_seconds']:.3f}",
                f"{row['measured_seconds']:.3f}",
                f"{row['difference']:+.1%}",
            ]
            for row in results["workers"]
        ],
    )
    answers = measuring.markdown_table(
        ["flagfile", "devices", "hours", "device-hours", "clean images a second", "GB a device"],
        [
            [
                row["flagfile"],
                f"{row['workers']} {row['device']}",
                f"{row['hours']:.1f}",
                f"{row['device_hours']:,.0f}",
                f"{row['images_per_second']:,.0f}",
                f"{row['memory_bytes'] / 1e9:.1f}",
            ]
            for row in results["answers"]
        ],
    )
    check = results["published"]
    return (
        "FLOPs for each clean image of training, at 224 pixels (a GMAC is 2 GFLOP):\n\n"
        f"{by_depth}\nPredictions against this machine (required: within "
        f"{report['settings']['allowed']:.0%}):\n\n{by_workers}\n"
        f"ResNet-152, PGD-30, 100% adv + 0% clean on 128 V100: {check['predicted_hours']:.1f} "
        f"hours predicted, about {check['published_hours']} published "
        f"({check['difference']:+.0%}). The prediction assumes that the V100 reaches "
        f"{check['efficiency']:.0%} of its 15.7 TFLOP/s ({check['efficiency_source']}); "
        f"{check['published_hours']} hours imply {check['implied_efficiency']:.0%}. The evaluation "
        f"by PGD-100 on 16 V100, published as about {check['evaluation_published_hours']} hour, is "
        f"predicted as {check['evaluation_predicted_hours']:.1f}: the prediction leaves out the "
        f"reading of images and the start of programs.\n\n"
        f"Answers of `python -m tfadv.plan --flagfile=flags/...`, in float32 (TF32 on all but the "
        f"V100). The H200's throughput was measured on one; the H100's is assumed from that and "
        f"its memory's bandwidth. Communication between devices was not measured:\n\n{answers}"
    )


if __name__ == "__main__":
    measuring.main("scale", run, table)
