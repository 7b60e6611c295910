import html
import math
import re
from itertools import islice

import numpy as np
import pytest
import torch

from lit_rlhf.data.batches import Completions, stack_sequences
from lit_rlhf.data.rendering import Renderer
from lit_rlhf.evaluation.heatmap import CUT_OFF, TokenRow, heatmap_html, heatmap_png, token_rows
from lit_rlhf.world import WorldPairs

ROWS = [
    TokenRow("Who <is> it?", ["I", " am", " \u201cA & B\u201d", ".\n", "\n", "<b>", ""], [0.5, -1, 0, 2, 0, 0, -0.25]),
    TokenRow("Again", ["No", ".", ""], [-0.5, math.nan, 1]),
]


def spans(page: str) -> list[tuple[str, str]]:
    """Background and text of every token."""
    found = re.findall(r'<b style="background:(#[0-9a-f]{6})"[^>]*>(.*?)</b>', page, re.DOTALL)
    return [(colour, html.unescape(re.sub(r"<.*?>", "", inner))) for colour, inner in found]


def channels(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))  # type: ignore[return-value]


def contrast(colour: str) -> float:
    """WCAG contrast of black text on a colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels(colour))]
    return (sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05) / 0.05


def test_copied_text_is_the_response_whatever_it_holds():
    texts = [text for _, text in spans(heatmap_html(ROWS))]
    assert texts == [token for row in ROWS for token in row.tokens]
    assert "Who &lt;is&gt; it?" in heatmap_html(ROWS)


def test_penalised_tokens_are_red_rewarded_ones_blue_and_zero_white():
    values = [value for row in ROWS for value in row.values]
    for value, (colour, _) in zip(values, spans(heatmap_html(ROWS)), strict=True):
        red, green, blue = channels(colour)
        if math.isnan(value):
            assert red == green == blue < 255
        elif value == 0:
            assert colour == "#ffffff"
        else:
            assert (red > green > blue) if value < 0 else (red < green < blue)
        assert contrast(colour) > 4.5


def test_all_rows_share_one_symmetric_scale():
    values = [value for row in ROWS for value in row.values]
    by_value = dict(zip(values, (colour for colour, _ in spans(heatmap_html(ROWS))), strict=True))
    alone = spans(heatmap_html([ROWS[1]]))
    assert alone[0][0] == by_value[-1]  # half of the largest value, as -1 is of 2
    mirrored = [TokenRow("", ["a", "b"], [2, -2])]
    ends = [channels(colour) for colour, _ in spans(heatmap_html(mirrored))]
    assert ends[0] == channels(by_value[2])
    assert "−2 penalised" in heatmap_html(ROWS)
    assert "rewarded +2" in heatmap_html(ROWS)


def test_a_value_shows_as_tooltip_and_nothing_is_fetched():
    page = heatmap_html(ROWS, "Rewards & more")
    for value in ("+0.5", "-1", "+2", "-0.25"):
        assert f'title="{value}"' in page
    assert "<h1>Rewards &amp; more</h1>" in page
    assert not re.search(r"https?:|src=|@import|url\(|<script", page)
    assert "width=device-width" in page


def test_values_that_are_all_zero_or_missing_leave_everything_white():
    page = heatmap_html([TokenRow("", ["a", ""], [0.0, 0.0])])
    assert {colour for colour, _ in spans(page)} == {"#ffffff"}
    assert heatmap_html([]).startswith("<!doctype html>")


CUT = TokenRow("t", ["Yes", "<|im_end|>"], [1.0, -1.0], [False, True], truncated=True)


def test_special_tokens_are_cells_of_their_own_and_a_response_without_end_says_so(tmp_path):
    page = heatmap_html([CUT])
    assert re.findall(r'<b [^>]*class="t"[^>]*>(.*?)</b>', page) == ["&lt;|im_end|&gt;"]
    assert page.count(f"{CUT_OFF}</em>") == 1
    assert CUT_OFF not in heatmap_html(ROWS)
    assert 'class="t"' not in heatmap_html(ROWS)
    heatmap_png([CUT], tmp_path / "cut.png")
    heatmap_png([TokenRow("t", ["Yes", "<|im_end|>"], [1.0, -1.0])], tmp_path / "plain.png")
    cut, plain = picture(tmp_path / "cut.png"), picture(tmp_path / "plain.png")
    assert cut.shape == plain.shape
    assert (cut < 100).sum() > (plain < 100).sum()  # a dark frame, and more words


def test_rows_of_older_files_have_no_special_tokens():
    row = {"prompt": "t", "tokens": ["a", ""], "token_rewards": [0.5, 1.0]}
    assert TokenRow.of(row, "token_rewards") == TokenRow("t", ["a", ""], [0.5, 1.0])
    ended = TokenRow.of(row | {"special": [False, True], "truncated": True}, "token_rewards")
    assert (ended.special, ended.truncated) == ([False, True], True)


def test_a_row_needs_one_value_per_token():
    with pytest.raises(ValueError, match="2 tokens but 1 values"):
        TokenRow("", ["a", "b"], [1.0])


def picture(path) -> np.ndarray:
    import matplotlib.image

    return (matplotlib.image.imread(path)[:, :, :3] * 255).round().astype(int)


def test_the_picture_shows_the_same_colours_and_leaves_no_partial_file(tmp_path):
    heatmap_png([TokenRow("$x$", ["cannot", " $y$", ""], [-1.0, 0.5, 0.0])], tmp_path / "map.png", "Rewards")
    assert [file.name for file in tmp_path.iterdir()] == ["map.png"]
    pixels = picture(tmp_path / "map.png")
    below = pixels[200:].reshape(-1, 3)  # below the scale, which holds every colour
    page = spans(heatmap_html([TokenRow("", ["a", "b"], [-1.0, 0.5])]))
    for colour, _ in page:
        assert (np.abs(below - channels(colour)).max(1) <= 1).sum() > 200


def test_the_picture_grows_by_lines_and_never_by_width(tmp_path):
    sizes = []
    for count in (1, 40, 400):
        heatmap_png([TokenRow("t", [" word"] * count, [0.1] * count)], tmp_path / "map.png")
        sizes.append(picture(tmp_path / "map.png").shape)
    assert len({width for _, width, _ in sizes}) == 1
    lines = [(height - sizes[0][0]) / 36 for height, _, _ in sizes]  # 12 words of 5 characters on a line of 64
    assert lines == pytest.approx([0, 3, 33], abs=0.1)


def test_a_token_longer_than_a_line_and_odd_characters_are_drawn(tmp_path):
    heatmap_png([TokenRow("x " * 300, ["y" * 200, "\t", "\n\n", "北", ""], [1, 2, 3, 4, 5])], tmp_path / "map.png")
    heatmap_png([], tmp_path / "empty.png")
    assert picture(tmp_path / "map.png").shape[0] > picture(tmp_path / "empty.png").shape[0]


def test_rows_of_completions_hold_real_tokens_only(tiny_model):
    renderer, records = Renderer.load(tiny_model), list(islice(WorldPairs(3).records(), 3))
    texts = [record.chosen or "" for record in records]
    prompts = [renderer.prompt_ids(record.prompt) for record in records]
    sequences = stack_sequences(prompts, renderer.responses_ids(texts), renderer.pad_id)
    values = torch.randn(sequences.response_mask.shape)
    completions = Completions(sequences, torch.zeros(3, dtype=torch.bool), records, texts)
    rows = token_rows(completions, values, renderer)
    for i, (row, record) in enumerate(zip(rows, records, strict=True)):
        assert row.title == record.prompt[-1].content
        assert "".join(row.tokens) == texts[i] + renderer.tokenizer.eos_token
        assert row.special == [False] * (len(row.tokens) - 1) + [True]
        assert row.values == values[i, : int(sequences.response_length[i])].tolist()
    assert token_rows(completions, values, renderer, n=2) == rows[:2]


def test_a_notebook_shows_the_page_in_a_frame_of_its_own():
    page = heatmap_html(ROWS)
    frame = page._repr_html_()
    inside = re.fullmatch(r'<iframe srcdoc="([^"]*)"[^>]*></iframe>', frame)
    assert inside is not None
    assert html.unescape(inside[1]) == page
