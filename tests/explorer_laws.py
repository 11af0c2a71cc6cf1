"""What holds for every explorer: a test class inherits these, and says with a fixture `make` how one is made."""

from __future__ import annotations

import base64
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

from quantlab.widgets.explorer import Explorer
from quantlab.widgets.view import View

Make = Callable[[], Explorer[Any]]
STATIC_BYTES = 130_000  # of a picture in a notebook that stays below 1 MB


class ExplorerLaws:
    """Driven to every extreme, back and out of order."""

    def test_every_control_at_both_ends_and_everything_between(self, make: Make) -> None:
        explorer = make()
        assert 1 <= len(explorer.controls) <= 3
        for control in explorer.controls:
            for value in (control.options[-1], control.options[0], *control.options):
                result = explorer.move(control.name, value)
                assert explorer.values[control.name] == value
                assert result == explorer.model(**explorer.values)
                assert result.words()
                assert result.formula()

    def test_the_result_does_not_depend_on_the_way(self, make: Make) -> None:
        rng, explorer = random.Random(0), make()
        for _ in range(60):
            control = rng.choice(explorer.controls)
            explorer.move(control.name, rng.choice(control.options))
            assert explorer.result == explorer.model(**explorer.values)
        explorer.reset()
        assert explorer.ghost is None
        assert explorer.result == make().result

    def test_the_view_follows_and_resets(self, make: Make) -> None:
        explorer = make()
        view = View(explorer)
        first = view.picture.value
        for control in explorer.controls:
            view.controls[control.name].value = control.options[-1]
        found = re.search(r'src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', view.picture.value)
        assert found
        ElementTree.fromstring(base64.b64decode(found[1]))
        assert "Before: " in found[2]
        view.formula_button.value = True
        assert "<pre" in view.formula.value
        view.reset.click()
        assert view.picture.value == first

    def test_the_static_picture_says_what_it_shows(self, make: Make) -> None:
        explorer = make()
        picture = explorer.static()
        data, metadata = picture.bundle()
        assert metadata["image/png"]["alt"] == data["text/plain"] == picture.words
        assert picture.words.startswith(explorer.result.words())
        assert len(base64.b64decode(data["image/png"])) < STATIC_BYTES
