"""Bad files: each gives one clear error that names it, and what is in use stays as it was.

No mutation of a good file loads as another module.
"""

import io
import os
import pickle
import struct

import pytest
import torch
from conftest import lora_for, motion_for, run, tiny_unet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import animatediff_ref as ar


class Code:
    def __reduce__(self):
        return os.system, ("touch /tmp/this-must-not-run",)


def zipped(content) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def state() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in motion_for(tiny_unet()).state_dict().items()}


def changed(change) -> dict[str, torch.Tensor]:
    tensors = state()
    change(tensors)
    return tensors


NORM, PROJ = (f"down_blocks.0.motion_modules.0.temporal_transformer.{end}" for end in ("norm.weight", "proj_in.weight"))
Q = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q.weight"
PE = Q.replace("to_q.weight", "pos_encoder.pe")
BYTES = {
    "empty": (b"", "is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "is a pointer of Git LFS"),
    "text": (b"<!DOCTYPE html><html>Access denied</html>", "is a text file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(200)), "is not a file of weights"),
    "code": (pickle.dumps({"state_dict": Code()}), "such as code, and was not opened"),
    "code, old protocol": (pickle.dumps({"state_dict": Code()}, protocol=2), "such as code, and was not opened"),
    "code, zipped": (zipped({"state_dict": Code()}), "such as code, and was not opened"),
    "header only": (struct.pack("<Q", 10_000) + b'{"a":', "is not a file of weights, or a damaged one"),
}
TENSORS = {
    "NaN": (lambda t: t[Q].view(-1).__setitem__(5, float("nan")), "is damaged: 1 tensors hold NaN .*to_q.weight"),
    "infinite": (lambda t: t[Q].view(-1).__setitem__(5, float("inf")), "is damaged"),
    "a tensor missing": (lambda t: t.pop(Q), "to_q.weight needs shape .*the file has None"),
    "a place missing its norm": (lambda t: t.pop(NORM), "it has no down_blocks.0.motion_modules.0"),
    "a tensor too many": (lambda t: t.update({Q.replace("to_q", "to_z"): torch.zeros(2)}), "it has no .*to_z"),
    "a stranger": (lambda t: t.update({"layer.weight": torch.zeros(2)}), "no motion module has: layer.weight"),
    "wrong width": (
        lambda t: t.update({PROJ: torch.zeros(32, 16)}),
        r"needs shape \(32, 32\), the file has \(32, 16\)",
    ),
    "other positions": (lambda t: t[PE].add_(1.0), "not the sinusoidal table"),
    "32 groups do not fit": (lambda t: None, "norm_groups=32 must divide"),
}


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("what", BYTES)
def test_files_that_are_not_weights(tmp_path, what, suffix):
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(BYTES[what][0])
    motion, unet = motion_for(tiny_unet()), tiny_unet()
    loaders = (
        ar.load_motion_module,
        lambda file: ar.load_motion_lora(motion, file),
        lambda file: ar.load_domain_adapter(unet, file),
    )
    for load in loaders:
        with pytest.raises(ValueError, match=rf"file\.{suffix} .*{BYTES[what][1]}"):
            load(path)
    assert ar.inspect_file(path).kind == "not a model"
    assert not os.path.exists("/tmp/this-must-not-run")


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(tmp_path, suffix, share):
    path = tmp_path / f"file.{suffix}"
    ar.save_motion_module(motion_for(tiny_unet()), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"file\.{suffix} is not a file of weights, or a damaged one"):
        ar.load_motion_module(path)


def test_folders_and_absent_files(tmp_path):
    with pytest.raises(ValueError, match="is a folder, but not a diffusers MotionAdapter"):
        ar.load_motion_module(tmp_path)
    with pytest.raises(ValueError, match=r"there is no file .*absent\.ckpt"):
        ar.load_motion_module(tmp_path / "absent.ckpt")
    torch.save([torch.zeros(2)], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match=r"list\.ckpt holds a list, not tensors by name"):
        ar.load_motion_module(tmp_path / "list.ckpt")


def test_the_folder_of_a_run_stands_for_the_weights_it_leaves(tmp_path):
    motion = motion_for(tiny_unet())
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a run that has not come to its end"):
        ar.load_motion_module(tmp_path)
    ar.save_motion_module(motion, tmp_path / "motion_module.safetensors")
    loaded = ar.load_motion_module(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in motion.state_dict().items())
    assert ar.inspect_file(tmp_path).kind == "motion module"
    ar.save_motion_module(motion, tmp_path / "a_copy.safetensors")
    with pytest.raises(ValueError, match=r"several files of weights: name one of a_copy\.safetensors, motion_module"):
        ar.load_motion_module(tmp_path)


@pytest.mark.parametrize("what", TENSORS)
def test_motion_modules_that_are_wrong(tmp_path, what):
    change, message = TENSORS[what]
    tensors, config = changed(change), ar.MotionConfig(norm_groups=8)
    if "groups" in what:
        tensors, config = ar.MotionModule(config, {"mid_block.motion_modules.0": 24}).state_dict(), None
    torch.save(tensors, tmp_path / "mm.ckpt")
    with pytest.raises(ValueError, match=rf"mm\.ckpt .*{message}"):
        ar.load_motion_module(tmp_path / "mm.ckpt", config)


SAYS = {
    "an unknown field": {"kind": "motion_module", "config": '{"colour": 3}'},
    "a field of another type": {"kind": "motion_module", "config": '{"norm_groups": "8"}'},
    "no groups": {"kind": "motion_module", "config": '{"norm_groups": 0}'},
    "no configuration": {"kind": "motion_module"},
    "no json": {"kind": "motion_module", "config": "{"},
    "json of a list": {"kind": "motion_module", "config": "[]"},
    "a diffusers configuration without heads": {"diffusers": '{"motion_max_seq_length": 32}'},
    "no number": {"num_frames": "lots"},
}


@pytest.mark.parametrize("what", SAYS)
def test_metadata_that_make_no_sense(tmp_path, what):
    save_file(state(), tmp_path / "m.safetensors", SAYS[what])
    with pytest.raises(ValueError, match=r"m\.safetensors has names, shapes or metadata that make no sense"):
        ar.load_motion_module(tmp_path / "m.safetensors")
    assert ar.inspect_file(tmp_path / "m.safetensors").kind == "not a model"


@pytest.mark.parametrize("told", ["{", "[]", '{"r": 0}', '{"lora_alpha": "high"}', '{"alpha_pattern": {"to_q": 2}}'])
def test_metadata_of_loras_that_make_no_sense(tmp_path, told):
    motion = motion_for(tiny_unet())
    tensors = lora_for(motion, tmp_path / "x.safetensors")
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": told})
    with pytest.raises(ValueError, match=r"x\.safetensors holds: damaged LoRA \(.*metadata"):
        ar.load_motion_lora(motion, tmp_path / "x.safetensors")


def test_odd_weights_are_told(tmp_path):
    save_file({name: value.to(torch.float8_e4m3fn) for name, value in state().items()}, tmp_path / "m.safetensors")
    assert ar.inspect_file(tmp_path / "m.safetensors").dtypes == ("float8_e4m3fn",)
    torch.save({**state(), f"unet.{Q}": torch.zeros(32, 32)}, tmp_path / "twice.ckpt")
    with pytest.raises(ValueError, match=r"twice\.ckpt has names.*two tensors are .*to_q\.weight"):
        ar.load_motion_module(tmp_path / "twice.ckpt")


def test_a_v1_file_forced_as_v2(tmp_path):
    torch.save(ar.MotionModule(ar.MotionConfig.v1(), tiny_unet()).state_dict(), tmp_path / "v1.ckpt")
    with pytest.raises(ValueError, match=r"v1\.ckpt is forced as v2, which has a mid block; the file has none"):
        ar.load_motion_module(tmp_path / "v1.ckpt", ar.MotionConfig.v2())
    torch.save(ar.MotionModule(ar.MotionConfig.v2(), tiny_unet()).state_dict(), tmp_path / "v2.ckpt")
    with pytest.raises(ValueError, match=r"v2\.ckpt is forced as v3, which has no mid block; the file has one"):
        ar.load_motion_module(tmp_path / "v2.ckpt", ar.MotionConfig.v3())


def test_each_lora_in_the_others_slot(tmp_path):
    unet, motion = tiny_unet(), motion_for(tiny_unet())
    lora_for(motion, tmp_path / "camera.safetensors")
    lora_for(unet, tmp_path / "look.safetensors")
    ar.save_motion_module(motion, tmp_path / "mm.safetensors")
    before, weights = run(unet), {name: value.clone() for name, value in motion.state_dict().items()}
    said = (
        r"look\.safetensors holds: domain adapter of rank 4; a MotionLoRA is needed. What takes .*: load_domain_adapter"
    )
    with pytest.raises(ValueError, match=said):
        ar.load_motion_lora(motion, tmp_path / "look.safetensors")
    said = (
        r"camera\.safetensors holds: MotionLoRA of rank 4; a domain adapter is needed. What takes .*: load_motion_lora"
    )
    with pytest.raises(ValueError, match=said):
        ar.load_domain_adapter(unet, tmp_path / "camera.safetensors")
    for load in (lambda path: ar.load_motion_lora(motion, path), lambda path: ar.load_domain_adapter(unet, path)):
        with pytest.raises(ValueError, match=r"mm\.safetensors holds: motion module v3; a .* is needed"):
            load(tmp_path / "mm.safetensors")
    with pytest.raises(ValueError, match=r"look\.safetensors holds: domain adapter .*a motion module is needed"):
        ar.load_motion_module(tmp_path / "look.safetensors")
    assert torch.equal(run(unet), before)
    assert motion.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in motion.state_dict().items())


def _without(tensors: dict, part: str) -> dict:
    return {name: value for name, value in tensors.items() if part not in name}


def test_loras_that_are_wrong(tmp_path):
    unet, motion = tiny_unet(), motion_for(tiny_unet())
    camera = lora_for(motion, tmp_path / "camera.safetensors")
    look = lora_for(unet, tmp_path / "look.safetensors")
    first = next(iter(camera))
    wrong = {
        "a factor missing": (
            {k: v for k, v in camera.items() if k != first},
            "needs a down and an up factor, got only up",
        ),
        "a layer missing": (_without(camera, first.rsplit("_lora", 1)[0]), "is incomplete: at down_blocks.0.* lacks"),
        "a place missing": (
            _without(camera, "up_blocks.1.motion_modules.2"),
            "is incomplete: at up_blocks.1.motion_modules.2 it lacks",
        ),
        "ranks that differ": ({**camera, first: camera[first][:2]}, "do not fit"),
        "another width": ({**camera, first: torch.zeros(4, 20)}, r"is \(32, 32\) in the model, \(32, 20\) in the file"),
        "half a file": (_without(camera, "up_blocks"), "is incomplete: it ends with down_blocks.1"),
        "a stranger": ({**camera, "layer.weight": torch.zeros(2)}, "no part of a MotionLoRA: layer.weight"),
        "NaN": ({**camera, first: camera[first] * float("nan")}, "is damaged"),
    }
    for tensors, message in wrong.values():
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=rf"x\.safetensors.*{message}"):
            ar.load_motion_lora(motion, tmp_path / "x.safetensors")
        assert not ar.motion_loras(motion)
        assert "base_layer" not in "".join(motion.state_dict())
    save_file(_without(look, "attn2.processor.to_k"), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"has all attentions, it lacks .*attn2\.to_k"):
        ar.load_domain_adapter(unet, tmp_path / "x.safetensors")
    lora_for(tiny_unet("mini"), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors does not fit: .* in the model"):
        ar.load_domain_adapter(unet, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no domain adapter"):
        ar.set_domain_adapter(unet, 1.0)
    assert "base_layer" not in "".join(unet.state_dict())


# --- properties: a mutated file is refused, or it is the same module ----------------------------------------------

MOTION = motion_for(tiny_unet())
SAME = {name: value.clone() for name, value in MOTION.state_dict().items()}
quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def refused_or_same(path) -> bool:
    """True if the file was refused; fails if it gave another module."""
    try:
        loaded = ar.load_motion_module(path, None if path.suffix == ".safetensors" else MOTION.config)
    except ValueError as error:
        assert path.name in str(error)
        return True
    assert loaded.config == MOTION.config
    assert all(torch.equal(value, SAME[name]) for name, value in loaded.state_dict().items())
    return False


@quick
@given(st.data())
def test_no_mutated_byte_loads_silently_wrong(tmp_path, data):
    path = tmp_path / "m.safetensors"
    ar.save_motion_module(MOTION, path)
    content = bytearray(path.read_bytes())
    near_the_start = data.draw(st.booleans())
    place = data.draw(st.integers(0, (2000 if near_the_start else len(content)) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    refused_or_same(path)


@quick
@given(st.data())
def test_no_mutated_tensor_loads_silently_wrong(tmp_path, data):
    tensors, names = dict(SAME), sorted(SAME)
    name, other = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
    how = data.draw(
        st.sampled_from(["drop", "rename", "transpose", "narrow", "widen", "NaN", "swap", "flatten", "add"])
    )
    value = tensors[name]
    mutated = {
        "drop": {},
        "rename": {name + "x": value},
        "transpose": {name: value.mT if value.ndim > 1 else value},
        "narrow": {name: value[..., :-1]},
        "widen": {name: torch.cat([value, value])},
        "NaN": {name: value * float("nan")},
        "swap": {name: tensors[other], other: value},
        "flatten": {name: value.flatten()},
        "add": {name: value, f"{name}.extra": value},
    }[how]
    del tensors[name]
    torch.save({**tensors, **mutated}, tmp_path / "m.ckpt")
    shapes_agree = all(n in SAME and value.shape == SAME[n].shape for n, value in mutated.items())
    if how in ("transpose", "swap", "flatten") and shapes_agree:
        return  # only a checksum could tell, which the test above is about
    refused = refused_or_same(tmp_path / "m.ckpt")
    assert refused or name.endswith(".pe"), f"{how} {name} was not noticed"


@quick
@given(st.binary(max_size=300))
def test_no_bytes_load(tmp_path, content):
    for suffix in ("ckpt", "safetensors"):
        path = tmp_path / f"m.{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"m.{suffix}"):
            ar.load_motion_module(path)


def test_a_valid_file_is_not_refused(tmp_path):
    ar.save_motion_module(MOTION, tmp_path / "m.safetensors")
    assert not refused_or_same(tmp_path / "m.safetensors")
    torch.save(load_file(tmp_path / "m.safetensors"), tmp_path / "m.ckpt")
    assert not refused_or_same(tmp_path / "m.ckpt")
