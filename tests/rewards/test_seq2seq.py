import json

import pytest
import torch
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from lit_rlhf.data.batches import Completions, PairBatch, stack_sequences
from lit_rlhf.data.datamodule import PreferenceDataModule
from lit_rlhf.data.errors import DataError
from lit_rlhf.data.rendering import Renderer, cut_into_tokens
from lit_rlhf.networks.rewriter import Rewriter, correction_marker
from lit_rlhf.networks.states import packs
from lit_rlhf.rewards import ContrastiveReward, Seq2SeqReward, Seq2SeqRewardModule
from lit_rlhf.rewards.seq2seq import hand_on, load_rewriter
from lit_rlhf.world import WorldPairs, tokenizer


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A tiny random T5 with the world's tokenizer."""
    words = tokenizer()
    folder = tmp_path_factory.mktemp("t5") / "model"
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2}
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(words), **sizes, **ends))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["llama", "gpt2", "t5"])
def base(request, write_model, t5):
    return t5 if request.param == "t5" else write_model(request.param)


def pairs(path, size=12, **options):
    data = PreferenceDataModule(WorldPairs(size, seed=4), batch_size=6, **options)
    data.load("pairs", path)
    return data


def rewriter(path):
    renderer = Renderer.load(path)
    return Rewriter(path, correction_marker(renderer, None), renderer.pad_id).eval(), renderer


def step_by_step(network, prompt, answer, target):
    """The likeliest next token and its rival's log-probability, one plain forward pass per target token."""
    found = []
    for t in range(len(target)):
        with torch.no_grad():
            if network.is_encoder_decoder:
                begin = [network.model.config.decoder_start_token_id]
                out = network.model(
                    input_ids=torch.tensor([prompt + answer]), decoder_input_ids=torch.tensor([begin + target[:t]])
                )
            else:
                out = network.model(input_ids=torch.tensor([prompt + answer + network.marker + target[:t]]))
        logprobs = out.logits[0, -1].float().log_softmax(-1)
        found.append((int(logprobs.argmax()), float(logprobs[target[t]])))
    return found


# ---------------------------------------------------------------------- the network


def test_one_pass_over_a_batch_equals_one_token_at_a_time(base):
    network, _ = rewriter(base)
    data = pairs(base)
    rows = data.train_rows[:5]
    asked = stack_sequences([row.prompt for row in rows], [row.rejected for row in rows], 0)
    targets = [row.chosen for row in rows]
    with torch.no_grad():
        written = network(asked, targets)
    for i, row in enumerate(rows):
        expected = step_by_step(network, row.prompt, row.rejected, row.chosen)
        n = len(row.chosen)
        assert written.mask[i].sum() == n
        assert written.target[i, :n].tolist() == row.chosen
        assert written.predicted[i, :n].tolist() == [token for token, _ in expected]
        torch.testing.assert_close(
            written.logprobs[i, :n], torch.tensor([value for _, value in expected]), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_the_prompt_of_both_examples_is_computed_once(write_model, architecture):
    network, _ = rewriter(write_model(architecture))
    batch = next(iter(pairs(write_model(architecture), val_fraction=0).train_dataloader()))
    targets, asked, seen = batch.chosen.response_lists() * 2, batch.rejected.joined(batch.chosen), []
    assert packs(network.model)
    network.model.get_input_embeddings().register_forward_hook(lambda _, ids, states: seen.append(ids[0].numel()))
    network(asked, targets)
    answers = int(asked.response_length.sum()) + sum(map(len, targets)) + len(targets) * len(network.marker)
    rows = zip(batch.chosen.ids.tolist(), batch.chosen.prompt_length.tolist(), strict=True)
    prompts = {tuple(ids[:length]) for ids, length in rows}
    assert seen[-1] == answers + sum(map(len, prompts))


def test_corrections_are_the_likeliest_tokens_until_the_end(base):
    network, renderer = rewriter(base)
    row = pairs(base).train_rows[0]
    asked = stack_sequences([row.prompt], [row.rejected], renderer.pad_id)
    (found,) = network.correct(asked, [renderer.eos_id], 6)
    greedy = []
    while len(greedy) < 6 and renderer.eos_id not in greedy:
        greedy.append(step_by_step(network, row.prompt, row.rejected, [*greedy, 0])[-1][0])
    assert found == greedy


def test_the_marker_opens_another_turn_or_is_what_was_asked_for(tiny_model):
    renderer = Renderer.load(tiny_model)
    marker = correction_marker(renderer, None)
    assert renderer.tokenizer.convert_ids_to_tokens(marker) == ["<assistant>"]
    assert correction_marker(renderer, " calm") == renderer.plain_ids(" calm") != marker
    plain = Renderer.load(tiny_model, "plain")
    assert correction_marker(plain, None) == [plain.eos_id]


# ---------------------------------------------------------------------- the module


def fit(lit, folder, model, *words, **module):
    source = {"class_path": "lit_rlhf.world.WorldPairs", "init_args": {"size": 60, "seed": 4}}
    init = {"model": model, "optimizer": {"lr": 3e-3}, **module}
    options = {
        "model": {"class_path": "Seq2SeqRewardModule", "init_args": init},
        "data": {"sources": source, "val_fraction": 0.2, "batch_size": 8},
        "trainer": {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None, "log_every_n_steps": 1},
        "checkpoint": {"every_n_train_steps": 2},
        "export": {"directory": str(folder / "model")},
    }
    return lit("fit", folder, options, *words)


@pytest.fixture(scope="module")
def trained(lit, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seq2seq")
    return fit(lit, folder, tiny_model), folder


def loaded(path, data, **options):
    module = Seq2SeqRewardModule(path, **options)
    renderer = data.renderer
    module.network = Rewriter(path, correction_marker(renderer, None), renderer.pad_id).eval()
    return module


@pytest.mark.parametrize(("correction", "identity"), [(1.0, 1.0), (2.0, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_the_loss_is_the_weighted_mean_over_target_tokens(tiny_model, correction, identity):
    data = pairs(tiny_model, val_fraction=0)
    weights = {"correction_weight": correction, "identity_weight": identity}
    module = loaded(tiny_model, data, **weights)
    batch = next(iter(data.train_dataloader()))
    total = weight = 0.0
    for good, bad in zip(batch.chosen.response_lists(), batch.rejected.response_lists(), strict=True):
        place = batch.chosen.response_lists().index(good)
        prompt = batch.chosen.ids[place, : batch.chosen.prompt_length[place]].tolist()
        for answer, w in ((bad, correction), (good, identity)):
            total -= w * sum(value for _, value in step_by_step(module.network, prompt, answer, good))
            weight += w * len(good)
    with torch.no_grad():
        assert module.loss(batch).item() == pytest.approx(total / weight, abs=1e-4)


def test_validation_logs_shares_with_intervals_and_writes_corrections(trained):
    cli, folder = trained
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = {name: value for line in lines for name, value in line.items()}
    for name in (
        "accuracy",
        "accuracy_by_matches",
        "accuracy_by_likelihood",
        "copy_rate_rejected",
        "match_rate_chosen",
        "true_accuracy",
    ):
        assert logged[f"val/{name}_low"] <= logged[f"val/{name}"] <= logged[f"val/{name}_high"]
    assert "val/calibration_error" not in logged
    rows = [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2] * 4 + [4] * 4
    assert all(row.keys() == {"step", "prompt", "rejected", "correction", "chosen"} for row in rows)
    rejected = {row.record.rejected for row in cli.datamodule.val_rows}
    assert all(row["rejected"] in rejected for row in rows)


def test_figures_of_validation_equal_a_loop_over_pairs(tiny_model, lit, tmp_path):
    cli = fit(lit, tmp_path, tiny_model)
    module, rows = cli.model.eval(), cli.datamodule.val_rows
    wins, matches, likely, copied, tokens = 0.0, 0.0, 0.0, 0, 0
    for row in rows:
        scores = []
        for answer in (row.chosen, row.rejected):
            steps = step_by_step(module.network, row.prompt, answer, answer)
            same = [token == theirs for (token, _), theirs in zip(steps, answer, strict=True)]
            first = same.index(False) if False in same else len(same)
            reward = (first - sum(not each for each in same[first:])) / len(same)
            scores.append((reward, sum(same) / len(same), sum(value for _, value in steps) / len(steps)))
        copied, tokens = copied + sum(same), tokens + len(same)
        results = [(good > bad) + 0.5 * (good == bad) for good, bad in zip(*scores, strict=True)]
        wins, matches, likely = wins + results[0], matches + results[1], likely + results[2]
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["val/accuracy"] == pytest.approx(wins / len(rows), abs=1e-6)
    assert line["val/accuracy_by_matches"] == pytest.approx(matches / len(rows), abs=1e-6)
    assert line["val/accuracy_by_likelihood"] == pytest.approx(likely / len(rows), abs=1e-6)
    assert line["val/copy_rate_rejected"] == pytest.approx(copied / tokens, abs=1e-6)


def test_training_lowers_the_loss_of_a_batch(tiny_model):
    data = pairs(tiny_model, val_fraction=0)
    module = loaded(tiny_model, data)
    module.network.train()
    batch = next(iter(data.train_dataloader()))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = module.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_pairs_whose_correction_does_not_fit_are_refused_at_the_start(lit, tmp_path, write_model):
    config = AutoModelForCausalLM.from_pretrained(write_model("llama")).config
    config.max_position_embeddings = 70
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "short")
    tokenizer().save_pretrained(tmp_path / "short")
    with pytest.raises(DataError, match=r"70 positions\n.*data\.max_length to 35"):
        fit(lit, tmp_path / "run", str(tmp_path / "short"))


def test_with_adapters_the_export_is_a_plain_model_that_rewrites_alike(lit, tiny_model, tmp_path):
    cli = fit(lit, tmp_path, tiny_model, lora={"r": 2})
    ours = cli.model.network.eval()
    head = ours.model.get_output_embeddings().weight
    assert not head.requires_grad
    data = cli.datamodule
    theirs = load_rewriter(str(tmp_path / "model"), data.renderer)
    asked = next(iter(data.val_dataloader())).rejected
    with torch.no_grad():
        first, second = (network(asked, asked.response_lists()).logprobs for network in (ours, theirs))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)
    assert theirs.marker == ours.marker


# ---------------------------------------------------------------------- the reward


def completions_of(data, rows, truncated=False):
    answers = [row.rejected[:-1] if truncated else row.rejected for row in rows]
    sequences = stack_sequences([row.prompt for row in rows], answers, 0)
    cut = torch.full((len(rows),), truncated)
    return Completions(sequences, cut, [row.record for row in rows], [row.record.rejected for row in rows])


@pytest.fixture(scope="module")
def exported(trained):
    return str(trained[1] / "model")


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize(
    "options", [{"scale": 1.0}, {"positive": 0.5, "negative": -2.0, "normalize": False, "scale": 3.0}]
)
def test_one_pass_equals_the_two_phases_of_the_paper(exported, options, truncated):
    data = pairs(exported)
    reward = Seq2SeqReward(exported, batch_size=5, **options).load(data.renderer, "policy")
    rows = data.train_rows[:8]
    completions = completions_of(data, rows, truncated)
    found = reward(completions)
    s = {"positive": 1.0, "negative": -1.0, "normalize": True, "scale": 1.0, **options}
    for i, (row, answer) in enumerate(zip(rows, completions.sequences.response_lists(), strict=True)):
        # Phase one: let the model write until it says something else. Phase two: feed the rest token by token.
        expected, t = [], 0
        while (
            t < len(answer) and step_by_step(reward.network, row.prompt, answer, [*answer[:t], 0])[-1][0] == answer[t]
        ):
            expected.append(s["positive"])
            t += 1
        for u in range(t, len(answer)):
            likeliest = step_by_step(reward.network, row.prompt, answer, [*answer[:u], 0])[-1][0]
            expected.append(0.0 if likeliest == answer[u] else s["negative"])
        divisor = len(answer) if s["normalize"] else 1
        wanted = s["scale"] * torch.tensor(expected) / divisor
        torch.testing.assert_close(found[i, : len(answer)], wanted)
        assert (found[i, len(answer) :] == 0).all()


def test_extraction_costs_one_pass_and_is_remembered(exported, monkeypatch):
    data = pairs(exported)
    reward = Seq2SeqReward(exported).load(data.renderer, "policy")
    completions = completions_of(data, data.train_rows[:4])
    calls = []
    forward = reward.network.forward
    monkeypatch.setattr(reward.network, "forward", lambda *args: calls.append(1) or forward(*args))
    first = reward(completions)
    assert reward(completions) is first
    assert len(calls) == 1


def test_another_tokenizer_or_a_model_that_does_not_rewrite_is_refused(exported, tiny_model):
    with pytest.raises(DataError, match="not the policy's"):
        Seq2SeqReward(exported).load(Renderer.load(tiny_model, "plain"), "policy")
    with pytest.raises(DataError, match="Seq2SeqRewardModule"):
        Seq2SeqReward(tiny_model).load(Renderer.load(tiny_model), "policy")


def test_without_a_scale_validation_responses_have_unit_spread(exported, trained):
    data = trained[0].datamodule
    reward = Seq2SeqReward(exported).load(data.renderer, "policy")
    answers = [(row, answer) for row in data.val_rows for answer in (row.chosen, row.rejected)]
    sequences = stack_sequences([row.prompt for row, _ in answers], [answer for _, answer in answers], 0)
    records = [row.record for row, _ in answers]
    totals = reward(Completions(sequences, torch.zeros(len(answers), dtype=torch.bool), records, [""] * len(answers)))
    assert totals.sum(1).std(unbiased=False).item() == pytest.approx(1.0, abs=1e-4)


def test_a_padding_token_of_its_own_does_not_make_another_tokenizer(lit, tiny_model, tmp_path):
    """Policies such as GPT-2 and Llama have no padding token, reward models are given one; no text's ids change."""
    words = tokenizer().__class__.from_pretrained(tiny_model)
    words.pad_token = None
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path / "policy")
    words.save_pretrained(tmp_path / "policy")
    policy = Renderer.load(str(tmp_path / "policy"))
    assert policy.tokenizer.pad_token is None
    fit(lit, tmp_path / "rewriter", str(tmp_path / "policy"))
    exported = str(tmp_path / "rewriter" / "model")
    assert Renderer.load(exported).tokenizer.pad_token is not None
    assert Seq2SeqReward(exported).load(policy, "policy").translation is None


@pytest.mark.parametrize("weights", [{"correction_weight": 0.0, "identity_weight": 0.0}, {"identity_weight": -1.0}])
def test_weights_that_teach_nothing_are_refused(tiny_model, weights):
    with pytest.raises(DataError, match="weight"):
        Seq2SeqRewardModule(tiny_model, **weights)


def test_other_settings_have_another_fingerprint(exported):
    renderer = pairs(exported).renderer
    settings = [{"scale": 1.0}, {"positive": 0.0}, {"negative": 0.0}, {"normalize": False}, {"scale": 2.0}]
    prints = {Seq2SeqReward(exported, **each).load(renderer, "policy").fingerprint for each in settings}
    assert len(prints) == len(settings)


def test_ppo_and_baselines_take_token_rewards(lit, exported, tiny_model, tmp_path):
    reward = {"class_path": "Seq2SeqReward", "init_args": {"model": exported}}
    prompts = {"class_path": "lit_rlhf.world.WorldPrompts", "init_args": {"size": 16}}
    data = {"sources": prompts, "val_fraction": 0.0, "batch_size": 8, "max_length": 80}
    store = str(tmp_path / "store")
    sampling = {"max_new_tokens": 8}
    init = {"policy": tiny_model, "reward": reward, "store": store, "k": 2, "sampling": sampling}
    lit("predict", tmp_path / "b", {"model": {"class_path": "BaselineModule", "init_args": init}, "data": data})
    wrapped = {"class_path": "ContrastiveReward", "init_args": {"inner": reward, "store": store}}
    for name, each in {"plain": reward, "contrastive": wrapped}.items():
        init = {"policy": tiny_model, "reward": each, "sampling": sampling, "settings": {"minibatch_size": 4}}
        cli = lit(
            "fit",
            tmp_path / name,
            {
                "model": {"class_path": "PPOModule", "init_args": init},
                "data": {**data, "bucket": 1},
                "trainer": {"max_steps": 2, "log_every_n_steps": 1},
            },
        )
        assert cli.trainer.global_step == 2
    assert isinstance(cli.model.reward, ContrastiveReward)
    line = json.loads((tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["train/first_ratio"] == 1.0
    assert line["train/token_reward_abs"] > 0


def test_flipped_pairs_are_corrected_the_other_way_round(tiny_model):
    data = pairs(tiny_model, val_fraction=0)
    batch = next(iter(data.train_dataloader()))
    module = loaded(tiny_model, data)
    turned = PairBatch(**{**vars(batch), "chosen": batch.rejected, "rejected": batch.chosen})
    with torch.no_grad():
        assert module.loss(batch) != module.loss(turned)


# ---------------------------------------------------------------------- another tokenizer


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A tokenizer of single letters with a chat template of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    signs = [chr(code) for code in range(32, 127)] + ["\n", "<unk>", "<end>"]
    core = Tokenizer(models.WordLevel({sign: place for place, sign in enumerate(signs)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    words = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<end>", pad_token="<end>")
    return Renderer(words, "dialogue")


def test_values_go_to_the_token_in_which_each_ends(letters, tiny_model):
    words = Renderer.load(tiny_model)
    text = next(record.chosen for record in WorldPairs(1).records())
    of_words, of_letters = words.response_ids(text), letters.response_ids(text)
    blank = 1  # what the template writes before an answer is a letter here, and part of the first word's token there
    assert len(of_letters) == blank + len(text) + 1
    values = [float(2**-i) for i in range(len(of_letters))]
    found = hand_on(of_words, words, of_letters, letters, values)
    expected, start = [], 0
    for token in cut_into_tokens(of_words, words)[:-1]:
        stop = start + len(token) + (blank if start == 0 else 0)
        expected.append(sum(values[start:stop]))
        start = stop
    assert found == pytest.approx([*expected, values[-1]])
    back = hand_on(of_letters, letters, of_words, words, found)
    ends = {blank + sum(map(len, cut_into_tokens(of_words, words)[: t + 1])) - 1 for t in range(len(of_words) - 1)}
    assert all((value != 0) == (place in ends or place == len(of_letters) - 1) for place, value in enumerate(back))
    assert hand_on(of_words, words, of_words, words, values) == values[: len(of_words)]


def test_a_rewriter_with_another_template_can_be_asked_through_text(exported, tiny_model):
    data = pairs(exported)
    completions = completions_of(data, data.train_rows[:6])
    own = Seq2SeqReward(exported, retokenise=True).load(data.renderer, "policy")
    through = Seq2SeqReward(exported, retokenise=True).load(Renderer.load(tiny_model, "plain"), "policy")
    assert own.translation is None
    assert through.translation is not None
    # The policy's template differs, its words do not: the very same rewards reach the very same tokens.
    torch.testing.assert_close(through(completions), own(completions))
