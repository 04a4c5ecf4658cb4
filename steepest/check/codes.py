"""The codes: what each mistake is, why it matters, and what mends it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A mistake that the watch knows.

    Attributes:
        title: the mistake in a few words.
        why: what it costs.
        mend: a line or two of code without it.
        is_fact: whether it needs no threshold; else it is a symptom, shown when asked for.
    """

    title: str
    why: str
    mend: str
    is_fact: bool = True


CODES = {
    # gradients
    "SC101": Code(
        "zero_grad is missing",
        "Each update then uses the sum of all gradients so far, as if momentum were 1.",
        "optimizer.zero_grad()  # before each loss.backward()",
    ),
    "SC102": Code(
        "gradients are cleared between backward and step",
        "The update has no gradient: the model does not learn.",
        "optimizer.zero_grad(); loss.backward(); optimizer.step()",
    ),
    "SC103": Code(
        "a step without a backward",
        "Without gradients nothing is updated.",
        "loss.backward()  # before optimizer.step()",
    ),
    "SC104": Code(
        "two steps for one backward",
        "The second update goes on along an old gradient: the learning rate is twice what it says.",
        "optimizer.step()  # once for each loss.backward()",
    ),
    "SC105": Code(
        "a step changes nothing",
        "The model does not learn, however long it trains.",
        "torch.optim.SGD(model.parameters(), lr=0.01)  # an lr above 0",
    ),
    "SC106": Code(
        "gradients are clipped after the step",
        "The update has used the gradients as they were: nothing is clipped.",
        "loss.backward(); clip_grad_norm_(model.parameters(), 1.0); optimizer.step()",
    ),
    "SC107": Code(
        "gradients are clipped before unscale_",
        "They are still multiplied by the scale, so that nearly all of each gradient is cut off.",
        "scaler.unscale_(optimizer); clip_grad_norm_(model.parameters(), 1.0)",
    ),
    "SC108": Code(
        "the loss is cut from the graph",
        "No gradient reaches the parameters of the optimizer: they do not learn.",
        "loss = loss_fn(model(x), y)  # no .detach(), .item(), .numpy() or no_grad() on the way",
    ),
    # parameters
    "SC201": Code(
        "the optimizer holds parameters of another model",
        "The model that computes the loss is not updated: it does not learn.",
        "optimizer = SGD(model.parameters(), lr=0.01)  # after the model is made, copied or loaded",
    ),
    "SC202": Code(
        "parameters that get gradients are in no optimizer",
        "They stay as they were initialised, while the rest of the model learns.",
        "p.requires_grad_(False)  # if that is meant; else give it to the optimizer",
    ),
    "SC203": Code(
        "every parameter of the optimizer is frozen",
        "An update skips parameters without a gradient: nothing learns.",
        "for p in model.head.parameters(): p.requires_grad_(True)",
    ),
    "SC204": Code(
        "a layer was replaced after the optimizer was made",
        "The optimizer updates the old layer; the new one stays as it was initialised.",
        "model.head = Linear(64, 10); optimizer = SGD(model.parameters(), lr=0.01)",
    ),
    "SC205": Code(
        "a frozen parameter is moved",
        "Its old gradient, momentum or weight decay still updates it.",
        "p.requires_grad_(False); p.grad = None",
    ),
    "SC206": Code(
        "the optimizer's state is that of other parameters",
        "Each parameter goes on with the momentum and step sizes of another.",
        "# make the model's parts in the order in which they were when the state was saved",
    ),
    "SC207": Code(
        "a parameter has left its optimizer's state behind",
        "An update fails, or computes in the wrong precision.",
        "model = model.to(device, dtype); optimizer = SGD(model.parameters(), lr=0.01)",
    ),
    # modes
    "SC301": Code(
        "training in eval mode",
        "Dropout is off and BatchNorm uses old statistics, as if they were not there.",
        "model.train()  # before the loop, and after each evaluation",
    ),
    "SC302": Code(
        "evaluating in train mode",
        "Dropout spoils the predictions, and BatchNorm learns from the data of the evaluation.",
        "model.eval()  # and model.train() after it",
    ),
    # losses
    "SC303": Code(
        "softmax before cross_entropy",
        "cross_entropy does a softmax itself: with two, gradients are small, the loss stays high.",
        "loss = cross_entropy(logits, target)  # the last layer's output, without softmax",
    ),
    "SC304": Code(
        "a loss is given what it does not take",
        "A sigmoid, softmax or logarithm is missing or done twice.",
        "cross_entropy(logits, y); nll_loss(log_softmax(logits, 1), y); "
        "binary_cross_entropy_with_logits(logits, y)",
    ),
    "SC305": Code(
        "prediction and target differ in shape, and broadcast",
        "The mean is over all pairs: the model learns the mean of the targets for every input.",
        "loss = loss_fn(model(x).squeeze(1), y)  # or y.unsqueeze(1)",
    ),
    "SC306": Code(
        "every target is ignored",
        "The mean over no target is nan, and so are the gradients and then the parameters.",
        "if (target != ignore_index).any(): loss.backward(); optimizer.step()",
    ),
    # numbers
    "SC109": Code(
        "the loss is not finite",
        "From the next update on the parameters are NaN, and so is all that follows.",
        "assert torch.isfinite(x).all(); log(p.clamp(min=1e-8)); sqrt(v + 1e-8)",
    ),
    "SC110": Code(
        "losses keep their graphs",
        "Memory grows with each step, until there is none left.",
        "total += loss.item()  # or loss.detach()",
    ),
    # schedules
    "SC401": Code(
        "the schedule is stepped before the optimizer",
        "The first lr is never used, and each other one comes a step early.",
        "optimizer.step(); scheduler.step()",
    ),
    "SC402": Code(
        "a schedule of epochs is stepped with each update",
        "The lr is through its schedule within the first epoch or two.",
        "for epoch in range(epochs): train(); scheduler.step()  # once for each epoch",
    ),
    "SC403": Code(
        "a schedule of updates is stepped with each epoch",
        "The lr stays at the beginning of its schedule: it never warms up, or never decays.",
        "optimizer.step(); scheduler.step()  # with each update",
    ),
    "SC404": Code(
        "fewer updates than planned",
        "The model is not trained as long as was meant, and a schedule ends too early.",
        "for epoch in range(math.ceil(steps / len(loader))): ...",
    ),
    # data
    "SC501": Code(
        "the same order in every epoch",
        "Each batch holds the same rows every time: the model learns their order, and less well.",
        "DataLoader(dataset, shuffle=True)  # or sampler.set_epoch(epoch), without a fixed seed",
    ),
    "SC502": Code(
        "workers hand out equal batches",
        "Each row comes once for each worker: an epoch is as many times longer, and learns less.",
        "info = get_worker_info(); rows = rows[info.id :: info.num_workers]  # in __iter__",
    ),
}
"""Every code: 1 gradients and steps, 2 parameters, 3 modes and losses, 4 schedules, 5 data."""
