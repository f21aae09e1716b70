"""The classifier of styles, and a model that draws in one."""

import numpy as np
import pytest

from gesso.mini.judging.detector import load_detector
from gesso.mini.judging.style import PLAIN, accuracy, evaluate_style, renderers, train_classifier
from gesso.scenes.glyphs import FONT_PLACES, render_glyphs
from gesso.scenes.vocabulary import things

pytestmark = pytest.mark.skipif(
    not any(place.is_file() for place in FONT_PLACES), reason="no Noto Color Emoji font on this machine"
)


@pytest.fixture(scope="module")
def glyphs() -> np.ndarray:
    return render_glyphs([thing.glyph for thing in things()])


@pytest.mark.parametrize(
    ("steps", "batch_size", "learning_rate"),
    [(40, 12, 3e-3), (30, 48, 2e-3)],
)
@pytest.mark.slow
def test_the_classifier_tells_true_pictures(glyphs, steps, batch_size, learning_rate):
    draws = renderers(glyphs)
    how = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    classifier = train_classifier(load_detector(things()).detector, things(), draws, **how)
    found = accuracy(classifier, things(), draws, count=21)
    assert set(found) == {PLAIN, "comic", "line-art", "woodcut"}
    assert sum(found.values()) / len(found) > 0.6  # chance is a third; 400 steps are the default


def test_a_model_is_scored_with_and_without(glyphs, monkeypatch):
    """A model that paints its page in the style's place, and one that does not."""
    classes = {250: "woodcut", 10: PLAIN}

    class Told:
        def kinds_of(self, images):
            return [classes[int(image[0, 0, 0])] for image in images]

    monkeypatch.setattr("gesso.mini.judging.style.train_classifier", lambda *arguments, **options: Told())
    monkeypatch.setattr("gesso.mini.judging.style.accuracy", lambda *arguments, **options: {})

    def page(level):
        return lambda prompts, seeds: np.full((len(prompts), 64, 64, 3), level, np.uint8)

    report = evaluate_style(
        page(250), page(10), "woodcut", things=things(), glyphs=glyphs, num_prompts=14, batch_size=4
    )
    assert (report.styled, report.plain, report.prompts) == (1, 1, 14)
    report = evaluate_style(page(10), page(250), "woodcut", things=things(), glyphs=glyphs, num_prompts=14)
    assert (report.styled, report.plain) == (0, 0)
