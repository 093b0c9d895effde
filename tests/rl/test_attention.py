"""Attention whose heads share keys computes the same as transformers' attention."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rl.backends.attention import attend_grouped, grouped_attention


@pytest.mark.parametrize(
    ("n_new", "groups", "masked", "scaling"),
    [(1, 3, True, None), (1, 3, False, 0.5), (1, 1, True, None), (4, 3, True, 0.5)],
)
def test_attention_is_that_of_transformers(n_new, groups, masked, scaling):
    torch.manual_seed(0)
    module = SimpleNamespace(num_key_value_groups=groups, is_causal=True)
    query = torch.randn(5, 2 * groups, n_new, 8)
    key, value = (torch.randn(5, 2, 20, 8)[:, :, :13] for _ in range(2))  # as in a cache with spare columns
    mask = None
    if masked:
        mask = (torch.arange(13) >= torch.arange(5)[:, None])[:, None, None].expand(5, 1, n_new, 13)
    ours, _ = attend_grouped(module, query, key, value, mask, scaling=scaling)
    theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_only_decoding_attends_so():
    with grouped_attention():
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attend_grouped
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
