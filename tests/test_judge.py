"""The judge on tiny CLIPs with random weights, where each figure is known; and the shipped judge against its card."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    ResNetConfig,
    VisionTextDualEncoderConfig,
)

import animatediff_ref as ar
from animatediff_ref.measure.clip_scores import nearest_centroid, retrieval
from animatediff_ref.mini.judge import MiniCLIP
from recipes.train import judge as recipe

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "data/models/judge"
WORDS = ("red", "green", "cat", "dog")


def tiny_tokenizer() -> CLIPTokenizer:
    pieces, merges = sorted({piece for word in WORDS for piece in (*word, f"{word[-1]}</w>")}), []
    for word in WORDS:  # letters join from the left until the word is one token
        for end in range(1, len(word)):
            merges.append((word[:end], word[end] + "</w>" * (end + 1 == len(word))))
            pieces.append("".join(merges[-1]))
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, model_max_length=6)


@pytest.fixture(scope="module")
def judge() -> ar.Judge:
    torch.manual_seed(0)
    tok = tiny_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "vocab_size": len(tok),
        "max_position_embeddings": 6,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
    }
    config = CLIPConfig(
        text_config={**small, **text}, vision_config={**small, "image_size": 16, "patch_size": 8}, projection_dim=8
    )
    model = CLIPModel(config).eval()
    for weights in (
        model.vision_model.embeddings.patch_embedding.weight,
        model.text_model.embeddings.token_embedding.weight,
    ):
        torch.nn.init.normal_(weights)  # else all pictures, and all texts, look alike to it
    size = {"height": 16, "width": 16}
    return ar.Judge(model, CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tok))


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("at_once", [2, 256])
def test_features_are_the_models_own_at_unit_length(judge, noise, at_once):
    inputs = judge.processor(text=["red cat", "dog", "green"], images=list(noise), padding=True, return_tensors="pt")
    with torch.no_grad():
        both = judge.model(**inputs)
    seen = ar.image_features(judge, noise, at_once)
    said = ar.text_features(judge, ["red cat", "dog", "green"], at_once)
    assert seen.dtype == said.dtype == np.float32
    np.testing.assert_allclose(seen, both.image_embeds.numpy(), atol=1e-6)
    np.testing.assert_allclose(said, both.text_embeds.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-6)


def test_scores_are_mean_cosines_of_the_right_pairs(judge, noise):
    v, (t,) = ar.image_features(judge, noise), ar.text_features(judge, "red cat")
    assert ar.text_alignment(judge, noise, "red cat") == pytest.approx(
        100 * np.mean([cosine(x, t) for x in v]), abs=1e-3
    )
    across = [cosine(x, r) for x in v[:2] for r in v[2:]]
    assert ar.domain_similarity(judge, noise[:2], noise[2:]) == pytest.approx(100 * np.mean(across), abs=1e-3)
    near = [cosine(v[i], v[i + 1]) for i in range(4)]
    assert ar.frame_consistency(judge, noise) == pytest.approx(100 * np.mean(near), abs=1e-3)
    pairs = [cosine(v[i], v[j]) for i in range(5) for j in range(5) if i != j]
    assert ar.frame_consistency(judge, noise, "all") == pytest.approx(100 * np.mean(pairs), abs=1e-3)
    assert np.mean(near) != pytest.approx(np.mean(pairs), abs=1e-4)


def test_a_frozen_clip_is_wholly_consistent(judge, noise):
    frozen = noise[[0] * 4]
    assert ar.frame_consistency(judge, frozen) == pytest.approx(100, abs=1e-3)
    assert ar.domain_similarity(judge, frozen, frozen) == pytest.approx(100, abs=1e-3)
    assert ar.frame_consistency(judge, noise) < 99.9


def test_retrieval_counts_queries_with_a_right_candidate_near_enough():
    candidates = np.eye(4, dtype=np.float32)
    queries = np.array([[1, 0.5, 0.2, 0], [0.5, 1, 0.2, 0], [0.9, 0.8, 0.7, 0]], np.float32)
    right = np.array([0, 0, 2])
    assert [retrieval(queries, candidates, right, top) for top in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    table = np.zeros((3, 4), bool)
    table[0, 3] = table[1, [1, 3]] = table[2, 2] = True
    assert retrieval(queries, candidates, table, 1) == pytest.approx(1 / 3)


def test_the_nearest_centroid_is_by_direction():
    centroids = {"small": np.array([0.1, 0.0]), "large": np.array([3.0, 3.0])}
    assert nearest_centroid(np.array([[1.0, 0.1], [0.6, 0.8]]), centroids) == ["small", "large"]


def test_the_look_runs_from_clean_art_to_footage(judge, noise):
    dark, bright = noise // 8, 255 - noise // 8
    grey = np.full_like(noise, 128)
    centroids = {
        name: ar.image_features(judge, made).mean(0)
        for name, made in {"ink": dark, "flat": grey, "footage": bright}.items()
    }
    assert ar.look_score(judge, bright, centroids) == pytest.approx(1, abs=1e-4)
    clean = np.mean([ar.look_score(judge, made, centroids) for made in (dark, grey)])
    assert clean == pytest.approx(0, abs=1e-4)
    known = ar.Judge(judge.model, judge.processor, centroids)
    assert ar.look_score(known, dark) == ar.look_score(judge, dark, centroids) != pytest.approx(0, abs=1e-3)


def test_a_saved_judge_comes_back_with_its_centroids(judge, noise, tmp_path, monkeypatch):
    place = tmp_path / "models/judge"
    (tmp_path / "models/mini").mkdir(parents=True)
    monkeypatch.setenv("ANIMATEDIFF_REF_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"mini world.s model.safetensors is missing: needed is .*judge.* rebuild it"):
        ar.load_judge()
    judge.model.save_pretrained(place)
    judge.processor.save_pretrained(place)
    np.savez(place / "centroids.npz", ink=np.ones(8, np.float32))
    for name in ("mini", place):
        found = ar.load_judge(name)
        np.testing.assert_allclose(ar.image_features(found, noise), ar.image_features(judge, noise), atol=1e-6)
        np.testing.assert_allclose(ar.text_features(found, "red"), ar.text_features(judge, "red"), atol=1e-6)
        assert found.centroids["ink"].sum() == 8
    (place / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="is not a CLIP that transformers can load"):
        ar.load_judge(place)


def test_the_mini_judge_looks_with_a_resnet(judge, noise, tmp_path):
    torch.manual_seed(1)
    vision = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], hidden_size=16, depths=[1, 1], layer_type="basic")
    text = judge.model.config.text_config
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    model = MiniCLIP(config).eval()
    model.save_pretrained(tmp_path)
    judge.processor.save_pretrained(tmp_path)
    found = ar.load_judge(tmp_path)
    assert isinstance(found.model, MiniCLIP)
    pixels = judge.processor.image_processor(list(noise), return_tensors="pt").pixel_values
    with torch.no_grad():
        pooled = model.vision_model(pixels).pooler_output[..., 0, 0]
        seen = torch.nn.functional.normalize(model.visual_projection(pooled), dim=-1)
    np.testing.assert_allclose(ar.image_features(found, noise), seen.numpy(), atol=1e-6)
    assert ar.text_features(found, ["red cat", "dog"]).shape == (2, 8)


def test_what_does_not_fit_is_refused(judge, noise, tmp_path):
    features = ar.image_features(judge, noise)
    wrong = {
        "no judge at .*absent: give 'mini', a folder": lambda: ar.load_judge(tmp_path / "absent"),
        "a clip is uint8 of shape .*got float64": lambda: ar.image_features(judge, noise / 255),
        "at least one prompt, got none": lambda: ar.text_features(judge, []),
        "at least 2 frames, got 1": lambda: ar.frame_consistency(judge, noise[:1]),
        "'successive' or 'all', got 'some'": lambda: ar.frame_consistency(judge, noise, "some"),
        r"right of shape \(5, 5\) or \(5,\) .* got \(3, 5\)": lambda: retrieval(features, features, np.arange(3)),
        "top=6": lambda: retrieval(features, features, np.arange(5), 6),
        "needs centroids by name": lambda: nearest_centroid(features, {}),
        r"'footage' and of another style, got \['ink'\]": lambda: ar.look_score(judge, noise, {"ink": features[0]}),
    }
    for says, call in wrong.items():
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.skipif(
    not (FOLDER / "card.json").exists(), reason="data/models/judge is not here: recipes/train/judge.py makes it"
)
def test_the_shipped_judge_does_what_its_card_says():
    card, judge, styles = json.loads((FOLDER / "card.json").read_text()), ar.load_judge(), ("noto", "blob", "ink")
    assert card["sha256"]["model.safetensors"] == sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert card["retrieval"]["new_placements"]["text_top5"] >= 0.9
    assert card["look"]["auc"] >= 0.99
    made, about = recipe.some([style for style in styles for _ in range(40)], np.random.default_rng(99), held_out=True)
    seen, said = ar.image_features(judge, made), ar.text_features(judge, recipe.phrases())
    rows = card["retrieval_by_style"]["held_out_pairs"]
    stated = np.mean([rows[style]["text_top5"] for style in styles])
    assert retrieval(seen, said, about[:, 0].numpy()) == pytest.approx(stated, abs=0.1)
