"""clip_grad_norm_ and clip_grad_value_ do what torch's do."""

import gc
import threading

import pytest
import torch
from torch import nn

from steepest.clip import clip_grad_norm_, clip_grad_value_
from steepest.kernels import launch
from steepest.kernels.gradients import Gradients

INF, NAN = float("inf"), float("nan")


def of(*grads):
    """Return parameters with these gradients; None where there is none."""
    params = []
    for grad in grads:
        p = nn.Parameter(torch.zeros(3) if grad is None else torch.zeros_like(grad.to_dense()))
        p.grad = grad
        params.append(p)
    return params


def randn(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


def shared():
    grad = randn(50)
    return of(grad, grad)


def views_of_one():
    flat = randn(60)
    return of(flat[:10], flat[10:30], flat[30:])


def overlapping_views():
    flat = randn(60)
    return of(flat[:30], flat[10:40], flat[30:])


def large_shared():
    grad = randn(200_000)
    return of(grad, grad.view(-1), grad)


def transposed():
    return of(randn(5, 7).t(), randn(7, 5))


CASES = {
    "two": lambda: of(randn(4, 5), randn(5)),
    "one": lambda: of(randn(100)),
    "scalar": lambda: of(torch.tensor(3.0)),
    "empty tensor": lambda: of(torch.ones(0), randn(3)),
    "only empty tensors": lambda: of(torch.ones(0)),
    "none among them": lambda: of(randn(4), None, randn(5)),
    "all none": lambda: of(None, None),
    "no parameters": list,
    "float64": lambda: of(randn(7, dtype=torch.float64), randn(8, dtype=torch.float64)),
    "mixed": lambda: of(randn(7), randn(8, dtype=torch.float64)),
    "bfloat16": lambda: of(randn(7).bfloat16(), randn(8).bfloat16()),
    "many": lambda: of(*[randn(37, seed=k) for k in range(100)]),
    "large": lambda: of(randn(150_001), randn(100_000)),
    "shared": shared,
    "views of one": views_of_one,
    "overlapping views": overlapping_views,
    "large and shared": large_shared,
    "transposed": transposed,
    "gaps": lambda: of(randn(8, 10)[:, ::2], randn(3)),
    "expanded": lambda: of(randn(1), randn(3)),
    "zeros": lambda: of(torch.zeros(5)),
    "nan": lambda: of(randn(4), torch.tensor([1.0, NAN])),
    "infinity": lambda: of(randn(4), torch.tensor([1.0, INF, -INF])),
    "negative view": lambda: of(torch._neg_view(randn(6)), randn(3)),
}


def outcome(clip, params):
    """Return the result, or the text of the error."""
    try:
        return clip(params)
    except RuntimeError as error:
        return str(error)


def compare(case, ours, theirs, close):
    """Do both to the same gradients, several times over, and compare results and gradients."""
    mine, expected = CASES[case](), CASES[case]()
    for _ in range(3):
        result, reference = outcome(ours, mine), outcome(theirs, expected)
        assert type(result) is type(reference)
        if isinstance(reference, str):
            assert result == reference  # torch's own error: no kernel serves these
        elif reference is not None:
            assert result.dtype is reference.dtype
            assert result.shape == reference.shape
            close(result, reference)
        for p, q in zip(mine, expected, strict=True):
            assert (p.grad is None) is (q.grad is None)
            if p.grad is not None:
                close(p.grad, q.grad)


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e6, 0.0, INF])
@pytest.mark.parametrize("case", CASES)
def test_norm_clips_as_torch(case, max_norm, close):
    compare(
        case,
        lambda params: clip_grad_norm_(params, max_norm),
        lambda params: torch.nn.utils.clip_grad_norm_(params, max_norm),
        close,
    )


@pytest.mark.parametrize("norm_type", [1, 2, 2.0, "2", 0.5, 3, INF, "inf"])
@pytest.mark.parametrize("case", ["two", "nan", "infinity", "mixed", "large"])
def test_every_norm(case, norm_type, close):
    compare(
        case,
        lambda params: clip_grad_norm_(params, 0.5, norm_type=norm_type),
        lambda params: torch.nn.utils.clip_grad_norm_(params, 0.5, norm_type=norm_type),
        close,
    )


@pytest.mark.parametrize("limit", [0.1, 1e6, 0.0, -0.5, INF, NAN, "0.5"])
@pytest.mark.parametrize("case", CASES)
def test_value_clips_as_torch(case, limit, close):
    compare(
        case,
        lambda params: clip_grad_value_(params, limit),
        lambda params: torch.nn.utils.clip_grad_value_(params, limit),
        close,
    )


@pytest.mark.parametrize("parallel", [0, 1 << 30], ids=["parallel", "sequential"])
@pytest.mark.parametrize("case", ["shared", "overlapping views", "views of one", "many"])
def test_on_any_number_of_threads(case, parallel, close, monkeypatch):
    monkeypatch.setattr(launch, "PARALLEL", parallel)
    compare(
        case,
        lambda params: clip_grad_norm_(params, 0.1),
        lambda params: torch.nn.utils.clip_grad_norm_(params, 0.1),
        close,
    )


@pytest.mark.parametrize("case", ["two", "many", "large", "float64", "transposed", "views of one"])
def test_kernels_serve(case):
    grads = [p.grad for p in CASES[case]()]
    assert Gradients.of(grads) is not None


@pytest.mark.parametrize("case", ["mixed", "bfloat16", "gaps", "negative view", "all none"])
def test_kernels_do_not_serve(case):
    assert Gradients.of([p.grad for p in CASES[case]() if p.grad is not None]) is None


@pytest.mark.parametrize("case", ["nan", "infinity"])
def test_error_if_nonfinite(case):
    for clip in (clip_grad_norm_, torch.nn.utils.clip_grad_norm_):
        params = CASES[case]()
        before = [p.grad.clone() for p in params]
        with pytest.raises(RuntimeError, match="error_if_nonfinite=False"):
            clip(params, 1.0, error_if_nonfinite=True)
        for p, grad in zip(params, before, strict=True):
            torch.testing.assert_close(p.grad, grad, rtol=0, atol=0, equal_nan=True)


def test_a_single_tensor_and_a_generator(close):
    (p,) = of(randn(9))
    close(clip_grad_norm_(p, 1.0), randn(9).norm())
    params = of(randn(9), randn(4))
    clip_grad_norm_((p for p in params), 1.0)
    close(torch.cat([p.grad for p in params]).norm(), torch.tensor(1.0))
    clip_grad_value_((p for p in params), 0.01)
    assert max(p.grad.abs().max() for p in params) <= 0.01


@pytest.mark.parametrize("clip", [clip_grad_norm_, torch.nn.utils.clip_grad_norm_])
def test_an_empty_generator_is_told(clip):
    with pytest.warns(UserWarning, match="empty generator"):
        assert clip((p for p in ()), 1.0) == 0


@pytest.mark.parametrize("clip", [clip_grad_norm_, torch.nn.utils.clip_grad_norm_])
def test_foreach_where_it_cannot_be(clip):
    params = of(torch.ones(3, device="meta"))
    with pytest.raises(RuntimeError, match="can't use the foreach API on meta tensors"):
        clip(params, 1.0, foreach=True)


def test_meta_gradients_have_a_norm_on_meta():
    assert clip_grad_norm_(of(torch.ones(3, device="meta")), 1.0).device.type == "meta"
    clip_grad_value_(of(torch.ones(3, device="meta")), 1.0)


def test_sparse_gradients_as_torch(close):
    results = []
    for clip in (clip_grad_norm_, torch.nn.utils.clip_grad_norm_):
        params = of(torch.eye(4).to_sparse())
        try:
            results.append(clip(params, 0.5, foreach=False))
        except NotImplementedError:
            results.append(torch.tensor(-1.0))
    close(*results)


def test_gradients_that_change_between_calls(close):
    """The tables of one call serve the next only for what it brings."""
    for k in range(40):
        shape = (3, 4) if k % 3 else (4, 3)
        dtype = torch.float64 if k % 7 == 0 else torch.float32
        grads = [randn(*shape, seed=k, dtype=dtype), randn(2, 50 + k % 2, seed=k, dtype=dtype)]
        if k % 5 == 0:
            grads[0] = grads[0].t()
        params = of(*grads)
        expected = torch.cat([g.reshape(-1) for g in grads]).norm()
        close(clip_grad_norm_(params, 0.5), expected)
        after = torch.cat([p.grad.reshape(-1) for p in params]).norm()
        torch.testing.assert_close(after, expected.clamp(max=0.5), rtol=1e-5, atol=0)
        del params, grads
        gc.collect()


def test_autograd_sees_that_gradients_changed():
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    for clip, limit in ((clip_grad_norm_, 0.5), (clip_grad_value_, 0.1)):
        version = p.grad._version
        clip([p], limit)
        assert p.grad._version > version


def test_two_threads_at_once(close):
    failures = []

    def work(seed):
        for k in range(300):
            grads = [randn(40, seed=seed + k), randn(3, 4, seed=seed + k)]
            expected = torch.cat([g.reshape(-1) for g in grads]).norm()
            params = of(*grads)
            norm = clip_grad_norm_(params, 0.5)
            after = torch.cat([p.grad.reshape(-1) for p in params]).norm()
            if not torch.allclose(norm, expected) or not torch.allclose(after, torch.tensor(0.5)):
                failures.append((seed, k))

    threads = [threading.Thread(target=work, args=(1000 * k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
