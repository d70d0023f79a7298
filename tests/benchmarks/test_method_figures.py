"""The figures of the method show what its code does: how many calls a chain makes, and masks with an exact budget."""

from benchmarks.helpers import method_figures as figures
from model.sampling.plan import SamplingPlan


def test_calls_are_those_of_the_sampler():
    plan = SamplingPlan.parse("uniform:4", steps=10, n_timestep=100)
    assert figures.calls(plan, "every") == ([0, 4, 8], list(range(10)))
    assert figures.calls(plan, "ends") == ([0, 4, 8], [0, 3, 4, 7, 8, 9])
    assert figures.calls(plan, "first") == ([0, 4, 8], [0, 4, 8])


def test_masks_move_to_the_inputs_that_matter():
    masks = figures.masks_of_a_small_layer()
    budget = round(figures.DENSITY * figures.INPUTS * figures.OUTPUTS)
    assert [int(mask.sum()) for mask in masks.values()] == [budget] * len(figures.SHOWN)
    shares = [int(mask[:, figures.USEFUL].sum()) / budget for mask in masks.values()]
    assert shares[0] < 0.3 and shares[-1] > 0.9


def test_figures_show_the_numbers_of_the_reports():
    names = list(figures.RULES)
    report = {"rows": [{"variant": v, "loss": 0.07 + n / 1000} for n, v in enumerate(names)]}
    picture = figures.sparse_momentum([report | {"steps": 4000, "parameters": 12e6}])
    told = [text.get_text() for text in picture.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert {"0.0700", "0.0740"} <= set(told)

    rows = [{"half": half, "place": "", "change": [0.01, 0.02]} for half in ("encoder", "decoder")]
    axes = figures.encoder_reuse({"rows": rows, "timesteps": [1999, 1000, 100]}).axes[1]
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.01, 0.02]] * 2
