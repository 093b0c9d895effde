"""Large layers that compute with oneDNN give torch's results, gradients and state, with packed weights or not."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from rl.backends.products import MIN_STEPS, OneDNNLinear, packed_weights, use_onednn

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()), reason="products are not MKL's"
)


@pytest.fixture
def layers():
    """Two equal pairs of a large and a small layer, the first pair with oneDNN."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(512, 768), nn.Linear(768, 8))
    ours = deepcopy(plain)
    use_onednn(ours)
    return ours, plain


def test_only_large_layers_change_and_only_their_class(layers):
    ours, plain = layers
    assert [type(layer) for layer in ours] == [OneDNNLinear, nn.Linear]
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert type(deepcopy(ours)[0]) is OneDNNLinear
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        use_onednn(plain)
    assert type(plain[0]) is nn.Linear


@pytest.mark.parametrize("shape", [(512,), (1, 512), (3, 5, 512), (0, 512)])
@pytest.mark.parametrize("trained", [True, False])
def test_products_and_gradients_are_those_of_torch(layers, shape, trained):
    found = []
    for model in (layers[0][0], deepcopy(layers[1][0]).double()):
        model.weight.requires_grad_(trained)
        x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape).to(model.weight).requires_grad_()
        y = model(x)
        y.square().sum().backward()
        found.append([y.detach(), x.grad, model.bias.grad, *([model.weight.grad] if trained else [])])
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


def test_packed_weights_are_those_of_the_moment_and_go(layers):
    ours, plain = layers
    x = torch.randn(7, 512)
    for factor in (1.0, -2.0):
        with torch.no_grad():
            ours[0].weight.mul_(factor)
            plain[0].weight.mul_(factor)
        with torch.inference_mode(), packed_weights(ours, MIN_STEPS):
            assert ours[0].packed is not None
            torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)
        assert ours[0].packed is None
    with pytest.raises(KeyError), packed_weights(ours, MIN_STEPS):
        raise KeyError
    assert ours[0].packed is None
    with packed_weights(ours, MIN_STEPS - 1):
        assert ours[0].packed is None


def test_other_precisions_are_left_to_torch(layers):
    ours, plain = layers
    x = torch.randn(4, 512)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(x), plain(x))
    ours, plain = ours.bfloat16(), plain.bfloat16()
    with torch.inference_mode(), packed_weights(ours, MIN_STEPS):
        assert torch.equal(ours(x.bfloat16()), plain(x.bfloat16()))
