"""`tfadv.plan` on flagfiles of the paper, and its users' mistakes."""

import re

import pytest

from tfadv import config, plan


def run_program(monkeypatch, capsys, *flags):
    """What it prints, as a dictionary."""
    monkeypatch.setattr("sys.argv", ["tfadv.plan", *flags])
    plan.main()
    return dict(re.split(": +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_the_published_52_hours(monkeypatch, capsys):
    # ResNet-152, PGD-30, 100% adv + 0% clean on 128 V100 took "about 52 hours" (pipeline).
    flagfile = "--flagfile=flags/table7/resnet152-pgd30-clean0.flags"
    said = run_program(monkeypatch, capsys, flagfile, "--workers=128", "--device=v100")
    assert re.match("resnet152, norm bn, 60,192,808 parameters; .*forward 23.03,", said["network"])
    assert said["strategy"].startswith("PGD-30, 100% adv + 0% clean; 1450 GFLOP a clean image, 95%")
    hours, device_hours = re.search(
        r"34,430 updates .*: ([\d.]+) hours, ([\d,]+) device-hours", said["training"]
    ).groups()
    assert float(hours) == pytest.approx(52, rel=0.15)
    assert float(device_hours.replace(",", "")) == pytest.approx(128 * float(hours), rel=1e-3)


def test_measured_on_this_machine(monkeypatch, capsys):
    from tfadv.planning import measured_rates

    monkeypatch.setattr(measured_rates, "measure_rates", lambda *_, **__: (1e9, 2e9))
    flags = ["--flagfile=flags/quickstart.flags", "--width=4", "--device=here", "--workers=2"]
    said = run_program(monkeypatch, capsys, *flags)
    assert said["devices"].startswith("2 like this one, measured now: attack 0.001 TFLOP/s")
    assert re.search(r"communication [\d.]+%, waiting for the slowest [\d.]+%", said["update"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device=v1000"], "device must be here or one of v100, a100, h100, .*'v1000'"),
        (["--device=v100", "--dtype=mixed_bfloat16"], "dtype of device v100 .*'bfloat16'"),
        (["--workers=7"], "batch_size must be a multiple of .* times 7 workers; received 4096"),
        (["--device=here", "--efficiency=0.5"], "efficiency must not be given with device=here"),
        (["--efficiency=2"], "efficiency must be between 1e-06 and 1; received 2"),
        (["--dataset=image_folder"], "steps_per_epoch must be given to plan for"),
        (["--dataset=imagenet"], "the data set must be one of digits, .*'imagenet'"),
        (["--norm=batch"], "norm.* must be one of"),
    ],
)
def test_mistakes(flags, message):
    with pytest.raises(ValueError, match=message):
        config.plan(flags)


def test_a_mistake_is_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tfadv.plan", "--device=v1000"])
    with pytest.raises(SystemExit) as end:
        plan.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
