"""Every optimizer once more, in float64 and NumPy, from the equations of its paper.

Nothing is shared with the formulas: a running mean is the weighted sum over all gradients so far,
and one corrected for its bias is their weighted average. What torch changes in a paper's equations
is changed here too, and said in the formula's file.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy import ndarray

Thetas = Iterator[ndarray]


def weighted(history, beta):
    """Sum a history, the newest weighing 1, the one before beta, then beta**2, ..."""
    return sum(beta**age * x for age, x in enumerate(reversed(history)))


def running(history, beta):
    """Return m_t of m_t = beta m_(t-1) + (1 - beta) x_t, from m_0 = 0."""
    return (1 - beta) * weighted(history, beta)


def average(history, beta):
    """Return m_t corrected for its bias: weights that sum to 1."""
    return weighted(history, beta) / weighted([1.0] * len(history), beta)


def squares(history):
    return [x**2 for x in history]


def descent(grads, maximize):
    """Number the gradients of what is minimized, from 1."""
    return enumerate((-g if maximize else g for g in grads), 1)


# ---- torch's ------------------------------------------------------------------------------------


def sgd(
    theta, grads, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False,
    maximize=False,
) -> Thetas:  # fmt: skip
    """Sutskever et al. 2013, equations 1 to 4, theta their theta_t + mu v_t for Nesterov."""
    velocity = None
    for t, g in descent(grads, maximize):
        slope = g + weight_decay * theta
        before = np.zeros_like(theta) if velocity is None else velocity
        velocity = momentum * before - lr * (1 if t == 1 else 1 - dampening) * slope
        if nesterov:
            theta = theta - momentum * before + velocity + momentum * velocity
        else:
            theta = theta + velocity
        yield theta


def adam(
    theta, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False,
    decoupled_weight_decay=False, maximize=False,
) -> Thetas:  # fmt: skip
    """Kingma & Ba 2015, Algorithm 1; Loshchilov & Hutter 2019, Algorithm 2, line 12."""
    gs, vs = [], []
    for t, g in descent(grads, maximize):
        coupled = 0.0 if decoupled_weight_decay else weight_decay
        shrink = lr * weight_decay if decoupled_weight_decay else 0.0
        gs.append(g + coupled * theta)
        vs.append(running(squares(gs), betas[1]))
        v = np.max(vs, axis=0) if amsgrad else vs[-1]
        v_hat = v / (1 - betas[1] ** t)
        theta = theta - shrink * theta - lr * average(gs, betas[0]) / (np.sqrt(v_hat) + eps)
        yield theta


def adamw(theta, grads, weight_decay=1e-2, **options) -> Thetas:
    yield from adam(theta, grads, weight_decay=weight_decay, decoupled_weight_decay=True, **options)


def rmsprop(
    theta, grads, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False,
    maximize=False,
) -> Thetas:  # fmt: skip
    """Graves 2013, equations 38 to 41; uncentered, the lecture's MeanSquare."""
    gs, steps = [], []
    for _, g in descent(grads, maximize):
        gs.append(g + weight_decay * theta)
        spread = running(squares(gs), alpha) - (running(gs, alpha) ** 2 if centered else 0)
        steps.append(gs[-1] / (np.sqrt(spread) + eps))
        theta = theta - lr * weighted(steps, momentum)
        yield theta


def adagrad(
    theta, grads, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10,
    maximize=False,
) -> Thetas:  # fmt: skip
    """Duchi et al. 2011, Figure 1, diagonal."""
    gs = []
    for t, g in descent(grads, maximize):
        gs.append(g + weight_decay * theta)
        h = np.sqrt(initial_accumulator_value + sum(squares(gs))) + eps
        theta = theta - lr / (1 + (t - 1) * lr_decay) * gs[-1] / h
        yield theta


def adadelta(theta, grads, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False) -> Thetas:
    """Zeiler 2012, Algorithm 1."""
    gs, changes = [], [np.zeros_like(theta)]
    for _, g in descent(grads, maximize):
        gs.append(g + weight_decay * theta)
        rms_g = np.sqrt(running(squares(gs), rho) + eps)
        rms_change = np.sqrt(running(squares(changes), rho) + eps)
        changes.append(-rms_change / rms_g * gs[-1])
        theta = theta + lr * changes[-1]
        yield theta


def adamax(
    theta, grads, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False
) -> Thetas:
    """Kingma & Ba 2015, Algorithm 2: u_t is their equation 8's limit, a maximum over all i."""
    gs = []
    for t, g in descent(grads, maximize):
        gs.append(g + weight_decay * theta)
        u = np.max([betas[1] ** (t - i) * (abs(x) + eps) for i, x in enumerate(gs, 1)], axis=0)
        theta = theta - lr * average(gs, betas[0]) / u
        yield theta


def radam(
    theta, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
    decoupled_weight_decay=False, maximize=False,
) -> Thetas:  # fmt: skip
    """Liu et al. 2020, Algorithm 2."""
    gs = []
    beta2 = betas[1]
    rho_inf = 2 / (1 - beta2) - 1
    for t, g in descent(grads, maximize):
        coupled = 0.0 if decoupled_weight_decay else weight_decay
        gs.append(g + coupled * theta)
        if decoupled_weight_decay:
            theta = theta - lr * weight_decay * theta
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        r = adaptive = 1.0
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * rho_inf)
            r /= math.sqrt((rho_inf - 4) * (rho_inf - 2) * rho)
            v = running(squares(gs), beta2)
            adaptive = math.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)
        theta = theta - lr * r * average(gs, betas[0]) * adaptive
        yield theta


def rprop(theta, grads, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50), maximize=False) -> Thetas:
    """Igel & Hüsken 2003, iRprop-, element by element."""
    theta, last, sizes = theta.copy(), np.zeros_like(theta), np.full_like(theta, lr)
    for _, g in descent(grads, maximize):
        for place, slope in np.ndenumerate(g):
            if last[place] * slope > 0:
                sizes[place] = min(sizes[place] * etas[1], step_sizes[1])
            elif last[place] * slope < 0:
                sizes[place] = max(sizes[place] * etas[0], step_sizes[0])
                slope = 0.0
            else:
                sizes[place] = min(max(sizes[place], step_sizes[0]), step_sizes[1])
            if slope > 0:
                theta[place] -= sizes[place]
            elif slope < 0:
                theta[place] += sizes[place]
            last[place] = slope
        yield theta.copy()


def muon(
    theta, grads, lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True,
    ns_coefficients=(3.4445, -4.7750, 2.0315), eps=1e-7, ns_steps=5, adjust_lr_fn=None,
) -> Thetas:  # fmt: skip
    """Jordan et al. 2024, on singular values: an odd polynomial of a matrix is one of these."""
    a, b, c = ns_coefficients
    gs = []
    height, width = theta.shape
    ratio = math.sqrt(max(1, height / width))
    if adjust_lr_fn == "match_rms_adamw":
        ratio = 0.2 * math.sqrt(max(height, width))
    for _, g in descent(grads, False):
        gs.append(g)
        m = running(gs, momentum)
        u, s, vt = np.linalg.svd(
            momentum * m + (1 - momentum) * g if nesterov else m, full_matrices=False
        )
        s = s / max(math.sqrt((s**2).sum()), eps)
        for _ in range(ns_steps):
            s = a * s + b * s**3 + c * s**5
        theta = theta - lr * weight_decay * theta - lr * ratio * (u * s) @ vt
        yield theta


def adafactor(
    theta, grads, lr=1e-2, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0,
    maximize=False,
) -> Thetas:  # fmt: skip
    """Shazeer & Stern 2018, Algorithm 4, with means for sums and torch's eps, lr and decay."""
    small = np.finfo(theta.dtype).eps if eps[0] is None else eps[0]
    gs = []
    for t, g in descent(grads, maximize):
        gs.append(g)
        entering = [i**beta2_decay for i in range(1, t + 1)]
        weights = [w * math.prod(1 - x for x in entering[k + 1 :]) for k, w in enumerate(entering)]
        second = sum(w * x**2 for w, x in zip(weights, gs, strict=True))
        v = second
        if theta.ndim > 1:
            rows, columns = second.mean(1), second.mean(0)
            v = np.outer(rows, columns) / max(rows.mean(), small)
        update = g / np.maximum(np.sqrt(v), small)
        update = update / max(1, math.sqrt((update**2).mean()) / d)
        alpha = max(eps[1], math.sqrt((theta**2).mean())) * min(lr, 1 / math.sqrt(t))
        theta = theta - lr * weight_decay * theta - alpha * update
        yield theta


def nadam(
    theta, grads, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, momentum_decay=4e-3,
    decoupled_weight_decay=False, maximize=False,
) -> Thetas:  # fmt: skip
    """Dozat 2016, Algorithm 2, with beta1 as the mean's decay."""
    gs = []

    def mu(t):
        return betas[0] * (1 - 0.96 ** (t * momentum_decay) / 2)

    for t, g in descent(grads, maximize):
        coupled = 0.0 if decoupled_weight_decay else weight_decay
        gs.append(g + coupled * theta)
        if decoupled_weight_decay:
            theta = theta - lr * weight_decay * theta
        g_hat = gs[-1] / (1 - math.prod(map(mu, range(1, t + 1))))
        m_hat = running(gs, betas[0]) / (1 - math.prod(map(mu, range(1, t + 2))))
        m_bar = (1 - mu(t)) * g_hat + mu(t + 1) * m_hat
        theta = theta - lr * m_bar / (np.sqrt(average(squares(gs), betas[1])) + eps)
        yield theta


def asgd(
    theta, grads, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0, maximize=False
) -> Thetas:
    """Xu 2011, Algorithm 1: the iterate; its average is no part of it."""
    for t, g in descent(grads, maximize):
        eta = lr * (1 + lambd * lr * (t - 1)) ** -alpha
        theta = theta - eta * (g + (weight_decay + lambd) * theta)
        yield theta


# ---- beyond torch -------------------------------------------------------------------------------


def lion(theta, grads, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False) -> Thetas:
    """Chen et al. 2023, Algorithm 2."""
    gs = []
    for _, g in descent(grads, maximize):
        m = running(gs, betas[1]) if gs else 0.0
        c = betas[0] * m + (1 - betas[0]) * g
        gs.append(g)
        theta = theta - lr * (np.sign(c) + weight_decay * theta)
        yield theta


def adabelief(
    theta, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.0, amsgrad=False,
    decoupled_weight_decay=True, maximize=False,
) -> Thetas:  # fmt: skip
    """Zhuang et al. 2020, Algorithm 2: every s_t takes eps over from the one before."""
    gs, beliefs, ss = [], [], []
    for t, g in descent(grads, maximize):
        coupled = 0.0 if decoupled_weight_decay else weight_decay
        shrink = lr * weight_decay if decoupled_weight_decay else 0.0
        gs.append(g + coupled * theta)
        beliefs.append((1 - betas[1]) * (gs[-1] - running(gs, betas[0])) ** 2 + eps)
        ss.append(weighted(beliefs, betas[1]))
        s_hat = (np.max(ss, axis=0) if amsgrad else ss[-1]) / (1 - betas[1] ** t)
        theta = theta - shrink * theta - lr * average(gs, betas[0]) / (np.sqrt(s_hat) + eps)
        yield theta


def adan(
    theta, grads, lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.0, no_prox=False,
    maximize=False,
) -> Thetas:  # fmt: skip
    """Xie et al. 2022, Algorithm 1, lines 4 to 8, m, v and n without their bias."""
    gs, changes, ahead = [], [], []
    for _, g in descent(grads, maximize):
        changes.append(g - gs[-1] if gs else np.zeros_like(g))
        ahead.append(g + betas[1] * changes[-1])
        gs.append(g)
        eta = lr / (np.sqrt(average(squares(ahead), betas[2])) + eps)
        m, v = average(gs, betas[0]), average(changes, betas[1])
        if no_prox:
            theta = theta - lr * weight_decay * theta
        theta = theta - eta * (m + betas[1] * v)
        if not no_prox:
            theta = theta / (1 + lr * weight_decay)
        yield theta


def ademamix(
    theta, grads, lr=1e-3, betas=(0.9, 0.999, 0.9999), alpha=2.0, beta3_warmup=None,
    alpha_warmup=None, eps=1e-8, weight_decay=0.0, maximize=False,
) -> Thetas:  # fmt: skip
    """Pagliardini et al. 2024, Algorithm 1 and the schedulers of section 3."""
    gs, slow = [], np.zeros_like(theta)
    start, beta2, end = betas
    for t, g in descent(grads, maximize):
        alpha_t, beta3_t = alpha, end
        if alpha_warmup:
            alpha_t = min(t * alpha / alpha_warmup, alpha)
        if beta3_warmup and t < beta3_warmup:
            share, log_start, log_end = t / beta3_warmup, math.log(start), math.log(end)
            fraction = log_start * log_end / ((1 - share) * log_end + share * log_start)
            beta3_t = min(math.exp(fraction), end)
        gs.append(g)
        slow = beta3_t * slow + (1 - beta3_t) * g
        size = np.sqrt(average(squares(gs), beta2)) + eps
        mixed = (average(gs, start) + alpha_t * slow) / size
        theta = theta - lr * (mixed + weight_decay * theta)
        yield theta


def lamb(
    theta, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, bias_correction=True,
    maximize=False,
) -> Thetas:  # fmt: skip
    """You et al. 2020, Algorithm 2, phi(z) = z."""
    gs = []
    mean = average if bias_correction else running
    for _, g in descent(grads, maximize):
        gs.append(g)
        r = mean(gs, betas[0]) / (np.sqrt(mean(squares(gs), betas[1])) + eps)
        step = r + weight_decay * theta
        ratio = np.linalg.norm(theta) / np.linalg.norm(step) if theta.any() and step.any() else 1.0
        theta = theta - lr * ratio * step
        yield theta


def lars(
    theta, grads, lr=1e-3, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False,
    trust_coefficient=1e-3, maximize=False,
) -> Thetas:  # fmt: skip
    """You, Gitman & Ginsburg 2017, equation 6 and Algorithm 1, lr outside v; vectors as by SGD."""
    slopes = []
    for _, g in descent(grads, maximize):
        size = np.linalg.norm(theta)
        length = np.linalg.norm(g) + weight_decay * size
        local = trust_coefficient * size / length if size and length else 1.0
        slopes.append(local * (g + weight_decay * theta) if theta.ndim > 1 else g)
        velocity = (1 - dampening) * weighted(slopes, momentum) if momentum else slopes[-1]
        theta = theta - lr * (slopes[-1] + momentum * velocity if nesterov else velocity)
        yield theta


def cautious(update, g):
    """Liang et al. 2024, Algorithm 1: phi * u * d / |phi|, |phi| at least d / 1000."""
    moves = np.array([u * slope > 0 for u, slope in zip(update.flat, g.flat, strict=True)])
    moves = moves.reshape(g.shape)
    return np.where(moves, update * g.size / max(np.count_nonzero(moves), g.size / 1000), 0.0)


def cautiousadamw(
    theta, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, maximize=False
) -> Thetas:
    gs = []
    for _, g in descent(grads, maximize):
        gs.append(g)
        u = average(gs, betas[0]) / (np.sqrt(average(squares(gs), betas[1])) + eps)
        theta = theta - lr * weight_decay * theta - lr * cautious(u, g)
        yield theta


def cautiouslion(
    theta, grads, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False
) -> Thetas:
    gs = []
    for _, g in descent(grads, maximize):
        m = running(gs, betas[1]) if gs else 0.0
        u = np.sign(betas[0] * m + (1 - betas[0]) * g)
        gs.append(g)
        theta = theta - lr * weight_decay * theta - lr * cautious(u, g)
        yield theta


def schedule_free(theta, grads, beta, lr, warmup_steps, r, weight_lr_power, direction):
    """Defazio et al. 2024, equations 3 to 5: yield y and x; `direction` is z's of (t, g, y)."""
    x = y = z = theta
    weights = []
    for t, g in grads:
        gamma = lr * min(1.0, t / warmup_steps) if warmup_steps else lr
        z = z - gamma * direction(t, g, y)
        weights.append(t**r * gamma**weight_lr_power)
        c = weights[-1] / sum(weights)
        x = (1 - c) * x + c * z
        y = (1 - beta) * z + beta * x
        yield y, x


def schedulefreesgd(
    theta, grads, lr=1.0, momentum=0.9, weight_decay=0.0, warmup_steps=0, r=0.0,
    weight_lr_power=2.0, maximize=False, result=False,
) -> Thetas:  # fmt: skip
    """The points where gradients are taken, or with `result` those that are shipped."""
    for y, x in schedule_free(
        theta, descent(grads, maximize), momentum, lr, warmup_steps, r, weight_lr_power,
        lambda t, g, y: g + weight_decay * y,
    ):  # fmt: skip
        yield x if result else y


def schedulefreeadamw(
    theta, grads, lr=2.5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, warmup_steps=0,
    r=0.0, weight_lr_power=2.0, maximize=False, result=False,
) -> Thetas:  # fmt: skip
    """Algorithm 1 of the same."""
    gs = []

    def direction(t, g, y):
        gs.append(g)
        return g / (np.sqrt(average(squares(gs), betas[1])) + eps) + weight_decay * y

    for y, x in schedule_free(
        theta, descent(grads, maximize), betas[0], lr, warmup_steps, r, weight_lr_power, direction
    ):
        yield x if result else y


def prodigy(
    thetas, grads, lr, betas=(0.9, 0.999), beta3=None, eps=1e-8, weight_decay=0.0, decouple=True,
    use_bias_correction=False, safeguard_warmup=False, d0=1e-6, d_coef=1.0, growth_rate=math.inf,
    maximize=False,
) -> Iterator[list[ndarray]]:  # fmt: skip
    """Mishchenko & Defazio 2024, Algorithm 4, over all parameters together: `lr` has one for each,
    and `grads` a list for each step, with None where a parameter has no gradient.
    """
    beta3 = math.sqrt(betas[1]) if beta3 is None else beta3
    starts, count = list(thetas), len(thetas)
    ms, vs, ss = ([0.0] * count for _ in range(3))
    made = [0] * count
    d, d_max, r = d0, d0, 0.0
    for given in grads:
        slopes = [None if g is None else (-g if maximize else g) for g in given]
        there = [i for i in range(count) if slopes[i] is not None]
        r *= beta3
        gammas = [0.0] * count
        for i in there:
            made[i] += 1
            debias = 1 - betas[0] ** made[i], math.sqrt(1 - betas[1] ** made[i])
            gammas[i] = d * lr[i] * (debias[1] / debias[0] if use_bias_correction else 1.0)
            g = slopes[i] + (0.0 if decouple else weight_decay) * thetas[i]
            r += d / d0 * gammas[i] * np.vdot(g, starts[i] - thetas[i])
            ms[i] = betas[0] * ms[i] + (1 - betas[0]) * d * g
            vs[i] = betas[1] * vs[i] + (1 - betas[1]) * (d * g) ** 2
            ss[i] = beta3 * ss[i] + d / d0 * (d if safeguard_warmup else gammas[i]) * g
        d_hat = d_coef * r / sum(np.abs(ss[i]).sum() for i in there)
        if d == d0:
            d = max(d, d_hat)
        d_max = max(d_max, d_hat)
        d = min(d_max, d * growth_rate)
        for i in there:
            shrink = gammas[i] * weight_decay if decouple else 0.0
            step = gammas[i] * ms[i] / (np.sqrt(vs[i]) + d * eps)
            thetas = [*thetas[:i], thetas[i] - shrink * thetas[i] - step, *thetas[i + 1 :]]
        yield list(thetas)


def soap(
    theta, grads, lr=3e-3, betas=(0.95, 0.95), shampoo_beta=None, eps=1e-8, weight_decay=1e-2,
    precondition_frequency=10, max_precondition_dim=10_000, maximize=False,
) -> Thetas:  # fmt: skip
    """Vyas et al. 2024, Algorithms 3 and 4, the first gradient for the bases alone."""
    gs, rotated = [], []
    keep = betas[1] if shampoo_beta is None else shampoo_beta
    sides = [side <= max_precondition_dim for side in theta.shape]

    def statistics():
        every = [g @ g.T for g in gs], [g.T @ g for g in gs]
        return [running(grams, keep) for grams in every]

    for t, g in descent(grads, maximize):
        gs.append(g)
        if t == 1:
            bases = [np.linalg.eigh(gram)[1][:, ::-1] for gram in statistics()]
            yield theta
            continue
        q_left, q_right = (
            basis if there else np.eye(len(basis))
            for basis, there in zip(bases, sides, strict=True)
        )
        rotated.append(q_left.T @ g @ q_right)
        m = q_left.T @ average(gs[1:], betas[0]) @ q_right
        v = running(squares(rotated), betas[1])
        size = (np.sqrt(v) + eps) / math.sqrt(1 - betas[1] ** (t - 1))
        theta = (1 - lr * weight_decay) * (theta - lr * q_left @ (m / size) @ q_right.T)
        if (t - 1) % precondition_frequency == 0:
            bases = [np.linalg.qr(gram @ q)[0] for gram, q in zip(statistics(), bases, strict=True)]
        yield theta
