import math

import pytest
import torch
from optional import absent
from torch import nn

from mmlesson.train import History, Muon, decay_groups, fit, orthogonalized, warmup_cosine


def linear_task(seed=0):
    """A linear map to learn: (model, batch_loss, optimizer, the true weight)."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(3, 2, bias=False)
    truth = torch.randn(2, 3, generator=generator)

    def batch_loss(step):
        x = torch.randn(32, 3, generator=generator)
        return (model(x) - x @ truth.T).square().mean()

    return model, batch_loss, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0), truth


def test_fit_learns_a_linear_map():
    model, batch_loss, optimizer, truth = linear_task()
    history = fit(model, batch_loss, optimizer, 200)
    torch.testing.assert_close(model.weight.detach(), truth, atol=1e-2, rtol=0)
    assert history.steps == list(range(200))
    assert history.loss[-1] < 1e-3 < history.loss[0]
    assert len(history.lr) == len(history.grad_norm) == 200 and max(history.lr) == pytest.approx(0.1)
    assert history.seconds > 0


def test_the_first_gradient_norm_is_the_norm_over_all_parameters():
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(model, lambda step: model(torch.tensor([2.0, 1.0])).sum() * 2, optimizer, 1)
    assert history.grad_norm == [pytest.approx(math.sqrt(4**2 + 2**2 + 2**2))]


def test_measurements_come_first_in_between_and_last_in_eval_mode():
    model, batch_loss, optimizer, truth = linear_task()
    modes = []

    def measure(step):
        modes.append((model.training, torch.is_grad_enabled()))
        return {"error": (model.weight - truth).abs().max()}

    history = fit(model, batch_loss, optimizer, 50, measure=measure, measure_every=20)
    assert [m["step"] for m in history.measures] == [0, 20, 40, 50]
    assert modes == [(False, False)] * 4 and model.training
    steps, errors = history.measured("error")
    assert steps == [0, 20, 40, 50] and errors[-1] < errors[0] and isinstance(errors[0], float)
    seconds, _ = history.measured("error", against="seconds")
    assert seconds[0] == 0 and seconds == sorted(seconds) and seconds[-1] == history.seconds


def test_after_step_runs_after_the_change():
    model, batch_loss, optimizer, _ = linear_task()

    def clamp(step):
        with torch.no_grad():
            model.weight.clamp_(-0.01, 0.01)

    fit(model, batch_loss, optimizer, 5, after_step=clamp)
    assert model.weight.abs().max() <= 0.01


def test_an_interrupt_keeps_what_was_learned(capsys):
    model, batch_loss, optimizer, _ = linear_task()
    start = model.weight.detach().clone()

    def interrupted(step):
        if step == 7:
            raise KeyboardInterrupt
        return batch_loss(step)

    history = fit(model, interrupted, optimizer, 20, label="CLIP")
    assert len(history.loss) == 7 and not torch.equal(model.weight, start)
    assert "CLIP was stopped after 7 of 20 steps; the model keeps what it learned." in capsys.readouterr().out


def test_an_interrupt_while_measuring_leaves_no_half_measurement(capsys):
    model, batch_loss, optimizer, _ = linear_task()

    def measure(step):
        if step == 10:
            raise KeyboardInterrupt
        return {"error": 1.0}

    history = fit(model, batch_loss, optimizer, 20, measure=measure, measure_every=5)
    assert [m["step"] for m in history.measures] == [0, 5] and model.training
    assert "after 10 of 20 steps" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_blames_the_batch_and_changes_nothing(bad):
    model, batch_loss, optimizer, _ = linear_task()
    weights = []

    def batch(step):
        weights.append(model.weight.detach().clone())
        return batch_loss(step) * (bad if step == 3 else 1)

    with pytest.raises(FloatingPointError) as error:
        fit(model, batch, optimizer, 10, label="CLIP")
    text = str(error.value)
    assert text.startswith(f"CLIP stopped at step 3: the loss is {bad} (last finite loss ")
    assert "learning rate 0.0" in text and "look at the batch or the loss" in text
    assert torch.equal(model.weight, weights[-1])


def test_a_nan_at_the_first_step_has_no_last_loss():
    model, batch_loss, optimizer, _ = linear_task()
    with pytest.raises(FloatingPointError, match=r"stopped at step 0.*\(no step before it"):
        fit(model, lambda step: batch_loss(step).log() * math.inf, optimizer, 10)


def test_a_broken_parameter_is_named():
    model, batch_loss, optimizer, _ = linear_task()

    def poison(step):
        with torch.no_grad():
            model.weight[0, 0] = float("nan")

    with pytest.raises(FloatingPointError, match="stopped at step 1.*The parameter weight is no longer finite"):
        fit(model, batch_loss, optimizer, 10, after_step=poison)


def test_a_broken_gradient_under_a_finite_loss_is_named_and_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}

    def batch_loss(step):
        hidden = model[0](torch.ones(4, 2)) * 0  # sqrt(0) is 0, but its slope is infinite
        return hidden.sqrt().sum() + model[1](torch.ones(4, 2)).sum()

    with pytest.raises(FloatingPointError, match=r"its gradient is nan.* 2 of 4 gradients .* of 0.weight, .* 0.bias"):
        fit(model, batch_loss, torch.optim.SGD(model.parameters(), lr=0.1), 3)
    assert all(torch.equal(p, start[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda model: 1.0, "not a float"),
        (lambda model: model(torch.ones(4, 3)), r"not one of shape \(4, 2\)"),
        (lambda model: model(torch.ones(4, 3)).sum().detach(), "without a gradient"),
    ],
)
def test_a_batch_loss_of_the_wrong_kind_is_told(loss, sentence):
    model, _, optimizer, _ = linear_task()
    with pytest.raises(
        TypeError, match=f"scalar tensor with a gradient, {sentence}" if "not" in sentence else sentence
    ):
        fit(model, lambda step: loss(model), optimizer, 1)


def test_an_optimizer_of_another_model_is_told():
    model, batch_loss, _, _ = linear_task()
    other = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="made for another model"):
        fit(model, batch_loss, other, 1)


def test_schedule_rises_then_falls_to_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, 110, warmup=10)
    rates = []
    for _ in range(112):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.2) and rates[4] == pytest.approx(1.0) and rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)  # half way down the cosine
    assert rates[110] == rates[111] == 0.0
    with pytest.raises(ValueError, match="less than the 10 steps, not 10"):
        warmup_cosine(optimizer, 10, warmup=10)


def test_a_long_gradient_is_cut_and_a_short_one_is_not():
    """Plain SGD moves by the gradient itself: (4, 2, 2) has length sqrt(24)."""
    for grad_clip, length in ((1.0, 1.0), (100.0, math.sqrt(24)), (None, math.sqrt(24))):
        model = nn.Linear(2, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        schedule = warmup_cosine(optimizer, 1, warmup=0)

        def loss(step):
            return model(torch.tensor([2.0, 1.0])).sum() * 2  # noqa: B023

        history = fit(model, loss, optimizer, 1, schedule, grad_clip=grad_clip)
        moved = torch.cat([model.weight.flatten(), model.bias])
        assert moved.norm().item() == pytest.approx(length)
        assert history.grad_norm == [pytest.approx(math.sqrt(24))]


def test_fit_leaves_the_random_numbers_alone():
    model, batch_loss, optimizer, _ = linear_task()
    before = torch.get_rng_state()
    fit(model, batch_loss, optimizer, 3, measure=lambda step: {"zero": 0.0}, measure_every=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stored_notebook_keeps_the_last_state_of_the_bar(notebook, capsys):
    model, batch_loss, optimizer, _ = linear_task()
    fit(model, batch_loss, optimizer, 25, label="CLIP")
    assert len({shown["display_id"] for shown in notebook}) == 1
    last = notebook[-1]["data"]["text/plain"]
    assert last.startswith("CLIP: 100%") and "25/25" in last and "loss" in last and len(last) <= 90
    assert capsys.readouterr() == ("", "")


def test_muon_takes_the_steps_of_torchs_and_adamw_the_others():
    reference = getattr(torch.optim, "Muon", None)
    if reference is None:
        absent("torch has Muon since 2.9")
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Linear(9, 4)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    start = [p.detach().clone() for p in ours.parameters()]

    def parts(model):
        return [p for p in model.parameters() if p.ndim == 2], [p for p in model.parameters() if p.ndim == 1]

    matrices, vectors = parts(ours)
    groups = [{"params": matrices, "orthogonal": True, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = Muon(groups, lr=0.02, betas=(0.9, 0.95))
    matrices, vectors = parts(theirs)
    references = [
        reference(matrices, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(vectors, lr=0.02, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for _ in range(5):
        x, y = torch.randn(20, 6), 5 * torch.randn(20, 4)  # other gradients in every step: momentum matters
        for model, optimizers in ((ours, [optimizer]), (theirs, references)):
            model.zero_grad()
            (model(x) - y).square().sum().backward()
            for one in optimizers:
                one.step()
    for before, a, b in zip(start, ours.parameters(), theirs.parameters()):
        far = (b - before).norm()
        assert far > 0.02 and (a - b).norm() < (0.1 if a.ndim == 2 else 0.01) * far  # torch iterates in bfloat16


def test_orthogonalized_keeps_singular_vectors_and_levels_their_values():
    for shape in ((5, 9), (9, 5)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) @ torch.diag(
            torch.logspace(0, 1, shape[1])
        )
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        values = u.T @ orthogonalized(matrix) @ v.T
        torch.testing.assert_close(values, torch.diag(values.diag()), atol=1e-4, rtol=0)
        assert (values.diag() > 0.6).all() and (values.diag() < 1.3).all()


def test_two_histories_are_added_up():
    first = History(steps=[0, 1], loss=[3.0, 2.0], lr=[0.1, 0.2], measures=[{"step": 0}], seconds=1.5)
    both = first + History(steps=[0], loss=[1.0], lr=[0.3], grad_norm=[9.0], measures=[{"step": 1}], seconds=2.0)
    assert both == History([0, 1, 0], [3.0, 2.0, 1.0], [0.1, 0.2, 0.3], [9.0], [{"step": 0}, {"step": 1}], 3.5)
    assert first.steps == [0, 1] and first.seconds == 1.5  # unchanged


def test_matrices_decay_and_vectors_do_not():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    matrices, others = decay_groups(model, 0.1)
    assert [p.shape for p in matrices["params"]] == [(3, 2)] and matrices["weight_decay"] == 0.1
    assert len(others["params"]) == 3 and others["weight_decay"] == 0
