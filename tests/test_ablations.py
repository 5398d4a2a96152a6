"""The bench of the ablations: tables that go on where they were, and switches that change what they name."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from conftest import motion_for, run, tiny_unet
from einops import rearrange

import animatediff_ref as ar
from animatediff_ref.method.temporal import TemporalBlock
from animatediff_ref.mini.results import column, verdict
from recipes.ablate import adapter, bench, composing, control, first_steps, methods, motion_lora, motion_module, scores
from recipes.ablate.arms import BASELINE, pipeline
from recipes.ablate.bench import Table, fill
from recipes.ablate.motion_module import ARMS, with_positions
from recipes.train import motion as stages


@pytest.fixture
def table(tmp_path, monkeypatch) -> Table:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(bench, "DATA", tmp_path)
    monkeypatch.setattr(bench, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(bench, "MEASURING", [])
    monkeypatch.setenv("ANIMATEDIFF_REF_DATA", str(tmp_path))
    (tmp_path / "models" / "mini").mkdir(parents=True)
    (weights := tmp_path / "base.safetensors").write_bytes(b"a base")
    cells = [{"arm": arm, "seed": seed} for arm in ("a, b", "c") for seed in (0, 1)]
    asked = []

    def measure(arm: str, seed: int) -> dict[str, float]:
        asked.append((arm, seed))
        return {"score": len(arm) + seed / 3}

    measure.asked = asked
    return Table("table", cells, measure, [weights], {"steps": 5})


def test_rows_come_one_by_one_and_an_interrupted_sweep_goes_on(table):
    def tired(arm: str, seed: int) -> dict[str, float]:
        if arm == "c":
            raise KeyboardInterrupt
        return table.measure(arm, seed)

    with pytest.raises(KeyboardInterrupt):
        fill(table._replace(measure=tired), __file__, "cpu")
    assert len(ar.read_results("table")[0]) == 2
    fill(table, __file__, "cpu")
    assert table.measure.asked == [("a, b", 0), ("a, b", 1), ("c", 0), ("c", 1)]
    rows, card = ar.read_results("table")
    assert [row["score"] for row in rows] == [4, 4.333, 1, 1.333] and rows[1]["arm"] == "a, b"
    assert card["rows"] == 4 and card["budget"] == {"steps": 5} and card["recipe"] == "tests/test_ablations.py"
    fill(table, __file__, "cpu")
    assert len(table.measure.asked) == 4


def test_a_half_written_row_is_taken_out_by_name_and_measured_again(table, capsys):
    fill(table, __file__, "cpu")
    table.path.write_text(table.path.read_text().rstrip("\n").rpartition(",")[0])
    fill(table, __file__, "cpu")
    assert "table.csv: taken out, not finished: c,1\n" in capsys.readouterr().out
    assert len(table.measure.asked) == 5 and len(ar.read_results("table")[0]) == 4


@pytest.mark.parametrize("rows", [1, 3])
def test_a_row_that_the_card_does_not_know_yet_is_measured_again(table, monkeypatch, capsys, rows):
    """Killed between the table and its card; also at the first row, when there is no card."""

    def killed(path, text: str, kept=bench.write_aside) -> None:
        if path == table.path.with_suffix(".json") and len(table.measure.asked) == rows:
            raise KeyboardInterrupt
        kept(path, text)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bench, "write_aside", killed)
        fill(table, __file__, "cpu")
    fill(table, __file__, "cpu")
    assert "taken out, not finished" in capsys.readouterr().out
    assert len(table.measure.asked) == 5 and len(ar.read_results("table")[0]) == 4


def test_a_table_that_someone_has_changed_is_not_gone_on_with(table):
    fill(table, __file__, "cpu")
    table.path.write_text(table.path.read_text().replace("4.333", "9.333"))
    with pytest.raises(ValueError, match=r"is not the table that .*table\.json speaks of"):
        fill(table, __file__, "cpu")
    table.path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"is not the table that .*table\.json speaks of"):
        fill(table, __file__, "cpu")


def test_tables_that_two_machines_have_filled_become_one(table, tmp_path, monkeypatch):
    fill(table._replace(cells=table.cells[:3]), __file__, "cpu")
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "other")
    fill(table._replace(cells=table.cells[2:]), __file__, "cpu")
    mine, other = tmp_path / "results" / "table.csv", table.path
    bench.merge(mine, other)
    bench.merge(mine, other)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    assert len(ar.read_results("table")[0]) == 4
    asked = len(table.measure.asked)
    fill(table, __file__, "cpu")
    assert len(table.measure.asked) == asked == 5
    card = other.with_suffix(".json")
    card.write_text(card.read_text().replace('"steps": 5', '"steps": 6'))
    with pytest.raises(ValueError, match="budget steps was 5, is 6"):
        bench.merge(mine, other)


def test_old_trainings_are_not_measured_under_a_new_card(table):
    fill(table, __file__, "cpu")
    table.path.unlink()
    table.path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"runs.ablate is of something else: budget steps was 5, is 6"):
        fill(table._replace(budget={"steps": 6}), __file__, "cpu")


def test_a_column_is_what_the_rows_that_are_asked_for_say(table):
    fill(table, __file__, "cpu")
    rows, _ = ar.read_results("table")
    assert column(rows, "score", arm="a, b", seed=1).tolist() == [4.333]
    assert column(rows, "score", seed=0).tolist() == [4, 1]
    with pytest.raises(ValueError, match=r"no row says \{'arm': 'd'\}"):
        column(rows, "score", arm="d")


@pytest.mark.parametrize(
    "intervals, side, word",
    [
        ([(2, 1, 3), (3, 1, 4)], 1, "confirmed"),
        ([(2, 1, 3), (3, 1, 4)], -1, "refuted"),
        ([(-2, -3, -1), (-1, -2, -0.1)], -1, "confirmed"),
        ([(-2, -3, -1), (-1, -2, -0.1)], 1, "refuted"),
        ([(2, 1, 3), (0, -1, 1)], 1, "open"),
        ([(2, 1, 3), (-2, -3, -1)], 1, "open"),
        ([(0, 0, 0), (0, 0, 0)], 1, "open"),
        ([(2, 1, 3)], 1, "open"),
        ([], 1, "open"),
    ],
)
def test_a_claim_is_confirmed_or_refuted_only_where_all_seeds_agree(intervals, side, word):
    assert verdict(intervals, side) == word


def test_a_claim_has_a_side():
    with pytest.raises(ValueError, match=r"the side of a claim is \+1 or -1, got 0"):
        verdict([(2, 1, 3)], 0)


CHANGED = {
    "budget": lambda table: table._replace(budget={"steps": 6}),
    "weights": lambda table: table.weights[0].write_bytes(b"another base") and table,
    "code": lambda table: table._replace(cells=[*table.cells, {"arm": "d", "seed": 0}]),
}
SAID = {
    "budget": "budget steps was 5, is 6",
    "weights": r"weights base\.safetensors was \w{16}, is \w{16}",
    "code": r"code was \w{16}, is \w{16}",
}


@pytest.mark.parametrize("what", CHANGED)
def test_rows_of_something_else_are_refused_and_the_difference_is_shown(table, monkeypatch, what):
    fill(table, __file__, "cpu")
    if what == "code":
        monkeypatch.setattr(bench, "ROOMS", [])
    with pytest.raises(ValueError, match=SAID[what]):
        fill(CHANGED[what](table), __file__, "cpu")
    assert len(table.measure.asked) == 4


def test_a_whole_table_outlives_its_code(table, monkeypatch):
    fill(table, __file__, "cpu")
    card = table.path.with_suffix(".json").read_text()
    monkeypatch.setattr(bench, "ROOMS", [])
    fill(table, __file__, "cpu")
    assert len(table.measure.asked) == 4 and table.path.with_suffix(".json").read_text() == card


def test_results_that_are_not_what_their_card_says_are_not_read(table):
    fill(table, __file__, "cpu")
    whole = table.path.read_text()
    table.path.write_text(whole.replace("4.333", "9.333"))
    with pytest.raises(ValueError, match="its card speaks of"):
        ar.read_results("table")
    table.path.write_text(whole)
    table.weights[0].write_bytes(b"another base")
    with pytest.raises(ValueError, match=r"was measured with another base\.safetensors"):
        ar.read_results("table")
    rows, card = ar.read_results("table", earlier=True)
    assert len(rows) == 4 and card["changed"] == ["base.safetensors"]
    with pytest.raises(ValueError, match=r"there is no table 'tible' in .*; there are: table"):
        ar.read_results("tible")


def test_every_arm_differs_from_the_baseline_in_one_thing_that_a_motion_module_or_its_training_has():
    for name, arm in ARMS.items():
        changed = [f.name for f in fields(arm) if getattr(arm, f.name) != getattr(BASELINE, f.name)]
        assert len(changed) == (name != "baseline") and len(arm.settings) <= 1
    unet, made = ar.load_base("mini").unet, {}
    for name, arm in ARMS.items():
        torch.manual_seed(0)
        made[name] = ar.MotionModule(replace(stages.config(), **arm.settings), unet)
    sizes = {name: sum(p.numel() for p in motion.parameters()) for name, motion in made.items()}
    assert set(sizes.values()) == {sizes["baseline"]}, "positions, init and convolutions change no count"
    before, after = made["baseline"].state_dict(), made["ordinary init"].state_dict()
    assert {name.rsplit(".", 2)[-2] for name in before if not torch.equal(before[name], after[name])} == {"proj_out"}


def test_the_schedule_and_the_adapter_of_an_arm():
    plain, other = pipeline(False, "linear", "cpu"), pipeline(True, "scaled_linear", "cpu")
    assert plain.scheduler.config == ar.motion_scheduler().config
    differing = {key for key, value in other.scheduler.config.items() if plain.scheduler.config[key] != value}
    assert differing == {"beta_schedule"}
    with torch.no_grad():
        x, text = torch.randn(2, 4, 16, 16), torch.randn(2, 16, plain.unet.config.cross_attention_dim)
        ar.load_domain_adapter(plain.unet, "mini")
        assert torch.allclose(plain.unet(x, 500, text).sample, other.unet(x, 500, text).sample, atol=1e-4)


def test_positions_at_inference():
    unet = tiny_unet()
    ar.inject(unet, motion := motion_for(unet, num_frames=16), 16)
    found = {}
    for how in ("as trained", "off", "shuffled", "as trained"):
        with_positions(motion, how)
        before, found[how] = found.get(how), run(unet, frames=16, clips=1)
        assert before is None or torch.equal(before, found[how])
    assert (found["off"] - found["as trained"]).abs().max() > 1e-2
    assert (found["shuffled"] - found["as trained"]).abs().max() > 1e-2
    plain = motion_for(unet, num_frames=16, positions=False)
    plain.load_state_dict(motion.state_dict(), strict=False)
    ar.inject(unet, plain, 16)
    assert torch.allclose(run(unet, frames=16, clips=1), found["off"], atol=1e-5)


def test_scores_of_controls_are_what_they_must_be(monkeypatch, tmp_path):
    """A frozen clip changes nothing and agrees with itself; footage has the mark and clean clips do not."""
    monkeypatch.setattr(scores, "RESULTS", tmp_path)
    prompt = next(iter(scores.asks()))
    footage = scores.filmed(prompt)
    still = scores.scored(scores.frozen(footage), prompt, "still")
    assert (still["change"], still["flow"]) == (0, 0) and still["consistency"] == pytest.approx(100, abs=1e-3)
    filmed, mixed = (scores.scored(clip, prompt, "x") for clip in (footage, scores.shuffled(footage)))
    clean = scores.scored(scores.stills(prompt)[[0] * 16], prompt, "clean")
    assert filmed["watermark"] > 0.5 > 0.2 > abs(clean["watermark"]) and filmed["look"] > 0.5 > clean["look"]
    assert clean["domain"] > filmed["domain"]
    for name in ("watermark", "look", "domain", "text"):
        assert mixed[name] == pytest.approx(filmed[name], abs=1e-3), f"{name} is blind to the order of frames"
    assert mixed["flow"] > filmed["flow"]
    assert np.array_equal(ar.read_clip(tmp_path / "clips" / "still-0.mp4").shape, (16, 64, 64, 3))


TABLES = [
    *adapter.tables("cpu"),
    *motion_module.tables("cpu", list(ARMS)),
    *first_steps.tables("cpu"),
    *motion_lora.tables("cpu"),
    *composing.tables("cpu"),
    *methods.tables("cpu"),
    *control.tables("cpu"),
]
EARLIER = {"motion_lora": ["models/mini/motion_module.safetensors"]}  # what tables that ship were not measured with


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_tables_that_ship_have_rows_of_their_sweep_alone(table):
    keys = [tuple(map(str, cell.values())) for cell in table.cells]
    assert len(set(keys)) == len(keys)
    if not table.path.exists():
        pytest.skip("not measured yet")
    rows = bench.finished(table.path)
    found = [tuple(row[name] for name in table.cells[0]) for row in rows]
    assert set(found) <= set(keys) and len(set(found)) == len(found)
    _, card = ar.read_results(table.name, earlier=True)
    assert card["changed"] == EARLIER.get(table.name, [])
    assert card["budget"] == json.loads(json.dumps(table.budget)) and card["rows"] == len(rows)


def test_arms_of_motion_loras_differ_in_rank_or_in_clips_and_fewer_clips_are_among_more():
    largest = (max(motion_lora.RANKS), max(motion_lora.COUNTS))
    assert largest in motion_lora.ARMS and len(set(motion_lora.ARMS)) == len(motion_lora.ARMS) == 5
    assert all((rank == largest[0]) or (clips == largest[1]) for rank, clips in motion_lora.ARMS)
    assert sorted(motion_lora.order()) == list(range(max(motion_lora.COUNTS)))
    assert min(motion_lora.COUNTS) == motion_lora.COMMON


def test_what_is_copied_is_told_from_what_is_not(monkeypatch, clip):
    seen = {motion_lora.LEARNT: clip, motion_lora.UNSEEN: 255 - clip}
    monkeypatch.setattr(motion_lora, "known", lambda kind: ar.image_features(scores.judge(), seen[kind]))
    assert motion_lora.copied(clip) > 1 > -1 > motion_lora.copied(255 - clip)


def test_controls_of_motion_loras_are_things_that_all_arms_or_none_have_learnt_from():
    learnt, unseen = (motion_lora.things(kind) for kind in (motion_lora.LEARNT, motion_lora.UNSEEN))
    fewest = [motion_lora.reference()[i] for i in motion_lora.order()[: min(motion_lora.COUNTS)]]
    assert learnt == fewest and len(unseen) >= motion_lora.COMMON
    assert not [thing for thing in unseen if thing in motion_lora.reference()]
    asked = {prompt.split(", ")[0] for prompt in motion_lora.prompts()}
    assert not asked & {thing["phrase"] for thing in [*learnt, *unseen]}


def test_heads_begin_with_the_frame_they_are_told():
    """Whatever the frames show: six heads look most at a neighbour, and the others at all frames alike."""
    torch.manual_seed(0)
    block = TemporalBlock(ar.MotionConfig(), 48)
    norm, attention = block.norms[0], block.attention_blocks[0]
    before = attention.to_q.weight.clone()
    stages.begin_at(norm, attention, stages.STARTS)
    x = attention.pos_encoder(norm(torch.randn(64, 16, 48)))
    q, k = (rearrange(to(x), "n f (a d) -> n a f d", a=8) for to in (attention.to_q, attention.to_k))
    looks = (q @ k.transpose(-1, -2) / 6**0.5).softmax(-1).mean(0)
    for head, n in enumerate(stages.STARTS):
        rows = slice(6 * head, 6 * head + 6)
        assert (n is None) == torch.equal(attention.to_q.weight[rows], before[rows])
        if n:
            inside = range(1, 15)
            assert all(looks[head, i].argmax() == i + n and looks[head, i, i + n] > 0.5 for i in inside)
        else:
            assert looks[head].max() < 0.2


def test_edges_agree_if_they_lie_at_most_a_pixel_apart():
    clip = np.full((2, 32, 32, 3), 90, np.uint8)
    clip[:, 8:24, 8:24] = 220
    asked = control.edges(clip)
    assert control.agreement(clip, asked) == 1 and control.agreement(np.roll(clip, 1, 2), asked) == 1
    assert 0 < control.agreement(np.roll(clip, 3, 2), asked) < 1
    assert control.agreement(clip, np.zeros_like(asked)) == 0 == control.agreement(np.full_like(clip, 90), asked)


def test_edges_of_another_are_those_of_the_next_prompt():
    every = list(control.asks())
    assert sorted(map(control.after, every)) == sorted(every) and all(control.after(p) != p for p in every)
