"""What chapter 4 (nbs/04_train.ipynb) promises and doesn't show: what it refuses, in
which words, and what its `Trainer` does when a run is cut short or continued."""

import math, warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from charlm.checks import BadInput
from charlm.data import get_batch
from charlm.gpt import GPT, GPTConfig
from charlm.hardware import casting
from charlm.train import (
    Evaluation,
    TextLoss,
    TrainConfig,
    Trainer,
    backward,
    check_finite,
    check_splits,
    estimate_loss,
    evaluate,
    live_plot,
    lr_at,
    plot_losses,
    windows,
)

V = 20
IDS = torch.randint(V, (400,), generator=torch.Generator().manual_seed(0))
PLAN = TrainConfig(
    steps=6,
    batch_size=4,
    eval_interval=3,
    eval_iters=2,
    device="cpu",
    dtype="float32",
)


def tiny(cls=GPT, **shape):
    torch.manual_seed(1337)
    shape = dict(block_size=8, n_embd=16, n_head=2, n_layer=1) | shape
    return cls(GPTConfig(V, **shape))


def trainer(config=PLAN, model=None):
    return Trainer(model or tiny(dropout=0.2), IDS[:300], IDS[300:], config)


def changed(**settings):
    return TrainConfig(**{"device": "cpu", "dtype": "float32"} | settings)


def same(a, b):
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(steps=0), "steps is 0; it must be a whole number from 1 to"),
        (dict(lr=-1.0), "lr is -1.0; it must be a number above 0"),
        (dict(lr=math.nan), "lr is nan"),
        (dict(steps=10**6, eval_interval=1), "more than 100,000 evaluations"),
        (dict(seed=-1), "seed is -1"),
        (dict(clip=-1), "clip is -1; it must be a number from 0"),
        (dict(accumulate=3), "batch_size is 16, which accumulate 3 doesn't divide"),
        (dict(warmup=0.5), "warmup is 0.5"),
        (dict(final_lr=5.0), "final_lr is 5.0; it must be a number from 0 to 1"),
        (dict(hold=1.0), "hold is 1.0; it must be a number from 0 to below 1"),
        (dict(decay="square"), "decay is 'square'; choose none, linear or cosine"),
        (dict(compile="maybe"), "compile is 'maybe'; choose auto, yes or no"),
        (dict(dtype="int8"), "dtype is 'int8'"),
        (dict(device=3), "device is 3; choose auto, cpu, cuda or mps"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(BadInput) as e:
        TrainConfig(**settings)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_short_splits_are_refused_before_anything_else():
    check_splits(torch.zeros(300), torch.zeros(33), 32)
    with pytest.raises(BadInput, match="300 and 32 characters, too few for block_s"):
        check_splits(torch.zeros(300), torch.zeros(32), 32)
    with pytest.raises(BadInput, match="each needs 9"):
        Trainer(tiny(), IDS, IDS[:8], PLAN)


def test_losses_that_are_not_finite_are_refused_with_their_step():
    one, nan, two = torch.tensor(1.0), torch.tensor(math.nan), torch.tensor(2.0)
    assert check_finite([one, torch.tensor(3.0)], 7, 0.1) == 2
    words = "the loss is nan at step 8, with a learning rate of 0.5; lower the rate"
    with pytest.raises(BadInput, match=words):
        check_finite([one, nan, two], 9, 0.5)


def test_a_rate_that_is_far_too_high_ends_the_run():
    far = changed(steps=30, lr=1e30, clip=0.0, eval_interval=30, eval_iters=1)
    with pytest.raises(BadInput, match="the loss is (nan|inf) at step"):
        trainer(far).run()


@pytest.mark.parametrize(
    "ids, words",
    [
        (IDS[None], "ids have shape (1, 400); evaluate takes one row of ids, (N,)"),
        (IDS[:1], "a text of 1 characters is too short to evaluate on; it needs 2"),
        (IDS + V, "is outside the alphabet"),
    ],
)
def test_texts_that_cannot_be_judged_are_refused(ids, words):
    with pytest.raises(BadInput) as e:
        evaluate(tiny(), ids)
    assert words in str(e.value)


@pytest.mark.parametrize("n", [2, 3, 8, 9, 10, 17, 50])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_windows_have_every_token_but_the_first_as_a_target_once(n, batch_size):
    targets = [y for _, y in windows(torch.arange(n), 8, batch_size)]
    assert torch.cat([y.flatten() for y in targets]).tolist() == list(range(1, n))
    for x, y in windows(torch.arange(n), 8, batch_size):
        assert torch.equal(x + 1, y) and len(x) <= batch_size and x.numel()


def test_evaluate_agrees_with_the_long_way():
    "Each window read anew for each of its characters"
    model, some, losses = tiny(), IDS[:50], []
    with torch.no_grad():
        for start in range(0, 49, 8):
            for t in range(start + 1, min(start + 9, 50)):
                logits = model(some[None, start:t])[0]
                losses.append(F.cross_entropy(logits[0, -1:], some[t : t + 1]).item())
    found = evaluate(model, some)
    assert found.tokens == len(losses) == 49
    assert abs(found.nats - sum(losses) / 49) < 1e-5
    assert abs(found.nats - evaluate(model, some, batch_size=3).nats) < 1e-6


def test_dropout_counts_in_training_mode_only_and_a_fresh_model_guesses():
    model, (x, y) = tiny(dropout=0.2), get_batch(IDS, 16, 8)
    with torch.no_grad():
        training = [model(x, y)[1].item() for _ in range(2)]
        model.eval()
        judging = [model(x, y)[1].item() for _ in range(2)]
    assert training[0] != training[1] and judging[0] == judging[1]
    assert abs(estimate_loss(model, IDS, iters=20) - math.log(V)) < 0.1
    assert model(x, y)[1].requires_grad


def test_evaluate_casts_by_itself():
    model, cpu = tiny(), torch.device("cpu")
    with casting(cpu, torch.bfloat16):
        around = evaluate(model, IDS)
    assert evaluate(model, IDS, dtype=torch.bfloat16) == around
    assert evaluate(model, IDS) != around
    assert abs(evaluate(model, IDS).nats - around.nats) < 0.01


def test_units_of_a_loss_agree():
    loss = TextLoss(nats=1.5, tokens=1)
    assert math.isclose(loss.bits, math.log2(loss.perplexity))


def test_estimating_leaves_no_trace():
    model = tiny(dropout=0.5)
    model.blocks[0].ffwd.eval()
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    assert estimate_loss(model, IDS, 4, 3) == estimate_loss(model, IDS, 4, 3)
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize("decay", ["none", "linear", "cosine"])
def test_rates_rise_and_then_never_again(decay):
    plan = TrainConfig(steps=100, warmup=10, decay=decay, hold=0.3, final_lr=0.0)
    rates = [lr_at(step, plan) for step in range(101)]
    assert rates[:11] == sorted(rates[:11]) and rates[0] == 0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert math.isclose(rates[10], plan.lr) and math.isclose(rates[37], plan.lr)
    assert math.isclose(rates[100], plan.lr if decay == "none" else 0.0)


@pytest.mark.parametrize(
    "decay, hold", [("none", 0.0), ("linear", 0.0), ("cosine", 0.0), ("linear", 0.5)]
)
def test_the_drawn_rates_begin_and_end_where_they_should(decay, hold):
    plan = TrainConfig(steps=1000, warmup=100, hold=hold, decay=decay)
    rates = [lr_at(step, plan) for step in range(1, 1001)]
    assert math.isclose(rates[0], 1e-5) and math.isclose(max(rates), 1e-3)
    assert math.isclose(rates[-1], 1e-3 if decay == "none" else 1e-4)
    assert math.isclose(rates[549], 1e-3) or not hold  # still held half-way


def test_what_the_settings_say_is_true_of_a_run():
    def taken_through(**settings):
        run = trainer(changed(steps=20, batch_size=4, **settings), tiny(dropout=0.1))
        for _ in run.steps():
            pass
        return run

    once = taken_through(clip=0.5)
    assert same(once, taken_through(clip=0.5))
    assert not same(once, taken_through(clip=0.5, warmup=10, decay="cosine"))
    assert not same(once, taken_through(clip=0.0))
    assert not same(once, taken_through(clip=0.5, seed=1))
    mixed = taken_through(clip=0.5, dtype="bfloat16")
    assert not same(once, mixed)
    losses = [estimate_loss(run.model, IDS[300:], 4, 20) for run in (once, mixed)]
    assert abs(losses[0] - losses[1]) < 0.05


def test_a_run_remembers_two_averages_a_parameter():
    run = trainer()
    run.run(stop=lambda: run.step == 3)
    sizes = {"model": 0, "optimizer": 0, "random": 0}
    tensors, _ = run.state()
    for name, t in tensors.items():
        sizes[name.split(".")[0]] += t.nbytes
    assert sizes["optimizer"] > 2 * sizes["model"]  # two averages, and the steps
    assert run.expected_state(3).keys() == tensors.keys()


def test_ten_steps_on_one_batch_each_make_it_better(monkeypatch):
    batch = get_batch(IDS, 4, 8, torch.Generator().manual_seed(1))
    monkeypatch.setattr("charlm.train.get_batch", lambda *args: batch)
    run = trainer(changed(steps=10, batch_size=4), tiny())
    losses = [run.advance().item() for _ in range(10)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("choice, calls", [("auto", 0), ("no", 0), ("yes", 1)])
def test_on_a_processor_only_yes_compiles(monkeypatch, choice, calls):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    monkeypatch.setattr("charlm.train.check_compiler", lambda device: None)
    trainer(changed(compile=choice))
    assert len(compiled) == calls


def test_compiling_leaves_the_names_of_the_weights():
    model = tiny()
    names = list(model.state_dict())
    model.compile(backend="eager")
    assert list(model.state_dict()) == names


def test_live_plot_replaces_the_last_picture(monkeypatch):
    import IPython.display

    seen = []
    monkeypatch.setattr(
        IPython.display, "clear_output", lambda wait: seen.append("clear")
    )
    monkeypatch.setattr(IPython.display, "display", seen.append)
    run = trainer()
    run.run(live_plot)
    assert seen[::2] == ["clear"] * 3
    assert [len(fig.axes[0].lines[0].get_xdata()) for fig in seen[1::2]] == [1, 2, 3]


def test_a_curve_has_a_line_for_each_split_and_baseline():
    history = [Evaluation(0, 3.0, 3.0), Evaluation(5, 2.0, 2.5)]
    fig = plot_losses(history, {str(i): 1.0 + i for i in range(5)})
    assert len(fig.axes[0].lines) == 7
    assert len(plot_losses(history).axes[0].lines) == 2


def test_steps_yields_the_start_and_each_step_and_stops_when_asked():
    run = trainer()
    assert list(run.steps(stop=lambda: run.step == 2)) == [0, 1, 2]
    assert list(run.steps()) == [2, 3, 4, 5, 6]
    assert list(run.steps()) == [6] and run.history == []
    assert run.seconds > 0


def test_stop_is_asked_before_the_first_step_too():
    run = trainer()
    assert run.run(stop=lambda: True) is False
    assert run.step == 0 and [e.step for e in run.history] == [0]
    assert run.run() is True and [e.step for e in run.history] == [0, 3, 6]
    assert run.run() is True and [e.step for e in run.history] == [0, 3, 6]


def test_functions_are_called_once_an_evaluation_before_its_line(capsys):
    seen = []
    trainer().run(lambda run: seen.append((run.step, capsys.readouterr().out)))
    assert [step for step, _ in seen] == [0, 3, 6]
    assert seen[0][1] == "" and "step     0: train loss" in seen[1][1]


def test_a_function_that_fails_leaves_the_threads_as_they_were():
    def fail(run):
        raise KeyError

    before = torch.get_num_threads()
    run = trainer(changed(steps=6, batch_size=4, threads=before + 1))
    with pytest.raises(KeyError):
        run.run(fail)
    assert torch.get_num_threads() == before


def test_what_functions_draw_does_not_change_the_run():
    plain = trainer()
    for _ in plain.steps():
        pass
    watched = trainer()
    watched.run(lambda run: torch.rand(7))
    assert same(plain, watched)


def test_rehearsing_changes_nothing():
    run = trainer()
    run.run(stop=lambda: run.step == 3)
    before = {n: t.clone() for n, t in run.state()[0].items()}
    run.rehearse()
    after = run.state()[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[n]) for n, t in before.items())


class Momentum(GPT):
    "Made at the first step, like AdamW's averages, but others"

    def make_optimizer(self, config, dtype=torch.float32):
        return torch.optim.SGD(self.parameters(), lr=config.lr, momentum=0.9)


class Remembered(torch.optim.SGD):
    "One that makes its averages when it is made itself"

    def __init__(self, params, **how):
        super().__init__(params, **how)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)


class FromTheStart(GPT):
    def make_optimizer(self, config, dtype=torch.float32):
        return Remembered(self.parameters(), lr=config.lr, momentum=0.9)


class Nothing(GPT):
    "One that remembers nothing"

    def make_optimizer(self, config, dtype=torch.float32):
        return torch.optim.SGD(self.parameters(), lr=config.lr)


@pytest.mark.parametrize("cls", [GPT, Momentum, FromTheStart, Nothing])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_whatever_the_optimizer_a_run_continues_to_the_bit(cls, at):
    unbroken = trainer(model=tiny(cls, dropout=0.2))
    unbroken.run()
    broken = trainer(model=tiny(cls, dropout=0.2))
    broken.run(stop=lambda: broken.step == at)
    tensors, about = broken.state()
    torch.manual_seed(999)
    continued = trainer(model=tiny(cls, dropout=0.2))
    if at == 3:
        continued.run()  # one that has done something else before
    continued.restore({n: t.numpy() for n, t in tensors.items()}, about)
    continued.run()
    assert same(continued, unbroken) and continued.history == unbroken.history


def test_going_back_to_the_start_forgets_the_averages():
    run = trainer()
    start, about = run.state()
    start = {n: t.clone() for n, t in start.items()}
    run.run()
    run.restore(start, about)
    run.run()
    again = trainer()
    again.run()
    assert same(run, again)


def broken_state(changes, said, cls=GPT):
    run = trainer(model=tiny(cls))
    run.run(stop=lambda: run.step == 3)
    tensors, about = run.state()
    mixed = {n: t for n, t in (tensors | changes).items() if t is not None}
    return mixed, about | said


@pytest.mark.parametrize(
    "changes, said, words",
    [
        ({}, dict(step=7), "step is 7; it must be from 0 to 6"),
        ({}, dict(step="5"), "step is '5'"),
        ({}, dict(step=True), "step is True"),
        ({}, dict(step=None), "step is None"),
        ({}, dict(best=None), "best is None"),
        ({}, dict(best=math.nan), "best is nan"),
        ({}, dict(seconds=-1.0), "seconds is -1.0"),
        ({}, dict(history=3), "its history is 3"),
        ({}, dict(history=[{"step": 1}]), "its history is {'step': 1}"),
        ({}, dict(step=0, history=[]), "unknown tensor 'optimizer.0"),
        ({"optimizer.0.exp_avg": None}, {}, "no tensor 'optimizer.0.exp_avg'"),
        ({"model.ln_f.weight": None}, {}, "no tensor 'model.ln_f.weight'"),
        ({"random.torch": None}, {}, "no tensor 'random.torch'"),
        ({"optimizer.abc": torch.zeros(1)}, {}, "unknown tensor 'optimizer.abc'"),
        (
            {"optimizer.0.step": torch.tensor(-1.0)},
            {},
            "optimizer.0.step is -1.0; it must be from 0 to 3",
        ),
        (
            {"optimizer.0.step": torch.tensor(math.nan)},
            {},
            "optimizer.0.step is nan; it must be from 0 to 3",
        ),
        (
            {"random.data": torch.zeros(3)},
            {},
            "random.data is torch.float32 (3,), not torch.uint8",
        ),
    ],
)
def test_states_that_no_run_could_be_in_are_refused(changes, said, words):
    run = trainer(model=tiny())
    before = {n: t.clone() for n, t in run.state()[0].items()}
    with pytest.raises(BadInput) as e:
        run.restore(*broken_state(changes, said))
    assert words in str(e.value) and "\n" not in str(e.value)
    after = run.state()[0]
    assert run.step == 0 and before.keys() == after.keys()
    assert all(torch.equal(t, after[n]) for n, t in before.items())


def test_the_state_of_another_optimizer_is_refused():
    with pytest.raises(BadInput, match="no tensor 'optimizer.0.exp_avg'"):
        trainer(model=tiny()).restore(*broken_state({}, {}, Momentum))


def test_a_run_in_one_precision_continues_in_another():
    run = trainer()
    run.run(stop=lambda: run.step == 3)
    other = trainer(changed(steps=6, batch_size=4, dtype="bfloat16", eval_iters=2))
    other.restore(*run.state())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert other.run()


def test_pieces_have_the_gradient_of_the_whole():
    x, y = get_batch(IDS, 8, 8, torch.Generator().manual_seed(1))
    found = []
    for pieces in (1, 2, 8):
        model = tiny()
        loss = backward(model, x, y, pieces)
        found.append((loss, torch.cat([p.grad.flatten() for p in model.parameters()])))
    for loss, gradient in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=0, atol=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=0, atol=1e-6)
