"""The pipeline as a picture: what each stage hands to the next, narrow enough for a phone."""

from html import escape

WIDTH, _WIDTH = 380, 170
"""Of the picture, and of a box."""
BOXES = [
    (10, 8, "preference pairs", "any known format"),
    (200, 8, "PreferenceDataModule", "one for every stage"),
    (10, 96, "SFTModule", "chosen responses"),
    (200, 96, "reward model", "scalar · contrastive · MetaRM"),
    (10, 184, "BaselineModule", "k scored responses"),
    (200, 184, "Reward", "scalar · rewriter · remote"),
    (200, 272, "ContrastiveReward", "r − mean of baselines"),
    (10, 272, "PPOModule", "actor, critic, KL"),
    (105, 360, "compare, study, report", "gold reward, KL, wins"),
]
"""Left, top, name, what it is about."""
ARROWS = [
    "M180 31 H196",
    "M285 54 V92",
    "M240 54 V72 H95 V92",
    "M95 142 V180",
    "M10 119 H4 V295 H8",
    "M285 142 V180",
    "M200 207 H184",
    "M160 230 V252 H232 V268",
    "M320 230 V268",
    "M200 295 H184",
    "M95 318 V338 H150 V356",
]
"""Their ways."""


def pipeline_svg() -> str:
    """The picture."""
    boxes = "".join(
        f'<g><rect class="box" x="{x}" y="{y}" width="{_WIDTH}" height="46" rx="9"/>'
        f'<text class="box-name" x="{x + _WIDTH / 2}" y="{y + 20}" text-anchor="middle">{escape(name)}</text>'
        f'<text class="box-note" x="{x + _WIDTH / 2}" y="{y + 36}" text-anchor="middle">{escape(note)}</text></g>'
        for x, y, name, note in BOXES
    )
    arrows = "".join(f'<path class="arrow" d="{way}" marker-end="url(#arrow-end)"/>' for way in ARROWS)
    marker = (
        '<marker id="arrow-end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    )
    return (
        f'<svg class="pipeline" viewBox="0 0 {WIDTH} 414" role="img" aria-label="The pipeline: pairs, SFT, reward '
        f'model, baselines, PPO, comparison"><defs>{marker}'
        '<path class="arrow-head" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        f"{arrows}{boxes}</svg>"
    )
