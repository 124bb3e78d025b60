"""One training loop for every lesson."""

import io
import math
import time
from dataclasses import dataclass, field, fields

import torch
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from mmlesson import display, threads


@dataclass
class History:
    """The record of a training run.

    steps, loss, lr, grad_norm: one entry per step. measures: one dict per evaluation, with `step` (optimizer steps so
    far), `seconds` (of training so far) and whatever `measure` returned. seconds: training time, without evaluations.
    """

    steps: list = field(default_factory=list)
    loss: list = field(default_factory=list)
    lr: list = field(default_factory=list)
    grad_norm: list = field(default_factory=list)
    measures: list = field(default_factory=list)
    seconds: float = 0.0

    def __add__(self, more):
        """Two runs in sequence: the entries of both, each with its own step counts, and the sum of the seconds."""
        return History(*(getattr(self, part.name) + getattr(more, part.name) for part in fields(self)))

    def measured(self, name, against="step"):
        """(x, y): the measure `name` against the "step" (or the "seconds"), ready for plots.curves."""
        return [m[against] for m in self.measures], [m[name] for m in self.measures]


def warmup_cosine(optimizer, steps, warmup=None):
    """Learning-rate schedule: linear warmup for `warmup` steps (default: a tenth), then a cosine down to 0.

    The peak is the optimizer's own learning rate. Returns a torch LambdaLR (Loshchilov & Hutter 2017, "SGDR", without
    restarts).
    """
    warmup = steps // 10 if warmup is None else warmup
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup must be at least 0 and less than the {steps} steps, not {warmup}.")

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * min(1, (step - warmup) / (steps - warmup)))) / 2

    return LambdaLR(optimizer, factor)


def decay_groups(model, weight_decay):
    """Parameter groups for AdamW: matrices with weight decay; vectors and numbers (biases, norms, scales) without."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for groups of matrices marked `"orthogonal": True`, AdamW for all other groups.

    Muon's step is the momentum with all singular values brought near 1, so rare directions move as far as strong
    ones: https://kellerjordan.github.io/posts/muon. It is scaled by 0.2 sqrt(longer side), so one learning rate fits
    both (Liu et al. 2025, "Muon is scalable for LLM training", 2502.16982, section 2.2). torch.optim has Muon from 2.9.
    """

    momentum = 0.95

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if group.get("orthogonal"):
                for p in (p for p in group["params"] if p.grad is not None):
                    buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - self.momentum)
                    update = orthogonalized(p.grad.lerp(buffer, self.momentum))
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-0.2 * max(p.shape) ** 0.5 * group["lr"])
                    p.grad = None  # AdamW passes over it
        return super().step(closure)


def orthogonalized(matrix, steps=5):
    """A matrix (rows, columns) with the same singular vectors and singular values near 1: the same shape.

    Newton-Schulz iteration with Jordan's coefficients: the singular values end between about 0.7 and 1.2.
    """
    x = matrix / matrix.norm().clamp(min=1e-7)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def fit(
    model,
    batch_loss,
    optimizer,
    steps,
    schedule=None,
    after_step=None,
    measure=None,
    measure_every=100,
    grad_clip=None,
    label="training",
):
    """Train `model` for `steps` optimizer steps and return the History.

    batch_loss(step): draws a batch and returns its loss, a scalar tensor.
    schedule: a torch scheduler, stepped after every optimizer step; default warmup_cosine(optimizer, steps).
    after_step(step): called after every optimizer step, for example to clamp a parameter.
    measure(step): returns a dict of floats; called in eval mode and without gradients before the first step, then
        every `measure_every` steps, and at the end.
    grad_clip: the largest norm of the gradient of all parameters; a longer one is scaled down. The history keeps the
        norm before clipping.

    While other programs keep the machine busy it trains with fewer threads (threads.Chooser), and says so.
    An interrupt (the stop button) keeps what was learned. Raises FloatingPointError if the loss or a gradient is not
    finite, before that step changes a weight. The loop itself draws no random numbers.
    """
    schedule = schedule or warmup_cosine(optimizer, steps)
    history = History()
    model.train()
    bar = _bar(label, steps)
    chooser = threads.Chooser()
    try:
        for step in range(steps):
            if measure and step % measure_every == 0:
                _measure(model, measure, step, history)
            chooser.choose()
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            loss = batch_loss(step)
            _check_loss(loss)
            loss.backward()
            loss, grad_norm = _finite(loss, model, optimizer, history, label)
            if grad_clip and grad_norm > grad_clip:
                torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], grad_clip)
            lr = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()
            if after_step:
                after_step(step)
            history.steps.append(step)
            history.loss.append(loss)
            history.lr.append(lr)
            history.grad_norm.append(grad_norm)
            history.seconds += time.perf_counter() - started
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()
        if measure:
            _measure(model, measure, steps, history)
    except KeyboardInterrupt:
        print(f"{label} was stopped after {len(history.steps)} of {steps} steps; the model keeps what it learned.")
    finally:
        chooser.restore()
        bar.close()
    return history


def _measure(model, measure, step, history):
    model.eval()
    try:
        with torch.no_grad():
            values = {name: float(value) for name, value in measure(step).items()}
    finally:
        model.train()
    history.measures.append({"step": step, "seconds": history.seconds, **values})


def _check_loss(loss):
    if not isinstance(loss, torch.Tensor):
        found = f"a {type(loss).__name__}"
    elif loss.dim():
        found = f"one of shape {tuple(loss.shape)}"
    elif not loss.requires_grad:
        found = "one without a gradient (was it detached, or made under no_grad?)"
    else:
        return
    raise TypeError(f"batch_loss(step) must return the loss as a scalar tensor with a gradient, not {found}.")


def _finite(loss, model, optimizer, history, label):
    """(loss, norm of all gradients) as floats; raises FloatingPointError, saying where, if either is not finite."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        raise ValueError("No parameter of the optimizer received a gradient: was it made for another model?")
    norm = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).float().norm()
    value, norm = torch.stack([loss.detach().float(), norm]).tolist()  # one wait for the GPU, not two
    if math.isfinite(value) and math.isfinite(norm):
        return value, norm
    before = f"last finite loss {history.loss[-1]:.4g}" if history.loss else "no step before it"
    rate = optimizer.param_groups[0]["lr"]
    wrong = (
        f"the loss is {value}" if not math.isfinite(value) else f"the loss is {value:.4g} but its gradient is {norm}"
    )
    raise FloatingPointError(
        f"{label} stopped at step {len(history.steps)}: {wrong} ({before}, learning rate {rate:.3g}). "
        f"{_culprit(model, value)} The model keeps its weights from before this step."
    )


def _culprit(model, loss):
    """One sentence: the first parameter that is not finite, else where the finite numbers stop."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"The parameter {name} is no longer finite: an earlier change of it went too far."
    if not math.isfinite(loss):
        return "Every parameter is finite, so look at the batch or the loss: a log or a division at 0, an exp too big?"
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    bad = [name for name, gradient in named if not gradient.isfinite().all()]
    if not bad:
        return "Every gradient is finite, but together they overflow: the loss is far too steep."
    return f"{len(bad)} of {len(named)} gradients are not finite, the first that of {bad[0]}, the last of {bad[-1]}."


class _NotebookBar(tqdm):
    """tqdm as one line of text, updated in place: a stored notebook keeps its last state."""

    handle = None

    def display(self, msg=None, pos=None):
        if self.handle is None:
            self.handle = display.show(str(self), updatable=True)
        else:
            display.update(self.handle, str(self))


def _bar(label, steps):
    if display.in_notebook():  # nothing is written to `file`, but tqdm needs one
        return _NotebookBar(desc=label, total=steps, mininterval=0.2, ncols=90, ascii=False, file=io.StringIO())
    return tqdm(desc=label, total=steps, mininterval=0.2)
