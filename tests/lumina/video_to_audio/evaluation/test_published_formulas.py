"""KL, inception score and DeSync on cached features: values by hand, and the released lines in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lumina.video_to_audio.evaluation.desync import OFFSETS_S, desync, ends
from lumina.video_to_audio.evaluation.inception_score import inception_score
from lumina.video_to_audio.evaluation.kl import kl_divergence


def drawn(seed: int, *shape: int, scale: float = 3.0) -> np.ndarray:
    return scale * np.random.Generator(np.random.Philox(seed)).standard_normal(shape)


def test_kl_by_hand() -> None:
    true = np.log(np.array([[3.0, 1.0]]))
    even = np.zeros((1, 2))
    # 3/4 ln(3/4 / 1/2) + 1/4 ln(1/4 / 1/2)
    assert kl_divergence(true, even) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), abs=1e-5)
    # Sigmoids 3/4 and 1/2 against halves.
    expected = 0.75 * np.log(1.5) + 0.5 * np.log(1.0)
    assert kl_divergence(true, even, "sigmoid") == pytest.approx(expected, abs=1e-5)
    certain = np.array([[1000.0, 0.0]])
    assert kl_divergence(certain, -certain) == pytest.approx(-np.log(1e-6))


@pytest.mark.parametrize("convention", ["softmax", "sigmoid"])
def test_kl_is_that_of_the_released_code(convention: str) -> None:
    true, made = drawn(1, 6, 527), drawn(2, 6, 527)
    of = torch.sigmoid if convention == "sigmoid" else lambda logits: logits.softmax(1)
    p, q = (of(torch.from_numpy(logits)) for logits in (true, made))
    released = F.kl_div((q + 1e-6).log(), p, reduction="none").sum(1)
    np.testing.assert_allclose(kl_divergence(true, made, convention), released.numpy(), rtol=1e-9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must both be \[n, classes\]"):
        kl_divergence(true, made[:, :5])


def test_inception_score_by_hand() -> None:
    # One class for all says nothing, one class each says all there is to say.
    assert inception_score(np.tile([50.0, 0.0], (20, 1))) == pytest.approx((1, 0))
    assert inception_score(np.eye(4) * 1000, splits=1) == pytest.approx((4, 0))
    with pytest.raises(ValueError, match="10 splits needs as many clips"):
        inception_score(np.zeros((9, 3)))


def test_inception_score_is_that_of_the_released_code() -> None:
    logits = drawn(3, 37, 11)
    shuffled = torch.from_numpy(logits[np.random.RandomState(2020).permutation(37)])
    scores = []
    for split in range(10):
        part = shuffled[split * 37 // 10 : (split + 1) * 37 // 10]
        p, log_p = part.softmax(1), part.log_softmax(1)
        scores.append(float((p * (log_p - p.mean(0, keepdim=True).log())).sum(1).mean().exp()))
    assert inception_score(logits) == pytest.approx((np.mean(scores), np.std(scores)))
    assert inception_score(logits, seed=1) != inception_score(logits)


def test_desync() -> None:
    assert OFFSETS_S[10] == 0
    np.testing.assert_allclose(np.diff(OFFSETS_S), 0.2)
    first, last = np.zeros((2, 21)), np.zeros((2, 21))
    first[0, 10] = last[0, 12] = first[1, 0] = last[1, 20] = 5
    np.testing.assert_allclose(desync(first, last), [0.2, 2.0])
    features = np.arange(3 * 24).reshape(3, 24)
    heads, tails = ends(features)
    assert (heads[0, 0], heads[0, -1], tails[0, 0], tails[0, -1]) == (0, 13, 10, 23)
    with pytest.raises(ValueError, match="14 segments"):
        ends(features[:, :13])
    with pytest.raises(ValueError, match=r"\[n, 21\]"):
        desync(first[:, :20], last[:, :20])
