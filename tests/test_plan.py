"""`tfadv.plan` on flagfiles of the paper; test_bad_flags.py tests users' mistakes."""

import re

import pytest

from tfadv.programs import start


def run_program(capsys, *flags):
    """Runs the program; returns the lines that it prints, by their names."""
    start.run("plan", flags)
    return dict(re.split(": +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_the_published_52_hours(capsys):
    # ResNet-152, PGD-30, 100% adv + 0% clean on 128 V100 took "about 52 hours" (pipeline).
    flagfile = "--flagfile=flags/table7/resnet152-pgd30-clean0.flags"
    lines = run_program(capsys, flagfile, "--workers=128", "--device=v100")
    assert re.match("resnet152, norm bn, 60,192,808 parameters; .*forward 23.03,", lines["network"])
    assert lines["strategy"].startswith(
        "PGD-30, 100% adv + 0% clean; 1450 GFLOP a clean image, 95%"
    )
    hours, device_hours = re.search(
        r"34,430 updates .*: ([\d.]+) hours, ([\d,]+) device-hours", lines["training"]
    ).groups()
    assert float(hours) == pytest.approx(52, rel=0.15)
    assert float(device_hours.replace(",", "")) == pytest.approx(128 * float(hours), rel=1e-3)


def test_measured_on_this_machine(monkeypatch, capsys):
    from tfadv.programs import costs

    monkeypatch.setattr(costs, "measure_rates", lambda *_, **__: (1e9, 2e9))
    flags = ["--flagfile=flags/quickstart.flags", "--width=4", "--device=here", "--workers=2"]
    lines = run_program(capsys, *flags)
    assert lines["devices"].startswith("2 like this one, measured now: attack 0.001 TFLOP/s")
    assert re.search(r"communication [\d.]+%, waiting for the slowest [\d.]+%", lines["update"])


def test_attack_and_update_have_rates_of_their_own(capsys):
    flags = ["--flagfile=flags/quickstart.flags", "--width=4", "--device=h200", "--workers=2"]
    one = run_program(capsys, *flags)
    assert "0.151 (the attack) and 0.046 (the update's pass) of 494 TFLOP/s" in one["devices"]
    assert one["update"].endswith("while kernels start, which is not counted")
    flags_of_a_cpu = [*flags[:-2], "--device=cpu", "--workers=2"]
    cpu = run_program(capsys, *flags_of_a_cpu)
    assert cpu["update"].endswith("clean images a second")
    two = run_program(capsys, *flags, "--attack_precision=bfloat16")
    assert "attack in bfloat16 on tensor cores: 0.121 of 989" in two["devices"]
    assert "update in float32 on TF32 tensor cores: 0.046 of 494" in two["devices"]
    # Both evaluate with a float32 attack.
    pattern = "updates and (.*) of evaluations"
    assert re.search(pattern, one["training"])[1] == re.search(pattern, two["training"])[1]


def test_a_folder_is_counted_as_its_training_counts_it(capsys, tmp_path):
    for split, count in (("train", 64), ("val", 5)):
        for name in ("ant", "bee", "cat"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / split / name / f"{number}.jpg").touch()
    flags = ["--dataset=image_folder", f"--data_dir={tmp_path}", "--image_size=32", "--depth=8"]
    flags += ["--blocks=1,1", "--width=4", "--batch_size=32", "--epochs=2", "--device=cpu"]
    lines = run_program(capsys, *flags)
    assert lines["data"] == "image_folder, 192 training and 15 validation images, 3 classes"
    assert lines["training"].startswith("12 updates and ")  # 192 images in batches of 32, twice
    assert "0 seconds of evaluations" not in lines["training"]
    # The last layer has 997 classes fewer than ImageNet's: fewer weights and biases for each.
    flags[0] = "--dataset=synthetic"
    parameters = [
        int(re.search("([0-9,]+) parameters", each["network"])[1].replace(",", ""))
        for each in (lines, run_program(capsys, *flags))
    ]
    assert (parameters[1] - parameters[0]) % 997 == 0 and parameters[1] > parameters[0]


def test_times_are_printed_in_readable_units(capsys):
    flags = ["--flagfile=flags/quickstart.flags", "--width=4", "--device=h100", "--epochs=1"]
    lines = run_program(capsys, *flags, "--steps_per_epoch=1", "--workers=2", "--copying=2")
    assert lines["between"].endswith(
        "20 us a step of the ring; jitter 0.02; Gloo, cores copy 2 GB/s"
    )
    assert not re.search(r"\de[-+]\d", lines["update"] + lines["training"])
