from __future__ import annotations

import pytest
import torch

from train import precision


@pytest.mark.parametrize(
    ("found", "there"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_f": True, "amx_bf16": True}, True),
        ({}, False),
    ],
)
def test_a_processor_s_own_word_counts(found: dict[str, bool], there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    precision.has_bfloat16.cache_clear()
    try:
        assert precision.has_bfloat16("cpu") is there
        assert precision.product_type("cpu") == (torch.bfloat16 if there else torch.float32)
        assert precision.has_bfloat16("cuda")
    finally:
        precision.has_bfloat16.cache_clear()
