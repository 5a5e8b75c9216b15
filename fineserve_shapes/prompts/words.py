"""Synthetic text: seeded sentences of everyday words, so that a run needs no file."""

from __future__ import annotations

import numpy as np

from fineserve_shapes.workload.seeds import Purpose, rng

# Short and common on purpose: most tokenizers know each of them as one token, which keeps a prompt's unique head short.
WORDS = tuple(
    """
    the of and to in is it that was for on are with as at be this have from or one had by but not what all were when we
    there can an your which their said if do will each about how up out them then she many some so these would other
    into has more her two like him see time could no make than first been its who now people my made over did down only
    way find use may water long little very after word called just where most know get through back much before go good
    new write our used me man too any day same right look think also around another came come work three must because
    does part even place well such here take why help put different away again off went old number great tell men say
    small every found still between name should home big give air line set own under read last never us left end along
    while might next sound below saw something thought both few those always show large often together asked house world
    going want school important until form food keep children feet land side without boy once animal life enough took
    four head above kind began almost live page got earth need far hand high year mother light country father let night
    picture being study second soon story since white ever paper hard near sentence better best across during today
    however sure knew try told young sun thing whole hear example heard several change answer room sea against top
    turned learn point city play toward five himself usually money seen car morning body upon family later turn move
    face door cut done group true half red fish plants living wanted black eat short run book gave order open ground
    cold really table remember tree course front space inside sad early heart able strong mind clear
    """.split()  # noqa: SIM905 - three hundred quoted strings would be no easier to read
)


def sentences(seed: int, words: int) -> list[str]:
    """Sentences of 5 to 15 words, at least so many words in all; the common words come more often (weight 1/rank^0.7).

    They mean nothing. What matters is that they tokenise as ordinary prose does.
    """
    drawing = rng(seed, Purpose.WORDS)
    weight = np.arange(1.0, len(WORDS) + 1) ** -0.7
    rows: list[str] = []
    while words > 0:
        length = int(drawing.integers(5, 16))
        picked = [WORDS[rank] for rank in drawing.choice(len(WORDS), size=length, p=weight / weight.sum())]
        rows.append(" ".join(picked).capitalize() + ".")
        words -= length
    return rows
