"""The colours of streams: told apart by every kind of eye, from each other and from the total, on white and on black."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import numpy as np
import pytest

from fineserve_shapes.arrays import FloatArray

TEXTS = {"light": "#222222", "dark": "#e6e6e6"}  # the total's, by theme
GROUNDS = {"light": "#ffffff", "dark": "#1e1e1e"}
EYES = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What each sees of linear RGB. Source: Machado, Oliveira and Fernandes, A physiologically-based model for simulation of
color vision deficiency (2009), severity 1."""
APART = 0.1
"""The least distance in Oklab (black to white is 1): some five times what is just seen side by side."""


def palette() -> list[str]:
    text = files("fineserve_shapes.webui").joinpath("charts.js").read_text()
    found = re.search(r"const STREAMS = \[(.*?)\]", text)
    assert found
    return re.findall(r"#[0-9a-f]{6}", found[1])


def linear(colour: str) -> FloatArray:
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(rgb: FloatArray) -> FloatArray:
    """Source: B. Ottosson, A perceptual color space for image processing (2020)."""
    cones = np.cbrt(np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                              [0.0883024619, 0.2817188376, 0.6299787005]]) @ np.clip(rgb, 0, 1))  # fmt: skip
    found: FloatArray = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                                  [0.0259040371, 0.7827717662, -0.8086757660]]) @ cones  # fmt: skip
    return found


def contrast(first: str, second: str) -> float:
    """As WCAG has it, 1 to 21."""
    darker, lighter = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (first, second))
    return (lighter + 0.05) / (darker + 0.05)


def test_there_are_eight():
    assert len({*palette()}) == 8


@pytest.mark.parametrize("theme", TEXTS)
@pytest.mark.parametrize("eye", EYES)
def test_every_eye_tells_them_apart_from_each_other_and_from_the_total(eye: str, theme: str):
    seen = [(colour, oklab(np.array(EYES[eye]) @ linear(colour))) for colour in (*palette(), TEXTS[theme])]
    apart = {(one, other): float(np.linalg.norm(a - b)) for (one, a), (other, b) in itertools.combinations(seen, 2)}
    assert {pair: distance for pair, distance in apart.items() if distance < APART} == {}


@pytest.mark.parametrize("theme", GROUNDS)
def test_they_stand_out_from_the_ground(theme: str):
    assert min(contrast(colour, GROUNDS[theme]) for colour in palette()) >= 2.0
