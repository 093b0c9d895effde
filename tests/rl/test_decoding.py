"""A decoding step copies no keys and values, and attends as transformers does."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rl.backends.decoding import attend_grouped, grouped_attention, roomy_cache


def columns(n, rows=2, start=0.0):
    return start + torch.arange(rows * 3 * n * 4, dtype=torch.float32).reshape(rows, 3, n, 4)


def test_columns_are_appended_in_place_and_what_was_seen_stays():
    cache = roomy_cache(LlamaConfig(num_hidden_layers=1, num_attention_heads=3, hidden_size=12))
    first = columns(5)
    held = [cache.update(first, -first, 0)]
    expected = first
    for step in range(40):
        new = columns(1, start=100.0 * step)
        held.append(cache.update(new, -new, 0))
        expected = torch.cat([expected, new], dim=2)
    keys, values = held[-1]
    assert torch.equal(keys, expected)
    assert torch.equal(values, -expected)
    for n, (keys, values) in enumerate(held):
        assert torch.equal(keys, expected[:, :, : 5 + n])
        assert torch.equal(values, -expected[:, :, : 5 + n])
    places = {keys.data_ptr() for keys, _ in held}
    assert len(places) < 5  # most steps wrote into the room that there was


def test_selected_rows_go_on_by_themselves():
    cache = roomy_cache(LlamaConfig(num_hidden_layers=1, num_attention_heads=3, hidden_size=12))
    whole = columns(5, rows=3)
    before, _ = cache.update(whole, whole, 0)
    cache.reorder_cache(torch.tensor([2, 0]))
    new = columns(1, start=-50.0)
    keys, values = cache.update(new, new, 0)
    assert torch.equal(keys, torch.cat([whole[[2, 0]], new], dim=2))
    assert torch.equal(values, keys)
    assert torch.equal(before, whole)


@pytest.mark.parametrize(
    ("n_new", "groups", "masked", "scaling"),
    [(1, 3, True, None), (1, 3, False, 0.5), (1, 1, True, None), (4, 3, True, 0.5)],
)
def test_attention_is_that_of_transformers(n_new, groups, masked, scaling):
    torch.manual_seed(0)
    module = SimpleNamespace(num_key_value_groups=groups, is_causal=True)
    query = torch.randn(5, 2 * groups, n_new, 8)
    key, value = (torch.randn(5, 2, 20, 8)[:, :, :13] for _ in range(2))  # as in a buffer with room
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
